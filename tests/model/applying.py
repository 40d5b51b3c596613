"""The steps of a worker: ``MemcachedApplier.apply_batch``, then ``mark_published``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

from .state import (
    DONE,
    LIVE,
    PENDING_ROW,
    State,
    Token,
    Writer,
    fresh,
    put_token,
    sent_late,
)
from .writing import mark

if TYPE_CHECKING:
    from .protocol import Protocol, Step


def steps(protocol: Protocol, state: State, number: int) -> Iterator[Step]:
    """What workers may do with the row of writer ``number``."""
    row = state.writers[number]
    if row.at not in (PENDING_ROW, DONE) or not row.version:
        return

    def settled(after: State, row_after: Writer) -> State:
        rows = state.writers[:number] + (row_after,) + state.writers[number + 1 :]
        return after._replace(writers=rows)

    who = f"worker, row of v{row.version}"
    rules = protocol.rules
    if row.at == PENDING_ROW:
        for tag in row.left:
            left = tuple(other for other in row.left if other != tag)
            applied = _applied(protocol, state, row, tag)
            yield (
                f"{who}: apply tag {tag + 1}, acknowledged",
                settled(applied, row._replace(left=left)),
                None,
            )
        if not row.left or not rules.publish_after_acks:
            published = state._replace(published=max(state.published, row.version))
            kept = row.version if rules.token == "row id" else 1
            done = Writer(row.tags, DONE, (), row.moment, kept)
            yield f"{who}: mark published", settled(published, done), None
    if protocol.faults.duplicate:
        again = "late duplicate" if row.at == DONE else "acknowledgement lost"
        for tag in row.tags:
            applied = _applied(protocol, state, row, tag)
            yield f"{who}: apply tag {tag + 1}, {again}", applied, None
    if protocol.faults.late and rules.token == "random":
        if row.at == PENDING_ROW or protocol.faults.duplicate:
            for tag in row.tags:
                token = _token(protocol, state, row, tag)
                assert token is not None
                sent = sent_late(state, tag, token[2])
                if sent is not state:
                    what = f"{who}: send a token of tag {tag + 1}, and give up"
                    yield what, sent, None


def _applied(protocol: Protocol, state: State, row: Writer, tag: int) -> State:
    return put_token(state, tag, _token(protocol, state, row, tag))


def _token(protocol: Protocol, state: State, row: Writer, tag: int) -> Token | None:
    rules = protocol.rules
    if protocol.strict:
        if rules.apply_is_cold:
            return mark(protocol, state)
        # A token of the applier's, under which one may fill at once.
        return LIVE, fresh(state), state.now - protocol.horizon
    if rules.token == "row id":
        return LIVE, -row.version, 0
    if rules.token == "counter":
        there = state.slots[tag]
        return None if there is None else (LIVE, there[1] - 1, 0)
    if rules.token == "deleted":
        return None
    stamp = state.now if protocol.timed else 0
    if not rules.stamp_after_commit:
        stamp = row.moment
    return LIVE, fresh(state), stamp

"""The steps of a worker: ``MemcachedApplier.apply_batch``, then ``mark_published``."""

from __future__ import annotations

from typing import Any, Iterator

from .protocol import Protocol, Step
from .state import DONE, LIVE, PENDING_ROW, State, Token, Writer, fresh
from .writing import mark


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
            copy = state.sent[tag]
            if copy is not None and copy != state.slots[tag]:
                arrived = state._replace(
                    slots=_put(state.slots, tag, copy), sent=_put(state.sent, tag, None)
                )
                yield f"a copy of the command for tag {tag + 1} arrives", arrived, None


def _applied(protocol: Protocol, state: State, row: Writer, tag: int) -> State:
    token = _token(protocol, state, row, tag)
    sent = state.sent
    if not protocol.rules.never_sent_twice and sent[tag] is None:
        sent = _put(sent, tag, token)
    return state._replace(slots=_put(state.slots, tag, token), sent=sent)


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


def _put(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return items[:index] + (item,) + items[index + 1 :]

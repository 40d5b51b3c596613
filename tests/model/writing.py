"""The steps of a writer: quarantine in strict namespaces, and COMMIT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator

from .state import (
    BEFORE,
    COMMITTING,
    DONE,
    LIVE,
    MARKED,
    MARKING,
    PENDING_ROW,
    State,
    Token,
    Writer,
    fresh,
    put_token,
    sent_late,
)

if TYPE_CHECKING:
    from .protocol import Protocol, Step


def steps(protocol: Protocol, state: State, number: int) -> Iterator[Step]:
    """What writer ``number`` may do next."""
    writer = state.writers[number]
    if writer.at in (PENDING_ROW, DONE):
        return
    for what, after, writer_after in _steps(protocol, state, writer):
        writers = state.writers[:number] + (writer_after,) + state.writers[number + 1 :]
        yield f"writer {number + 1}: {what}", after._replace(writers=writers), None


def _steps(protocol: Protocol, state: State, writer: Writer) -> Iterator[Any]:
    rules = protocol.rules
    if writer.at == BEFORE:
        if protocol.strict and rules.quarantine:
            yield from _mark(protocol, state, writer._replace(left=writer.tags))
        elif not rules.stamp_after_commit:
            yield "write", state, writer._replace(at=MARKED, moment=state.now)
        elif not rules.apply_after_commit:
            yield from _apply_early(protocol, state, writer)
        else:
            yield from _commit(protocol, state, writer)
        return
    if protocol.strict and protocol.faults.rollback:
        gone = Writer(writer.tags, DONE)
        yield "roll back, or die", state, gone
    if writer.at == MARKING:
        yield from _mark(protocol, state, writer)
    elif writer.at == MARKED:
        if not protocol.strict:
            yield from _commit(protocol, state, writer)
        elif not rules.commit_deadline or _in_time(protocol, state, writer):
            yield "send COMMIT", state, writer._replace(at=COMMITTING)
    elif writer.at == COMMITTING:
        # The assumption: COMMIT, once sent, ends within the hold-off.
        free = not rules.commit_deadline or protocol.faults.early_end
        if not protocol.strict or free or _in_time(protocol, state, writer):
            yield from _commit(protocol, state, writer)


def _in_time(protocol: Protocol, state: State, writer: Writer) -> bool:
    return state.now - writer.moment < protocol.hold_off


def _mark(protocol: Protocol, state: State, writer: Writer) -> Iterator[Any]:
    """``quarantine``: the clock runs from before the first mark is sent."""
    moment = state.now if writer.at == BEFORE else writer.moment
    tag, left = writer.left[0], writer.left[1:]
    at = MARKING if left else MARKED
    token = mark(protocol, state)
    if protocol.faults.late:
        sent = sent_late(state, tag, token[2])
        if sent is not state:
            going_on = writer._replace(at=MARKING, moment=moment)
            yield f"quarantine: send a mark of tag {tag + 1}, no answer", sent, going_on
    after = put_token(state, tag, token)
    yield (
        f"quarantine: mark tag {tag + 1}",
        after,
        writer._replace(at=at, left=left, moment=moment),
    )


def mark(protocol: Protocol, state: State) -> Token:
    """What a quarantine stores."""
    # One that is not cold is as good as old.
    age = 0 if protocol.rules.mark_is_cold else protocol.horizon
    return LIVE, fresh(state), state.now - age


def _commit(protocol: Protocol, state: State, writer: Writer) -> Iterator[Any]:
    version = state.committed + 1
    after = state._replace(committed=version)
    if not protocol.rules.apply_after_commit:
        published = max(state.published, version)
        gone = Writer(writer.tags, DONE, version=version)
        yield f"COMMIT v{version}", after._replace(published=published), gone
        return
    moment = 0 if protocol.rules.stamp_after_commit else writer.moment
    row = Writer(writer.tags, PENDING_ROW, writer.tags, moment, version)
    yield f"COMMIT v{version}", after, row


def _apply_early(protocol: Protocol, state: State, writer: Writer) -> Iterator[Any]:
    for tag in writer.tags:
        state = put_token(state, tag, (LIVE, fresh(state), state.now))
    yield "apply", state, writer._replace(at=COMMITTING)

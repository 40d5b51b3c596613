"""What happens to a node, and the passing of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

from .state import LATER, LIVE, State, fresh, put_token

if TYPE_CHECKING:
    from .protocol import Protocol, Step


def steps(protocol: Protocol, state: State) -> Iterator[Step]:
    """What may befall the store now."""
    if protocol.timed:
        yield "a tick passes", tick(state), None
    if protocol.faults.evict:
        if state.entry is not None:
            yield "the entry is evicted", state._replace(entry=None), None
        for index, token in enumerate(state.slots):
            if token is not None:
                yield f"the token of tag {index + 1} is evicted", put_token(
                    state, index, None
                ), None
    if protocol.faults.restart and (state.entry is not None or any(state.slots)):
        nothing = (None,) * len(state.slots)
        empty = state._replace(entry=None, slots=nothing, late=nothing, fills=())
        yield "the node restarts, empty", empty, None
    if protocol.late_writes:
        names = tuple(token and token[1] for token in state.slots)
        for version in state.fills:
            filled = state._replace(entry=(version, names))
            yield f"a late fill of v{version} arrives", filled, None
        if state.entry is not None:
            yield "a late delete of the entry arrives", state._replace(entry=None), None
    yield from _arrivals(state)


def _arrivals(state: State) -> Iterator[Step]:
    for index, token in enumerate(state.slots):
        stamp = state.late[index]
        if token is not None and stamp is not None:
            new = (LIVE, fresh(state), stamp)
            what = f"a late token arrives at tag {index + 1}"
            yield what, put_token(state, index, new), None
            if token[2] == LATER:
                # A reader's, which stamps the placeholder that is there.
                stamped = (LIVE, token[1], stamp)
                what = f"a late stamp arrives at tag {index + 1}"
                yield what, put_token(state, index, stamped), None
        copy = state.sent[index]
        if token is None and copy is not None:
            sent = state.sent[:index] + (None,) + state.sent[index + 1 :]
            arrived = put_token(state, index, copy)._replace(sent=sent)
            what = f"a copy of the placeholder for tag {index + 1} arrives"
            yield what, arrived, None


def tick(state: State) -> State:
    """A tick later."""
    return state._replace(now=state.now + 1)

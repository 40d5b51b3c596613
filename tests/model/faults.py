"""What happens to a node, and the passing of time."""

from __future__ import annotations

from typing import Iterator

from .protocol import Protocol, Step
from .state import State


def steps(protocol: Protocol, state: State) -> Iterator[Step]:
    """What may befall the store now."""
    if protocol.timed:
        yield "a tick passes", tick(state), None
    if protocol.faults.evict:
        if state.entry is not None:
            yield "the entry is evicted", state._replace(entry=None), None
        for index, token in enumerate(state.slots):
            if token is not None:
                slots = state.slots[:index] + (None,) + state.slots[index + 1 :]
                yield f"the token of tag {index + 1} is evicted", state._replace(
                    slots=slots
                ), None
    if protocol.faults.restart and (state.entry is not None or any(state.slots)):
        empty = state._replace(entry=None, slots=(None,) * len(state.slots))
        yield "the node restarts, empty", empty, None


def tick(state: State) -> State:
    """A tick later."""
    return state._replace(now=state.now + 1)

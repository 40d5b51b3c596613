"""Walk over every state that can be reached, the nearest first.

Breadth first, so that the trace of what is found is a shortest one. Of each state only
its canonical form is kept; a trace is played again from the start, with the names that
its actors really have.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Hashable, Iterable, Optional, Protocol

#: States of a walk that are remembered by the names that they were reached with.
RECENT = 200_000


class Model(Protocol):
    """What can be walked over."""

    def initial(self) -> Any: ...

    def steps(self, state: Any) -> Iterable[tuple[str, Any, Optional[str]]]: ...

    def broken(self, state: Any) -> Optional[str]: ...

    def canonical(self, state: Any) -> Hashable: ...

    def describe(self, state: Any) -> str: ...


@dataclass(frozen=True)
class Walk:
    """What came of a walk.

    :ivar states: different states that were reached.
    :ivar steps: steps that were taken between them.
    :ivar exhausted: whether no state was left.
    :ivar found: the promise that was broken, None if none was.
    :ivar trace: the steps to it, each with the state after it.
    """

    states: int
    steps: int
    exhausted: bool
    found: str | None = None
    trace: tuple[tuple[str, str], ...] = ()


def walk(model: Model, *, limit: int = 1_500_000) -> Walk:
    """Walk over all states of ``model``, until one breaks a promise.

    :param limit: states after which it is given up, not exhausted.
    """
    start = model.canonical(model.initial())
    parents: dict[Hashable, Hashable | None] = {start: None}
    ahead = deque([start])
    # Parts of states are alike more often than not: kept once.
    parts: dict[Any, Any] = {}
    # By the names that they were reached with: most steps lead to what was reached a
    # moment ago by the same steps in another order.
    recent: set[Any] = set()
    taken = 0
    canonical, broken, steps = model.canonical, model.broken, model.steps
    while ahead:
        state = ahead.popleft()
        for _, after, complaint in steps(state):
            taken += 1
            if complaint is None:
                if after in recent:
                    continue
                recent.add(after)
            after = canonical(after)
            known = after in parents
            if not known:
                after = type(after)(*(parts.setdefault(part, part) for part in after))
                parents[after] = state
                complaint = complaint or broken(after)
            if complaint is not None:
                trace = _replayed(model, _path(parents, state), after, complaint)
                return Walk(len(parents), taken, False, complaint, trace)
            if not known:
                ahead.append(after)
        if len(parents) > limit:
            return Walk(len(parents), taken, False)
        if len(recent) > RECENT:
            recent.clear()
    return Walk(len(parents), taken, True)


def _path(parents: dict[Any, Any], state: Any) -> list[Any]:
    path = [state]
    while parents[path[-1]] is not None:
        path.append(parents[path[-1]])
    return path[::-1]


def _replayed(
    model: Model, path: list[Any], last: Any, complaint: str
) -> tuple[tuple[str, str], ...]:
    """The steps from the start along ``path`` to ``last``, with their real names."""
    state = model.initial()
    trace = []
    for wanted in path[1:]:
        for what, after, _ in model.steps(state):
            if model.canonical(after) == wanted:
                break
        else:
            raise AssertionError("the path cannot be walked: is canonical() unsound?")
        trace.append((what, model.describe(after)))
        state = after
    for what, after, said in model.steps(state):
        if model.canonical(after) == last and complaint in (said, model.broken(after)):
            trace.append((what, model.describe(after)))
            return tuple(trace)
    raise AssertionError("the last step cannot be walked: is canonical() unsound?")

"""One scenario of the token protocol: its sizes, and who may do what in a state.

What a step is named says where it is in the code: ``look_up``, ``with_missing``, the
``reservation`` and the ``fill`` of ``TaggedCache``; ``apply_batch`` of
``MemcachedApplier`` and ``mark_published`` of the outbox; ``quarantine`` and COMMIT.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Iterator, Optional, Tuple

from . import applying, faults, promises, reading, symmetry, writing
from .rules import Faults, Rules
from .state import LATER, Reader, State, Writer

#: What was done by whom, the state after it, and the promise that it broke.
Step = Tuple[str, State, Optional[str]]


@dataclass(frozen=True)
class Protocol:
    """Readers, writers and workers of one key that rests on ``tags`` tags.

    Each of ``readers`` reads again and again; each writer commits once. There are as
    many workers as there are rows.

    :ivar writers: for each the numbers of the tags that it invalidates.
    :ivar strict: a strict namespace, with a hold-off of ``hold_off`` ticks.
    :ivar one_by_one: a read sees entry and tokens at different moments, in any order,
        as it does when they are on different nodes.
    :ivar snapshots: readers may read in a snapshot that they began earlier.
    :ivar own_writes: ... in whose transaction they may have written.
    :ivar refresh: a hit may be loaded again, early.
    :ivar flights: readers may join another's load.
    :ivar late_writes: fills and deletes of the entry arrive at any later moment, and
        fills any number of times.
    :ivar skew: ticks by which clocks differ.
    """

    rules: Rules = field(default_factory=Rules)
    faults: Faults = field(default_factory=Faults)
    readers: int = 2
    writers: tuple[tuple[int, ...], ...] = ((0,), (0,))
    tags: int = 1
    strict: bool = False
    one_by_one: bool = False
    snapshots: bool = False
    own_writes: bool = False
    refresh: bool = False
    flights: bool = False
    late_writes: bool = False
    hold_off: int = 2
    skew: int = 1

    def without(self, **rules: object) -> Protocol:
        """The same with rules taken away, or changed."""
        return replace(self, rules=replace(self.rules, **rules))  # type: ignore

    @cached_property
    def timed(self) -> bool:
        """Whether moments matter."""
        return self.strict or self.snapshots

    @cached_property
    def horizon(self) -> int:
        """Ticks from which on two moments are merely apart: no rule looks further."""
        ordered = 0 if self.rules.guard_skew else self.skew
        return max(self.hold_off if self.strict else 0, 1 + ordered)

    def initial(self) -> State:
        """Nothing is cached, version 0 is in the database."""
        nothing = (None,) * self.tags
        return State(
            now=1,
            committed=0,
            published=0,
            entry=None,
            slots=nothing,
            sent=nothing,
            late=nothing,
            fills=(),
            readers=(Reader(),) * self.readers,
            writers=tuple(sorted(Writer(tags) for tags in self.writers)),
        )

    def steps(self, state: State) -> Iterator[Step]:
        """Everything that may happen next."""
        for number in range(self.readers):
            yield from reading.steps(self, state, number)
        for number in range(len(state.writers)):
            yield from writing.steps(self, state, number)
            yield from applying.steps(self, state, number)
        yield from faults.steps(self, state)

    def broken(self, state: State) -> str | None:
        """The promise that ``state`` breaks by itself: see ``promises``."""
        return promises.broken(self, state)

    def canonical(self, state: State) -> State:
        """The one state that stands for all that differ in names only."""
        return symmetry.canonical(self, state)

    def describe(self, state: State) -> str:
        """What is in the store and in the database, for a trace."""
        tokens = " ".join(
            "-" if token is None else _shown(token) for token in state.slots
        )
        entry = "-"
        if state.entry is not None:
            names = ",".join(_name(name) for name in state.entry[1])
            entry = f"v{state.entry[0]} under {names}"
        clock = f"  clock {state.now}" if self.timed else ""
        return (
            f"database v{state.committed}  published v{state.published}"
            f"  tokens {tokens}  entry {entry}{clock}"
        )


def _shown(token: tuple[str, int, int]) -> str:
    if token[2] == LATER:
        return f"{_name(token[1])}, a placeholder,"
    return _name(token[1]) + (f" of {token[2]}" if token[2] else "")


def _name(name: int | None) -> str:
    if name is None:
        return "none"
    return f"t{name}" if name > 0 else f"#{-name}"

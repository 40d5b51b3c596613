"""Changing the server list: two rings, and who uses which while the change is on.

A ring is a store of its own here, since its id is part of every key. The change goes
there (A to B) and back again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, NamedTuple, Optional

A, B = 0, 1

#: In order: the rings that readers may use, those that old and new appliers apply to.
#: An applier of either kind may be at work in a phase.
PHASES: tuple[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], ...] = (
    ((A,), ((A,),)),
    ((A,), ((A,), (A, B))),
    ((A,), ((A, B),)),
    ((A, B), ((A, B),)),
    ((B,), ((A, B),)),
    ((B,), ((A, B), (B,))),
    ((B,), ((B,),)),
)

BACK = tuple(
    (
        tuple(1 - ring for ring in readers),
        tuple(tuple(1 - ring for ring in applier) for applier in appliers),
    )
    for readers, appliers in PHASES[1:]
)


class Rings(NamedTuple):
    """Everything, at one moment: see ``state.State``.

    :ivar stores: entry and token of each ring.
    :ivar readers: where each is, its ring, the token it has read, and its version.
    :ivar rows: for each commit the rings that have acknowledged and those that its
        worker's applier applies to; None once it is published.
    """

    phase: int
    committed: int
    published: int
    stores: tuple[tuple[Optional[tuple[int, int]], Optional[int]], ...]
    readers: tuple[tuple[str, int, int, int], ...]
    rows: tuple[Optional[tuple[tuple[int, ...], tuple[int, ...]]], ...]


IDLE = ("idle", 0, 0, 0)


@dataclass(frozen=True)
class RingChange:
    """Readers, writers and workers during a change of rings.

    :ivar apply_to_both: during the change an apply goes to both rings, and the row is
        published after both.
    :ivar appliers_first: every applier does so before the first reader uses the new
        ring, and until the last one has left the old one.
    :ivar new_id: on going back the ring gets a new id, and so finds nothing.
    """

    apply_to_both: bool = True
    appliers_first: bool = True
    new_id: bool = True
    readers: int = 1
    writers: int = 2

    @property
    def phases(self) -> Any:
        phases = PHASES + BACK
        if not self.apply_to_both:
            only = {(A, B): (B,), (B, A): (A,)}
            return tuple(
                (readers, tuple(only.get(applier, applier) for applier in appliers))
                for readers, appliers in phases
            )
        if not self.appliers_first:
            # All processes are restarted in any order, whatever runs in them.
            return (
                PHASES[0],
                ((A, B), ((A,), (A, B))),
                ((B,), ((A, B), (B,))),
                PHASES[-1],
            )
        return phases

    def initial(self) -> Rings:
        return Rings(0, 0, 0, ((None, None),) * 2, (IDLE,) * self.readers, ())

    def steps(self, state: Rings) -> Iterator[tuple[str, Rings, str | None]]:
        phases = self.phases
        if state.phase + 1 < len(phases):
            stores = state.stores
            readers, _ = phases[state.phase]
            coming = set(phases[state.phase + 1][0]) - set(readers)
            if state.phase >= len(PHASES) and self.new_id and A in coming:
                # Its id is another one this time.
                stores = ((None, None), stores[B])
            after = state._replace(phase=state.phase + 1, stores=stores)
            yield "the change of rings goes on", after, None
        allowed, appliers = phases[state.phase]
        for number, reader in enumerate(state.readers):
            for what, after, reader_after in self._read(state, reader, allowed):
                readers_after = (
                    state.readers[:number]
                    + (reader_after,)
                    + state.readers[number + 1 :]
                )
                yield f"reader {number + 1}: {what}", after._replace(
                    readers=readers_after
                ), None
        if state.committed < self.writers:
            version = state.committed + 1
            rows = state.rows + (((), ()),)
            yield f"a writer: COMMIT v{version}", state._replace(
                committed=version, rows=rows
            ), None
        for number, row in enumerate(state.rows):
            if row is not None:
                yield from self._carry(state, number, row, appliers)

    def _read(self, state: Rings, reader: Any, allowed: Any) -> Iterator[Any]:
        at, ring, token, version = reader
        if at == "idle":
            for ring in allowed:
                entry, there = state.stores[ring]
                if entry is not None and entry[1] == there:
                    continue
                if there is None:
                    there = self._fresh(state)
                stores = _put(state.stores, ring, (entry, there))
                missed = ("reserved", ring, there, 0)
                yield f"look up on ring {'AB'[ring]}: miss", state._replace(
                    stores=stores
                ), missed
        elif at == "reserved":
            loaded = ("loaded", ring, token, state.committed)
            yield f"load v{state.committed}", state, loaded
        else:
            _, there = state.stores[ring]
            stores = _put(state.stores, ring, ((version, token), there))
            filled = state._replace(stores=stores)
            yield f"fill v{version} on ring {'AB'[ring]}", filled, IDLE

    def _carry(
        self, state: Rings, number: int, row: Any, appliers: Any
    ) -> Iterator[tuple[str, Rings, str | None]]:
        acknowledged, rings = row
        who = f"worker, row of v{number + 1}"
        if not rings:
            for applier in appliers:
                names = " and ".join("AB"[ring] for ring in applier)
                claimed = _put(state.rows, number, ((), applier))
                yield f"{who}: claim, to apply to {names}", state._replace(
                    rows=claimed
                ), None
            return
        for ring in rings:
            if ring in acknowledged:
                continue
            entry, _ = state.stores[ring]
            stores = _put(state.stores, ring, (entry, self._fresh(state)))
            rows = _put(
                state.rows, number, (tuple(sorted((*acknowledged, ring))), rings)
            )
            yield f"{who}: apply on ring {'AB'[ring]}", state._replace(
                stores=stores, rows=rows
            ), None
        if set(acknowledged) == set(rings):
            # A claim outlives no phase: an old process ends what it has begun.
            published = max(state.published, number + 1)
            yield f"{who}: mark published", state._replace(
                rows=_put(state.rows, number, None), published=published
            ), None

    @staticmethod
    def _fresh(state: Rings) -> int:
        names = [0]
        for entry, token in state.stores:
            names += [token or 0, 0 if entry is None else entry[1]]
        return max(names + [token for _, _, token, _ in state.readers]) + 1

    def broken(self, state: Rings) -> str | None:
        allowed, _ = self.phases[state.phase]
        for ring in allowed:
            entry, token = state.stores[ring]
            if entry is not None and entry[1] == token:
                if entry[0] < state.published:
                    return (
                        f"P3: v{entry[0]} is served on ring {'AB'[ring]},"
                        f" v{state.published} is published"
                    )
        return None

    def canonical(self, state: Rings) -> Rings:
        names: dict[Optional[int], Optional[int]] = {None: None, 0: 0}

        def renamed(name: Any) -> Any:
            return names.setdefault(name, len(names) - 1)

        stores = []
        for entry, token in state.stores:
            token = renamed(token)
            if entry is not None:
                entry = entry[0], renamed(entry[1])
            stores.append((entry, token))
        readers = tuple(
            (at, ring, renamed(token), version)
            for at, ring, token, version in sorted(state.readers)
        )
        return state._replace(stores=tuple(stores), readers=readers)

    def describe(self, state: Rings) -> str:
        rings = []
        for name, (entry, token) in zip("AB", state.stores):
            shown = "-" if entry is None else f"v{entry[0]} under t{entry[1]}"
            rings.append(f"{name}: token {f't{token}' if token else '-'} entry {shown}")
        return (
            f"database v{state.committed}  published v{state.published}  "
            + "  ".join(rings)
        )


def _put(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return items[:index] + (item,) + items[index + 1 :]

"""Caching without tokens: an entry that is deleted, or marked, when it is stale.

The same readers, writers, workers and faults as in the protocol, on one slot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterator, NamedTuple, Optional

from .rules import Faults

#: What the slot may hold beside None: a value, or a tombstone that says "deleted".
VALUE, TOMBSTONE = "value", "tombstone"


class Slots(NamedTuple):
    """Everything, at one moment.

    :ivar slot: None, or kind, version, and the CAS name it got when it was stored.
    :ivar readers: for each where it is, what it saw in the slot, its version, and its
        snapshot's version or None.
    :ivar rows: for each commit whether its row is published.
    """

    committed: int
    published: int
    slot: Optional[tuple[str, int, int]]
    readers: tuple[tuple[str, Any, int, Optional[int]], ...]
    rows: tuple[bool, ...]


IDLE = ("idle", None, 0, None)


@dataclass(frozen=True)
class OlderWay:
    """Cache-aside on one key.

    :ivar applies: "delete", or "tombstone" (IdentityCache).
    :ivar fills: "set", "add" (only where nothing is), or "cas" (only over what was
        seen: nothing by ``add``, a tombstone by ``cas``).
    """

    applies: str
    fills: str
    faults: Faults = field(default_factory=Faults)
    readers: int = 2
    writers: int = 2
    snapshots: bool = False

    def initial(self) -> Slots:
        return Slots(0, 0, None, (IDLE,) * self.readers, ())

    def steps(self, state: Slots) -> Iterator[tuple[str, Slots, str | None]]:
        for number, reader in enumerate(state.readers):
            for what, after, reader_after in self._read(state, reader):
                readers = (
                    state.readers[:number]
                    + (reader_after,)
                    + state.readers[number + 1 :]
                )
                yield f"reader {number + 1}: {what}", after._replace(
                    readers=readers
                ), None
        if state.committed < self.writers:
            version = state.committed + 1
            rows = state.rows + (False,)
            yield f"a writer: COMMIT v{version}", state._replace(
                committed=version, rows=rows
            ), None
        for number, published in enumerate(state.rows):
            version = number + 1
            applied = state._replace(slot=self._applied(state))
            if not published:
                rows = state.rows[:number] + (True,) + state.rows[number + 1 :]
                yield (
                    f"worker, row of v{version}: {self.applies}, mark published",
                    applied._replace(
                        rows=rows, published=max(state.published, version)
                    ),
                    None,
                )
            if self.faults.duplicate:
                yield (
                    f"worker, row of v{version}: {self.applies} again, or late",
                    applied,
                    None,
                )
        if self.faults.evict and state.slot is not None:
            yield "the entry is evicted", state._replace(slot=None), None
        if self.faults.restart and state.slot is not None:
            yield "the node restarts, empty", state._replace(slot=None), None

    def _read(self, state: Slots, reader: Any) -> Iterator[tuple[str, Slots, Any]]:
        at, seen, version, snapshot = reader
        if at == "idle":
            if self.snapshots and snapshot is None:
                begun = ("idle", None, 0, state.committed)
                yield f"begin a snapshot of v{state.committed}", state, begun
            if snapshot is not None:
                yield "end the transaction", state, IDLE
            if state.slot is None or state.slot[0] == TOMBSTONE:
                yield "get: miss", state, ("missed", state.slot, 0, snapshot)
        elif at == "missed":
            version = state.committed if snapshot is None else snapshot
            yield f"load v{version}", state, ("loaded", seen, version, snapshot)
        else:
            done = ("idle", None, 0, snapshot)
            slot = state.slot
            if self.fills == "add" and slot is not None:
                yield "add: not stored", state, done
            elif self.fills == "cas" and slot != seen:
                yield "cas: not stored", state, done
            else:
                value = (VALUE, version, self._name(state))
                yield f"{self.fills} v{version}", state._replace(slot=value), done

    def _applied(self, state: Slots) -> Any:
        if self.applies == "delete":
            return None
        return TOMBSTONE, 0, self._name(state)

    @staticmethod
    def _name(state: Slots) -> int:
        names = [0 if state.slot is None else state.slot[2]]
        names += [seen[2] for _, seen, _, _ in state.readers if seen is not None]
        return max(names) + 1

    def broken(self, state: Slots) -> str | None:
        slot = state.slot
        if slot is not None and slot[0] == VALUE and slot[1] < state.published:
            return f"P3: v{slot[1]} is served, v{state.published} is published"
        return None

    def canonical(self, state: Slots) -> Slots:
        names = {0: 0}

        def renamed(slot: Any) -> Any:
            if slot is None:
                return None
            return slot[0], slot[1], names.setdefault(slot[2], len(names))

        slot = renamed(state.slot)
        alike = sorted(state.readers, key=lambda reader: repr(reader))
        readers = tuple(
            (at, renamed(seen), version, snapshot)
            for at, seen, version, snapshot in alike
        )
        return state._replace(slot=slot, readers=readers)

    def describe(self, state: Slots) -> str:
        slot = "-"
        if state.slot is not None:
            slot = TOMBSTONE if state.slot[0] == TOMBSTONE else f"v{state.slot[1]}"
        return (
            f"database v{state.committed}  published v{state.published}  entry {slot}"
        )

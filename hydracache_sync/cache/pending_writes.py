"""What this thread is writing and has not committed, so that its reads go round it.

A transaction that has written sees its own rows, and nobody else does until it commits.
What it would store could be rolled back, and what it finds is what it has just changed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Dict, Iterable, Iterator, List, Sequence, Set, Tuple

from hydracache_sync.cache.keyspace import Address, Keyspace
from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.keys import KIND_ENDING

#: Process and thread, or greenlet. A fork copies what the parent's threads had open.
_Writer = Tuple[int, int]


class PendingWrites:
    """The batches of open transactions; each thread has its own.

    Not a ``threading.local``: see ``hydracache_sync.fork``.
    """

    def __init__(self) -> None:
        #: Of all threads. Empty most of the time, and no read looks further then.
        self.open: Dict[_Writer, Tuple[_OpenBatch, ...]] = {}

    @property
    def any(self) -> bool:
        """Whether this thread has one open."""
        return _this_one() in self.open

    @contextlib.contextmanager
    def of(self, batch: InvalidationIntentBatch) -> Iterator[None]:
        """Hold ``batch`` open; what is added to it meanwhile counts."""
        writer = _this_one()
        opened = _OpenBatch(batch)
        self.open[writer] = self.open.get(writer, ()) + (opened,)
        try:
            yield
        finally:
            rest = tuple(each for each in self.open.pop(writer) if each is not opened)
            if rest:
                self.open[writer] = rest

    def affects(self, key: str, tags: Sequence[str]) -> bool:
        """Return whether a pending write invalidates an entry of ``key``, ``tags``."""
        return any(each.affects(key, tags) for each in self._mine())

    def addresses(self, keyspace: Keyspace) -> List[Set[Address]]:
        """Return where the tokens are that pending writes replace, of each batch."""
        return [each.addresses(keyspace) for each in self._mine()]

    def _mine(self) -> Tuple[_OpenBatch, ...]:
        return self.open.get(_this_one(), ()) if self.open else ()


class _OpenBatch:
    """One batch, and what has been added to it so far: nothing is taken out of it."""

    __slots__ = ("_batch", "_known", "_targets", "_placed", "_addresses")

    def __init__(self, batch: InvalidationIntentBatch) -> None:
        self._batch = batch
        #: How many of its intents are in the one set, and in the other.
        self._known = self._placed = 0
        self._targets = Targets()
        self._addresses: Set[Address] = set()

    def affects(self, key: str, tags: Sequence[str]) -> bool:
        if len(self._batch) > self._known:
            added = self._batch.from_index(self._known)
            self._targets.add(added)
            self._known += len(added)
        return self._targets.affect(key, tags)

    def addresses(self, keyspace: Keyspace) -> Set[Address]:
        # By themselves: an address is a digest, and most blocks store nothing.
        if len(self._batch) > self._placed:
            added = self._batch.from_index(self._placed)
            for intent in added:
                address = keyspace.target(*intent.to_cache_invalidation())
                self._addresses.add(address)
            self._placed += len(added)
        return self._addresses


class Targets:
    """What some intents invalidate. However many they are, a read asks two sets.

    Not for several threads.
    """

    __slots__ = ("_flush", "_keys", "_tags", "_kinds")

    def __init__(self, intents: Iterable[InvalidationIntent] = ()) -> None:
        self._flush = False
        self._keys: Set[str] = set()
        self._tags: Set[str] = set()
        self._kinds: Tuple[str, ...] = ()
        self.add(intents)

    def add(self, intents: Iterable[InvalidationIntent]) -> None:
        for intent in intents:
            kind, value = intent.to_cache_invalidation()
            if value is None:
                self._flush = True
            elif kind == "key":
                self._keys.add(value)
            else:
                self._tags.add(value)
                if value.endswith(KIND_ENDING):
                    self._kinds += (value[: -len(KIND_ENDING)] + ":",)

    def affect(self, key: str, tags: Iterable[str]) -> bool:
        """Tell whether one of them invalidates an entry of ``key`` with ``tags``."""
        if self._flush or key in self._keys or not self._tags.isdisjoint(tags):
            return True
        return bool(self._kinds) and any(tag.startswith(self._kinds) for tag in tags)


def _this_one() -> _Writer:
    return os.getpid(), threading.get_ident()

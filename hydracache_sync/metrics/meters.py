"""What measures the reads of a cache and the inserts of an outbox, for ``readings``.

A meter of reads stands where a tracer does, see ``cache/tracer.py``: so a cache that is
not measured pays nothing.
"""

from __future__ import annotations

from itertools import cycle
from time import perf_counter
from typing import Any, Callable, Iterable, Sequence

from hydracache_sync.cache.entries import FillDecision, Found, Lookup
from hydracache_sync.cache.lifetime import Lifetime
from hydracache_sync.cache.load_lock import LoadLock
from hydracache_sync.fork import ProcessLock
from hydracache_sync.keys import Identity

#: Of so many reads one is measured, and counts for all of them: to note each takes
#: some 2 us, a tenth of a hit from memcached.
READS_FOR_ONE = 64


class ReadMeter:
    """Measures one cache, as a :class:`~hydracache_sync.cache.tracer.CacheTracer`.

    :ivar read: bytes of the entries that were found, as the store has them: an estimate
        from one read in ``READS_FOR_ONE``.
    :ivar stored: bytes of the entries that were to be stored.
    :ivar took: called with the seconds of a read, of one in ``READS_FOR_ONE``.
    """

    def __init__(self) -> None:
        self.read = 0
        self.stored = 0
        self.took: Callable[[float], object] = lambda seconds: None
        #: Whether a read is one of the others. In C: each read asks.
        self._is_other = cycle([False, *[True] * (READS_FOR_ONE - 1)]).__next__
        self._lock = ProcessLock()

    def find(
        self, plain: Callable[..., Found], key: Identity, tags: Iterable[Identity]
    ) -> Found:
        if self._is_other():
            return plain(key, tags)
        began = perf_counter()
        found = plain(key, tags)
        self._measured(perf_counter() - began, len(found[2] or b""))
        return found

    def look_up_many(
        self,
        plain: Callable[..., list[Lookup]],
        wanted: Sequence[tuple[Identity, Iterable[Identity]]],
    ) -> list[Lookup]:
        if self._is_other():
            return plain(wanted)
        began = perf_counter()
        found = plain(wanted)
        seconds = perf_counter() - began
        self._measured(seconds, sum(len(lookup.entry or b"") for lookup in found))
        return found

    def fill(
        self,
        plain: Callable[..., bool],
        packed: Sequence[tuple[FillDecision, bytes]],
        lifetime: Lifetime,
        lock: LoadLock | None = None,
    ) -> bool:
        with self._lock.mine():
            self.stored += sum(
                len(entry) for decision, entry in packed if decision.refused is None
            )
        return plain(packed, lifetime, lock)

    def delete(self, plain: Callable[..., bool], key: Identity) -> bool:
        return plain(key)

    def loader(
        self,
        plain: Callable[..., Callable[[], Any]],
        key: Any,
        tags: Sequence[str],
        loader: Callable[[], Any],
    ) -> Callable[[], Any]:
        return plain(key, tags, loader)

    def _measured(self, seconds: float, size: int) -> None:
        with self._lock.mine():
            self.read += size * READS_FOR_ONE
        self.took(seconds)


class InsertMeter:
    """Counts the rows that an outbox inserts in this process, of one namespace.

    :ivar enqueued: rows.
    """

    def __init__(self, namespace: str) -> None:
        self.enqueued = 0
        self._namespace = namespace
        self._lock = ProcessLock()

    def note(self, inserted: tuple[str, int]) -> None:
        namespace, rows = inserted
        if namespace == self._namespace:
            with self._lock.mine():
                self.enqueued += rows

"""What measures the reads of a cache and the inserts of an outbox, for ``readings``."""

from __future__ import annotations

from typing import Callable

from hydracache_sync.cache.diagnostics import READS_FOR_ONE
from hydracache_sync.fork import ProcessLock


class ReadMeter:
    """Measures one cache, as a :class:`~hydracache_sync.cache.diagnostics.CacheMeter`.

    :ivar read: bytes of the entries that were found, as the store has them: an estimate
        from one read in ``READS_FOR_ONE``.
    :ivar stored: bytes of the entries that were to be stored.
    :ivar took: called with the seconds of a read, of one in ``READS_FOR_ONE``.
    """

    def __init__(self) -> None:
        self.read = 0
        self.stored = 0
        self.took: Callable[[float], object] = lambda seconds: None
        self._lock = ProcessLock()

    def note_read(self, seconds: float, size: int) -> None:
        with self._lock.mine():
            self.read += size * READS_FOR_ONE
        self.took(seconds)

    def note_stored(self, size: int) -> None:
        with self._lock.mine():
            self.stored += size


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

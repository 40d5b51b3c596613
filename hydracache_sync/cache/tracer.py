"""What a cache calls in place of its own reads and writes where it is traced.

Each method does what ``plain`` does, by calling it once with the arguments behind it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Iterable, Protocol, Sequence

from hydracache_sync.cache.entries import Entries, FillDecision, Found, Lookup
from hydracache_sync.cache.lifetime import Lifetime
from hydracache_sync.cache.load_lock import LoadLock
from hydracache_sync.keys import Identity


class CacheTracer(Protocol):
    """Opens spans. Never raises but what the plain call raises."""

    def find(
        self, plain: Callable[..., Found], key: Identity, tags: Iterable[Identity]
    ) -> Found:
        """Read one entry."""

    def look_up_many(
        self,
        plain: Callable[..., list[Lookup]],
        wanted: Sequence[tuple[Identity, Iterable[Identity]]],
    ) -> list[Lookup]:
        """Read several entries."""

    def fill(
        self,
        plain: Callable[..., bool],
        packed: Sequence[tuple[FillDecision, bytes]],
        lifetime: Lifetime,
        lock: LoadLock | None = None,
    ) -> bool:
        """Store entries."""

    def delete(self, plain: Callable[..., bool], key: Identity) -> bool:
        """Remove one entry."""

    def loader(
        self,
        plain: Callable[..., Callable[[], Any]],
        key: Any,
        tags: Sequence[str],
        loader: Callable[[], Any],
    ) -> Callable[[], Any]:
        """Return the loader to call in place of ``loader``."""


def trace_entries(entries: Entries, tracer: CacheTracer) -> None:
    """Have ``tracer`` called in place of reads, fills and removals from now on."""
    # Over the methods, so that nothing is asked where nothing is traced.
    vars(entries).update(
        find=partial(tracer.find, entries.find),
        look_up_many=partial(tracer.look_up_many, entries.look_up_many),
        fill=partial(tracer.fill, entries.fill),
        delete=partial(tracer.delete, entries.delete),
    )

"""Cached reads of a request, which are never older than its own writes.

What it has written and nobody has published is not looked for in the cache; what it
loads before its commit is not stored. Keeps no state: the request does.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Callable, Iterable, Protocol, Sequence, TypeVar

from hydracache_sync.app import open_transactions
from hydracache_sync.app.request_state import EnqueuedBatch, RequestState
from hydracache_sync.app.request_writes import RequestWrites
from hydracache_sync.app.runtime import Runtime
from hydracache_sync.cache.not_stored import NotToBeStored, value_of
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.keys import Identity, identity_text, identity_texts

T = TypeVar("T")


class RequestCalls(Protocol):
    """What is asked of an extension for the request that is being served."""

    @property
    def cache(self) -> TaggedCache: ...

    @property
    def runtime(self) -> Runtime: ...

    def collected_if_any(self) -> RequestState | None: ...

    def request_writes(self) -> RequestWrites | None: ...

    def earlier_are_published(self) -> bool: ...


def reads_own_writes(app: RequestCalls) -> bool:
    """As ``Extension.reads_own_writes``."""
    if _has_uncommitted(app):
        return False
    collected = app.collected_if_any()
    if collected is not None:
        if collected:
            return False
        if not all(_is_readable(app, collected, each) for each in collected.written):
            return False
    return app.earlier_are_published()


def get_or_load(
    app: RequestCalls,
    key: Identity,
    loader: Callable[[], T],
    *,
    tags: Iterable[Identity],
    ttl: float | None,
    soft_ttl: float | None,
    anew: bool = False,
) -> T:
    """As ``Extension.get_or_load``; as ``Extension.refresh`` if it is to load anew."""
    if open_transactions.writing():
        # They may have more to collect at their flush, and what a statement without
        # objects has changed nobody knows.
        return _past_cache(app, loader)
    collected, has_written = app.collected_if_any(), _has_written(app)
    if has_written and (collected is None or not collected.may_be_uncommitted):
        # What it has changed will be collected right before the commit.
        return _past_cache(app, loader)
    if collected is not None and not isinstance(tags, (str, bytes)):
        key, tags = identity_text("key", key), identity_texts("tag", tags)
        if _is_writing(app, collected, key, tags):
            return _past_cache(app, loader)
    if not app.earlier_are_published():
        return _past_cache(app, loader)

    writes = app.request_writes()
    reads = app.runtime.replica_reads
    checking = writes is not None and writes.checks_loads

    def load() -> T:
        before = open_transactions.statements()
        # What it loads by the plain cache in its turn is looked at by nobody.
        with writes.checking(False) if writes and checking else nullcontext():
            value = loader()
        if not has_written and _has_uncommitted(app):
            raise NotToBeStored(value)
        if checking and open_transactions.statements() == before:
            # It has read elsewhere, where the request may have written, too.
            raise NotToBeStored(value)
        if reads is not None and not reads.keep_promise():
            raise NotToBeStored(value)
        return value

    read = app.cache.refresh if anew else app.cache.get_or_load
    with writes.checking() if writes and checking else nullcontext(), (
        nullcontext() if reads is None else reads.load()
    ):
        return read(key, load, tags=tags, ttl=ttl, soft_ttl=soft_ttl)


def _past_cache(app: RequestCalls, loader: Callable[[], T]) -> T:
    """Load, and raise where the value is of a type that could not be stored.

    A page that works while nothing may be stored must not fail when it may.
    """
    value = value_of(loader)
    app.cache.check_value(value)
    return value


def _has_uncommitted(app: RequestCalls) -> bool:
    """Whether a transaction of the request has changes that may be rolled back."""
    return open_transactions.writing() or _has_written(app)


def _has_written(app: RequestCalls) -> bool:
    """Whether one of the connections that the request is known to have, has."""
    writes = app.request_writes()
    return writes is not None and bool(writes.has_written())


def _is_writing(
    app: RequestCalls, collected: RequestState, key: str, tags: Sequence[str]
) -> bool:
    """Whether an entry may lack what this request has written, or show it early."""
    if collected.targets.affect(key, tags):
        return True
    return any(
        each.targets.affect(key, tags) and not _is_readable(app, collected, each)
        for each in collected.written
    )


def _is_readable(
    app: RequestCalls, collected: RequestState, written: EnqueuedBatch
) -> bool:
    """Whether every cached read shows it; asks the outbox once in a request."""
    if written.readable:
        return True
    if collected.past_cache:
        return False
    if not app.runtime.look(written):
        # Not asked again at each read of the request: wait() and publish() mend it.
        collected.past_cache = True
    return written.published

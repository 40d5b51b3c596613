"""Cached reads of a request, which are never older than its own writes.

What it has written and nobody has published is not looked for in the cache; what it
loads before its commit is not stored. Keeps no state: the request does.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any, Callable, Iterable, Mapping, Protocol, Sequence, TypeVar

from hydracache_sync.app import open_transactions
from hydracache_sync.app.request_state import EnqueuedBatch, RequestState
from hydracache_sync.app.request_writes import RequestWrites
from hydracache_sync.app.runtime import Runtime
from hydracache_sync.cache.codecs.codec import MISS
from hydracache_sync.cache.read_memo import ReadMemo
from hydracache_sync.cache.tagged import (
    Stale,
    TaggedCache,
    TagsOfKeys,
    check_loaded,
    tags_by_key,
)
from hydracache_sync.cache.unstorable import NotToBeStored, value_of, withhold
from hydracache_sync.keys import Identity, identity_text, identity_texts

T = TypeVar("T")
K = TypeVar("K", bound=Identity)
R = TypeVar("R")


class RequestCalls(Protocol):
    """What is asked of an extension for the request that is being served."""

    @property
    def cache(self) -> TaggedCache: ...

    @property
    def runtime(self) -> Runtime: ...

    def collected_if_any(self) -> RequestState | None: ...

    def request_writes(self) -> RequestWrites | None: ...

    def request_memo(self) -> ReadMemo | None: ...

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
    stale_on_error: Callable[[Stale], T] | None = None,
    again: bool = False,
) -> T:
    """As ``Extension.get_or_load``; as ``Extension.refresh`` if it is to load again."""
    try:
        if not isinstance(tags, (str, bytes)):
            tags = tuple(tags)
        memo = None if again else app.request_memo()
        if memo is not None and memo.reader is not None:
            value: T = memo.reader(key, tags)
            if value is not MISS:
                return value
        has_written = _has_written(app)
        if _goes_past_cache(app, has_written, [(key, tags)]):
            return _past_cache(app, loader)
        if memo is not None and memo.reader is None:
            memo.begin(_memo_reader(app.cache, memo, app.request_writes()))
        read: Callable[..., T]
        if again:
            read = partial(app.cache.refresh, key)
        else:
            read = partial(app.cache.get_or_load, key, stale_on_error=stale_on_error)
        read = partial(read, tags=tags, ttl=ttl, soft_ttl=soft_ttl)
        value = _read(app, has_written, read, loader)
        return value
    finally:
        # The loader of a later read of the request may return it.
        open_transactions.note_read()


def get_many_or_load(
    app: RequestCalls,
    keys: Iterable[K],
    loader: Callable[[list[K]], Mapping[K, T]],
    *,
    tags: TagsOfKeys,
    ttl: float | None,
) -> dict[K, T]:
    """As ``Extension.get_many_or_load``."""
    try:
        if not isinstance(keys, (str, bytes)):
            keys = list(dict.fromkeys(keys))
        tags_of = tags_by_key(tags)
        has_written = _has_written(app)
        names = ((key, tags_of(key)) for key in keys)
        if not _goes_past_cache(app, has_written, names):
            read = partial(app.cache.get_many_or_load, keys, tags=tags_of, ttl=ttl)
            return _read(app, has_written, read, loader)
        wanted = list(keys)
        loaded = value_of(lambda: loader(wanted)) if wanted else {}
        check_loaded(wanted, loaded)
        found = {key: loaded[key] for key in wanted if key in loaded}
        for value in found.values():
            app.cache.check_value(value)
        _withhold_if_uncommitted(app)
        return found
    finally:
        open_transactions.note_read()


def _goes_past_cache(
    app: RequestCalls,
    has_written: bool,
    names: Iterable[tuple[Identity, Iterable[Identity]]],
) -> bool:
    """Whether entries of these keys and tags may lack what the visitor has written."""
    if open_transactions.writing():
        # They may have more to collect at their flush, and what a statement without
        # objects has changed nobody knows.
        return True
    collected = app.collected_if_any()
    if has_written and (collected is None or not collected.may_be_uncommitted):
        # What it has changed will be collected right before the commit.
        return True
    if collected is not None:
        for key, tags in names:
            if isinstance(tags, (str, bytes)):
                continue  # refused by the cache
            texts = identity_text("key", key), identity_texts("tag", tags)
            if _is_writing(app, collected, *texts):
                return True
    return not app.earlier_are_published()


def _read(
    app: RequestCalls,
    has_written: bool,
    read: Callable[[Callable[..., T]], R],
    loader: Callable[..., T],
) -> R:
    """Call ``read`` with a loader that looks at where ``loader`` reads."""
    writes = app.request_writes()
    reads = app.runtime.replica_reads
    checking = writes is not None and writes.checks_loads

    def load(*wanted: Any) -> T:
        before = open_transactions.statements()
        # What it loads by the plain cache in its turn is looked at by nobody.
        with writes.checking(False) if writes and checking else nullcontext():
            value = loader(*wanted)
        if not has_written and _has_uncommitted(app):
            raise _withheld(value)
        if checking and open_transactions.statements() == before:
            # It has read elsewhere, where the request may have written, too.
            raise _withheld(value)
        if reads is not None and not reads.keep_promise():
            raise _withheld(value)
        return value

    with writes.checking() if writes and checking else nullcontext(), (
        nullcontext() if reads is None else reads.load()
    ):
        return read(load)


def _withheld(value: Any) -> NotToBeStored:
    """Return what a loader raises for a value that no other load may show, either."""
    withhold()
    return NotToBeStored(value)


def _memo_reader(
    cache: TaggedCache, memo: ReadMemo, writes: RequestWrites | None
) -> Callable[[Identity, Iterable[Identity]], Any]:
    """Return what reads from the memo of a request whose earlier writes are published.

    Only hits come this way, and each at a small part of what a read costs.
    """

    def read(key: Identity, tags: Iterable[Identity]) -> Any:
        if open_transactions.writing() or (writes and writes.has_written()):
            return MISS
        return cache.read_again(memo, key, tags)

    return read


def _past_cache(app: RequestCalls, loader: Callable[[], T]) -> T:
    """Load, and raise where the value is of a type that could not be stored.

    A page that works while nothing may be stored must not fail when it may.
    """
    value = value_of(loader)
    app.cache.check_value(value)
    _withhold_if_uncommitted(app)
    return value


def _withhold_if_uncommitted(app: RequestCalls) -> None:
    """Keep a value that was just loaded out of those that are made of it."""
    collected = app.collected_if_any()
    if _has_uncommitted(app) or (collected and collected.may_be_uncommitted):
        withhold()


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
        # Not asked again at each read of the request: wait() and publish() correct it.
        collected.past_cache = True
    return written.published

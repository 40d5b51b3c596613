"""The reads of cached functions that an invalidation concerns, for a verifier.

A function says the key and the tags of a call, but not which calls an intent concerns.
So calls are guessed from the intent: without arguments, and with what its key, its tag
or its entity names; one is taken if its key or tags are what the intent invalidates. A
guess that the app never calls is not in the cache, and a miss.
"""

from __future__ import annotations

import ast
from typing import Any, Iterator
from urllib.parse import unquote
from uuid import UUID

from hydracache_sync.cache.functions.decorator import CachedFunction, cached_functions
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.intents import CacheInvalidation, InvalidationIntent
from hydracache_sync.printable import printable_logger
from hydracache_sync.verify_report import CachedRead

logger = printable_logger(__name__)


class DecoratedReads:
    """Names the reads of the cached functions of this process. For one thread.

    Functions of one argument, or of none, are found by their tags; those of several
    only by a default key.

    :param cache: of the namespace that the functions are cached in.
    """

    def __init__(self, cache: TaggedCache) -> None:
        self._cache = cache
        #: Functions that were seen to inherit no tags.
        self._plain: set[CachedFunction[Any]] = set()
        self._said = False

    def __call__(self, intent: InvalidationIntent) -> Iterator[CachedRead]:
        """Yield a read for each call that ``intent`` concerns, as far as is known."""
        target = intent.to_cache_invalidation()
        guesses = list(_guesses(target))
        for function in cached_functions():
            if not self._is_here(function):
                continue
            for arguments in guesses:
                read = self._read(function, arguments, target)
                if read is not None:
                    yield read

    def _is_here(self, function: CachedFunction[Any]) -> bool:
        try:
            return function.namespace == self._cache.namespace
        except Exception as exc:
            # Of an app, and outside of its context. Others are still verified.
            if not self._said:
                self._said = True
                logger.warning(
                    "%r is not verified: %s. Run the verifier in its app's context",
                    function,
                    exc,
                )
            return False

    def _read(
        self,
        function: CachedFunction[Any],
        arguments: tuple[Any, ...],
        target: CacheInvalidation,
    ) -> CachedRead | None:
        try:
            key, tags = function.key(*arguments), function.tags(*arguments)
            if target.kind != "flush" and target.value not in (
                (key,) if target.kind == "key" else tags
            ):
                return None
            if function not in self._plain:
                function.load(*arguments)
                found = function.tags(*arguments)
                if found == tags:
                    self._plain.add(function)
                tags = found
        except Exception:
            # The app's code, with arguments that it may never get.
            logger.debug("%r takes no %r", function, arguments, exc_info=True)
            return None
        return CachedRead(key, lambda: function.load(*arguments), tags)


def _guesses(target: CacheInvalidation) -> Iterator[tuple[Any, ...]]:
    """Yield arguments that a call may have had that ``target`` concerns."""
    yield ()
    if target.value is None:
        return
    before, bracket, call = target.value.partition("(")
    if bracket and target.kind == "key":
        try:
            found = ast.literal_eval(f"({call[:-1]},)")
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None  # a key of the app's own, or a date, say
        if isinstance(found, tuple):
            yield found
    texts = [target.value, target.value.rpartition(":")[2]]
    for text in dict.fromkeys(map(unquote, texts)):
        yield (text,)
        for kind in (int, UUID):
            try:
                yield (kind(text),)
            except ValueError:
                pass  # no such number

"""Functions whose results are cached by their arguments.

The key is the caller's, or made of the function's name and its arguments: see
``call_keys``. The tags are the function's own and those of the cached functions that it
calls: see ``inherited_tags``.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from typing import (
    Any,
    Callable,
    ContextManager,
    Generic,
    Iterable,
    Protocol,
    Sequence,
    TypeVar,
)

from hydracache_sync.cache.functions.call_keys import default_key
from hydracache_sync.cache.functions.inherited_tags import InheritedTags
from hydracache_sync.cache.functions.own_keys import own_key
from hydracache_sync.cache.lifetime import check_lifetime
from hydracache_sync.cache.tag_sets import several
from hydracache_sync.cache.unstorable import NotToBeStored, value_of
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.keys import Identity, identity_texts
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

T = TypeVar("T")


class Reads(Protocol):
    """The signature of ``get_or_load`` and ``refresh``."""

    def __call__(
        self,
        key: Identity,
        loader: Callable[[], T],
        *,
        tags: Iterable[Identity],
        ttl: float | None,
        soft_ttl: float | None,
    ) -> T: ...


class ReadsThrough(Protocol):
    """What a decorated function reads through: a cache, or an app's calls."""

    @property
    def get_or_load(self) -> Reads: ...

    @property
    def refresh(self) -> Reads: ...

    @property
    def namespace(self) -> str: ...


#: Make a key, or tags, from the arguments of a call.
KeyOf = Callable[..., Identity]
TagsOf = Callable[..., Iterable[Identity]]


#: The cached functions of this process, for ``hydracache verify``.
_functions: weakref.WeakSet[CachedFunction[Any]] = weakref.WeakSet()


def cached_functions() -> list[CachedFunction[Any]]:
    """Return the cached functions of this process, in no order."""
    return list(_functions)


class CachedFunction(Generic[T]):
    """A function with a cache in front of it; made by ``cached`` of a cache or an app.

    A function in a class becomes a method as it would without. Its ``self`` is an
    argument like others, so that it needs ``key=``, or a ``cache_key`` attribute that
    is text and tells its objects apart, and a class that is found by its name.

    :ivar uncached: the function itself.
    """

    def __init__(
        self,
        cache: ReadsThrough,
        function: Callable[..., T],
        *,
        key: KeyOf | None,
        tags: Iterable[Identity] | TagsOf,
        ttl: float | None,
        soft_ttl: float | None,
        inherit_tags: bool,
        invalidate: Callable[[InvalidationIntent], None] | None = None,
        noted_reads: Callable[[], ContextManager[Sequence[str]]] | None = None,
    ) -> None:
        if isinstance(function, (staticmethod, classmethod)):
            raise TypeError(
                f"put @{type(function).__name__} above @cached, not under it"
            )
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(
            function
        ):
            raise TypeError(f"{function.__qualname__} is a coroutine: nothing to cache")
        if inspect.isgeneratorfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator: return a list")
        refuse_memory(function)
        # An app's cache is not made yet, so that its own check would come with a call.
        check_lifetime(ttl, soft_ttl)
        functools.update_wrapper(self, function)
        self._key: Callable[..., str] = (
            default_key(cache, function)
            if key is None
            else own_key(cache, function, key)
        )
        # Checked here where they are the same for each call.
        self._tags: TagsOf | tuple[str, ...] = (
            tags if callable(tags) else identity_texts("tag", several(tags))
        )
        self._get_or_load: Callable[..., T] = functools.partial(
            cache.get_or_load, ttl=ttl, soft_ttl=soft_ttl
        )
        self._refresh: Callable[..., T] = functools.partial(
            cache.refresh, ttl=ttl, soft_ttl=soft_ttl
        )
        self._inherited = InheritedTags(
            getattr(function, "__qualname__", repr(function)), inherits=inherit_tags
        )
        self._invalidate = invalidate
        # A key of the caller's may have what the function reads.
        self._noted_reads = noted_reads if key is None else None
        self._reads_said = False
        self._cache = cache
        self.uncached = function
        _functions.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        return self._read(self._get_or_load, args, kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundCachedFunction(self, instance)

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key that a call with these arguments has, as text."""
        return self._key(*args, **kwargs)

    def tags(self, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """The tags that a call with these arguments has, as texts.

        With those that it has inherited, as far as this process has met them.
        """
        own = self._own_tags(args, kwargs)
        inherited = self._inherited.known(self.key(*args, **kwargs))
        return own + tuple(sorted(inherited))

    def intent(self, *args: Any, **kwargs: Any) -> InvalidationIntent:
        """What invalidates the result of a call with these arguments; for a batch.

        Not what other cached functions make of it: for that there are tags.
        """
        self._inherited.key_is_invalidated()
        return InvalidationIntent.key(self._key(*args, **kwargs))

    def invalidate(self, *args: Any, **kwargs: Any) -> None:
        """Collect the :meth:`intent` of these arguments, as ``hydracache.invalidate``.

        :raises TypeError: the function is cached by a cache alone, which writes to no
            outbox: give the intent to a batch.
        """
        intent = self.intent(*args, **kwargs)
        if self._invalidate is None:
            raise TypeError(
                f"{self!r} belongs to no app, so that there is nothing to collect what"
                " it invalidates: give its intent(...) to a batch"
            )
        self._invalidate(intent)

    def refresh(self, *args: Any, **kwargs: Any) -> T:
        """Call the function, whatever is cached; store its result and return it.

        Called twice where it meets other tags than this process knows of: without
        them its result cannot be stored. It invalidates nothing: what else shows the
        same data stays.
        """
        key = self.key(*args, **kwargs)
        known = self._inherited.known(key)
        value = self._read(self._refresh, args, kwargs)
        if self._inherited.known(key) != known:
            # A shell or a job that only refreshes would never store anything.
            value = self._read(self._refresh, args, kwargs)
        return value

    @property
    def namespace(self) -> str:
        """Of the cache that its results are in.

        :raises RuntimeError: the app that it belongs to is not known here.
        """
        return self._cache.namespace

    def load(self, *args: Any, **kwargs: Any) -> T:
        """Call the function past the cache, and learn the tags that it inherits."""

        def read(key: str, loader: Callable[[], T], *, tags: object) -> T:
            return value_of(loader)

        return self._read(read, args, kwargs)

    def _own_tags(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, ...]:
        tags = self._tags
        if isinstance(tags, tuple):
            return tags
        return identity_texts("tag", several(tags(*args, **kwargs)))

    def _read(
        self, read: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        return self._inherited.read(
            self._key(*args, **kwargs),
            self._own_tags(args, kwargs),
            lambda: self._loaded(args, kwargs),
            read,
        )

    def _loaded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        if self._noted_reads is None:
            return self.uncached(*args, **kwargs)
        with self._noted_reads() as reads:
            value = self.uncached(*args, **kwargs)
        if not reads:
            return value
        if not self._reads_said:
            self._reads_said = True
            logger.warning(
                "%s is not stored: it has read %s of the request, which its key has"
                " not, so that other requests would be given its result. Give what it"
                " needs as an argument, or a key= of your own",
                self._inherited.name,
                ", ".join(reads),
            )
        raise NotToBeStored(value)

    def __repr__(self) -> str:
        return f"<cached {self.uncached!r}>"


def refuse_memory(function: Any) -> None:
    """Refuse a function that returns again what it has returned before.

    :raises TypeError: it has a ``cache_clear``, as ``functools.lru_cache`` makes it.
    """

    def remembers(each: Any) -> bool:
        return callable(getattr(each, "cache_clear", None))

    if remembers(inspect.unwrap(function, stop=remembers)):
        raise TypeError(
            f"{getattr(function, '__qualname__', function)} remembers its results, as"
            " by lru_cache, and would return old ones after an invalidation: take that"
            " decorator away"
        )


class BoundCachedFunction(Generic[T]):
    """A cached method of one object."""

    def __init__(self, function: CachedFunction[T], instance: object) -> None:
        functools.update_wrapper(self, function.uncached)
        self.__self__ = instance
        self.__func__ = function
        #: The method without the cache.
        self.uncached = functools.partial(function.uncached, instance)
        self.key = functools.partial(function.key, instance)
        self.tags = functools.partial(function.tags, instance)
        self.intent = functools.partial(function.intent, instance)
        self.invalidate = functools.partial(function.invalidate, instance)
        self.refresh = functools.partial(function.refresh, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        return self.__func__(self.__self__, *args, **kwargs)

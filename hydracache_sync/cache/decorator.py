"""Functions whose results are cached by their arguments.

The default key never gives two different calls the same text, whatever the arguments
hold: joined with blanks, as other libraries do, ``f("a b")`` and ``f("a", "b")`` would
be one entry, and so would ``f(1)`` and ``f("1")``. It reads
``module.name(str:5:first;int:1:2;)``, or ``module.name#<SHA-256>`` where the arguments
are long or not ASCII.

That holds only while a name stands for one function, and a text for one argument. What
does not is refused, and the caller passes ``key=``: a wrong entry is a wrong answer,
perhaps across tenants.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import inspect
import pickle
import sys
import uuid
import weakref
from hashlib import sha256
from types import ModuleType
from typing import Any, Callable, Generic, Iterable, Protocol, TypeVar

from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.keys import Identity, identity_text, identity_texts

T = TypeVar("T")


class ReadsThrough(Protocol):
    """What a decorated function reads through: a cache, or an app's calls."""

    def get_or_load(
        self,
        key: Identity,
        loader: Callable[[], T],
        *,
        tags: Iterable[Identity] = (),
        ttl: float | None = None,
        soft_ttl: float | None = None,
    ) -> T: ...


#: Make a key, or tags, from the arguments of a call.
KeyOf = Callable[..., Identity]
TagsOf = Callable[..., Iterable[Identity]]

#: Characters of a default key that stay readable; arguments beyond are hashed.
MAX_READABLE = 400

#: Modules that are another one in each program: their names identify nothing. The
#: second is what ``multiprocessing`` calls the first in a child.
_PROGRAMS = ("__main__", "__mp_main__")

#: Types whose text says all there is, without subclasses: those may say less.
_PLAIN = {
    type(None): "none",
    bool: "bool",
    int: "int",
    float: "float",
    decimal.Decimal: "decimal",
    uuid.UUID: "uuid",
    datetime.date: "date",
    datetime.datetime: "datetime",
}

#: Of each cache the functions that have a default key, by name: with the module's spec,
#: which is a new one when the module is loaded again and defines them anew.
_named_functions: weakref.WeakKeyDictionary[
    ReadsThrough, dict[tuple[str, str], tuple[object, object]]
] = weakref.WeakKeyDictionary()


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
        functools.update_wrapper(self, function)
        self._cache = cache
        if key is None:
            key = _default_key(function)
            _check_only_one(cache, function)
        self._key = key
        if callable(tags):
            self._tags: TagsOf = tags
        else:
            fixed = tags if isinstance(tags, (str, bytes)) else tuple(tags)
            self._tags = lambda *args, **kwargs: fixed
        self._ttl = ttl
        self._soft_ttl = soft_ttl
        self.uncached = function

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        return self._cache.get_or_load(
            self._key(*args, **kwargs),
            lambda: self.uncached(*args, **kwargs),
            tags=self._tags(*args, **kwargs),
            ttl=self._ttl,
            soft_ttl=self._soft_ttl,
        )

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundCachedFunction(self, instance)

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key that a call with these arguments has, as text."""
        return identity_text("key", self._key(*args, **kwargs))

    def tags(self, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """The tags that a call with these arguments has, as texts."""
        return identity_texts("tag", self._tags(*args, **kwargs))

    def intent(self, *args: Any, **kwargs: Any) -> InvalidationIntent:
        """What invalidates the result of a call with these arguments; for a batch."""
        return InvalidationIntent.key(self._key(*args, **kwargs))

    def __repr__(self) -> str:
        return f"<cached {self.uncached!r}>"


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

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        return self.__func__(self.__self__, *args, **kwargs)


def _default_key(function: Callable[..., Any]) -> KeyOf:
    why = _why_no_name(function)
    if why is not None:
        raise TypeError(
            f"{_shown(function)} {why}: give @cached a key= of your own, which makes"
            " the key from the arguments of a call"
        )
    name = f"{function.__module__}.{function.__qualname__}"
    signature = inspect.signature(function)

    def key(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        parts = []
        for parameter, value in bound.arguments.items():
            if signature.parameters[parameter].kind is inspect.Parameter.VAR_KEYWORD:
                value = tuple(sorted(value.items()))
            try:
                parts.append(_text(value))
            except TypeError as exc:
                raise TypeError(
                    f"argument {parameter} of {function.__qualname__} cannot be part"
                    f" of a key: {exc}; give @cached a key= of your own"
                ) from exc
        text = "".join(parts)
        if len(text) > MAX_READABLE or not text.isascii():
            digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            return f"{name}#{digest}"
        return f"{name}({text})"

    return key


def _why_no_name(function: Callable[..., Any]) -> str | None:
    """Say why module and name do not tell ``function`` from all others, if so."""
    name = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    owner = getattr(function, "__self__", None)
    if isinstance(function, functools.partial) or name is None:
        return "is a partial or another object without a name of its own"
    if name.endswith("<lambda>"):
        return "is a lambda, which has no name that tells it from others"
    if owner is not None and not isinstance(owner, ModuleType):
        kind = owner if isinstance(owner, type) else type(owner)
        return (
            f"is a method of one object ({kind.__name__}) that is not among its"
            " arguments: those of two objects would share their entries"
        )
    if "<locals>" in name:
        return (
            "is defined inside of a function: each call of that one makes another of"
            " the same name, and they would share their entries"
        )
    if module in _PROGRAMS:
        return (
            f"is in {module}, which is another module in each program: they would share"
            " entries, or not know those of the server"
        )
    if module is None or (module == "builtins" and hasattr(function, "__code__")):
        return "belongs to no module, so that others have the same name"
    return None


def _check_only_one(cache: ReadsThrough, function: Callable[..., Any]) -> None:
    """Raise if another function of this cache has the same name.

    Two views of two blueprints may both be called ``index`` in one module, and what a
    factory has made by ``functools.wraps`` has the name of what it wraps.

    :raises TypeError: there is one.
    """
    module, name = function.__module__, function.__qualname__
    # What is new where the module is loaded again. A file that is run by its path has
    # no spec, and may not be among the modules.
    loaded: Any = sys.modules.get(module)
    spec = (
        getattr(loaded, "__spec__", None)
        or loaded
        or getattr(inspect.unwrap(function), "__globals__", None)
    )
    functions = _named_functions.setdefault(cache, {})
    known = functions.setdefault((module, name), (spec, function))
    if known[0] is spec and known[1] is not function:
        raise TypeError(
            f"{_shown(function)} of {module} has the name of another function that is"
            " cached here: they would share their entries; give @cached a key= of your"
            " own, which makes the key from the arguments of a call"
        )
    functions[module, name] = spec, function


def _shown(function: Callable[..., Any]) -> str:
    name: str = getattr(function, "__qualname__", type(function).__name__)
    return name


def _text(value: object) -> str:
    """Text that only this value of this type has, and that says where it ends."""
    kind = type(value)
    if isinstance(value, str) and kind is str:
        return _delimited("str", value)
    if isinstance(value, bytes) and kind is bytes:
        return _delimited("bytes", value.hex())
    if kind in _PLAIN:
        if isinstance(value, datetime.datetime) and value.tzinfo is not None:
            _check_zone(value.tzinfo)
        return _delimited(_PLAIN[kind], repr(value))
    if isinstance(value, tuple) and kind is tuple:
        return _delimited("tuple", "".join(map(_text, value)))
    if isinstance(value, enum.Enum):
        # Flags that were joined have no name before Python 3.11.
        name = repr(value.value) if value.name is None else value.name
        return _delimited("enum", f"{_named(kind)}.{name}")
    if isinstance(value, type):
        return _delimited("type", _named(value))
    own = getattr(value, "cache_key", None)
    if isinstance(own, str):
        return _delimited("object", _delimited(_named(kind), own))
    raise TypeError(f"it is {kind.__name__}, which has no text of its own")


def _named(kind: type) -> str:
    """The name of a class, if it is the only one with this name.

    :raises TypeError: it is not.
    """
    module, name = kind.__module__, kind.__qualname__
    found: Any = None if module in _PROGRAMS else sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not kind:
        raise TypeError(
            f"its class {module}.{name} cannot be found by this name, so that other"
            " classes may have the same one"
        )
    return f"{module}.{name}"


def _check_zone(zone: datetime.tzinfo) -> None:
    """Raise unless the text of an aware datetime tells its time zone from others.

    ``datetime.timezone`` and ``zoneinfo`` say all there is. The text of another class
    may be the same for two zones, or hold an address that is used again.
    """
    if type(zone) is datetime.timezone:
        return
    zoneinfo = sys.modules.get("zoneinfo")
    if zoneinfo is not None and type(zone) is zoneinfo.ZoneInfo:
        try:
            # Refused for a zone that was read from a file of the caller's.
            zone.__reduce__()
            return
        except pickle.PicklingError:
            pass
    raise TypeError(
        f"its time zone is a {type(zone).__name__}, whose text may be that of another"
        " zone; use datetime.timezone or zoneinfo.ZoneInfo"
    )


def _delimited(kind: str, text: str) -> str:
    return f"{kind}:{len(text)}:{text};"

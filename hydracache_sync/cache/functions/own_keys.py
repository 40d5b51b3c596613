"""Keys of cached functions that are made by a ``key=`` of the caller's.

Such a key is the whole key of the entry, with no name of the function in it. Two
functions that make the same one are given what the other has stored, which is told.
"""

from __future__ import annotations

import inspect
import weakref
from typing import Any, Callable, Tuple

from hydracache_sync.keys import Identity, identity_text
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Keys of one cache that are remembered. A mistake shows in its first ones.
MOST_REMEMBERED = 1000

#: Module, name and line: the same for each closure that one line makes, and after its
#: module was loaded again.
_Maker = Tuple[str, str, int]


class _Makers:
    """Which functions of one cache have made which keys. Safe for threads."""

    def __init__(self) -> None:
        self._first: dict[str, _Maker] = {}
        # Pairs that a warning has named; no more than there are functions.
        self._told: set[frozenset[_Maker]] = set()

    def note(self, key: str, maker: _Maker) -> None:
        first = self._first.get(key)
        if first is None:
            if len(self._first) < MOST_REMEMBERED:
                self._first[key] = maker
        elif first != maker:
            self._tell(first, maker, key)

    def _tell(self, first: _Maker, second: _Maker, key: str) -> None:
        pair = frozenset([first, second])
        if pair in self._told:
            return
        self._told.add(pair)
        logger.warning(
            "cached functions %s.%s (line %d) and %s.%s (line %d) both make the key %r:"
            " each is given what the other has stored. Begin the keys of each with a"
            " name",
            *first,
            *second,
            key,
        )


_makers: weakref.WeakKeyDictionary[object, _Makers] = weakref.WeakKeyDictionary()


def own_key(
    cache: object, function: Callable[..., Any], key: Callable[..., Identity]
) -> Callable[..., str]:
    """Return ``key``, watched for a key that another function of ``cache`` makes.

    :raises TypeError: it is no function. What this returns raises what ``key`` does,
        and TypeError or ValueError for a result that is no key.
    """
    if not callable(key):
        raise TypeError(
            "key must be a function that makes the key from the arguments of a call,"
            f" not {key!r}"
        )
    note = _makers.setdefault(cache, _Makers()).note
    maker = _maker(function)

    def make(*args: Any, **kwargs: Any) -> str:
        text = identity_text("key", key(*args, **kwargs))
        note(text, maker)
        return text

    return make


def _maker(function: Callable[..., Any]) -> _Maker:
    inner: Any = inspect.unwrap(function)
    code = getattr(inner, "__code__", None)
    # An object that can be called may have neither; its class has both.
    module = getattr(inner, "__module__", type(inner).__module__)
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return module, name, code.co_firstlineno if code else 0

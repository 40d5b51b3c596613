"""The loads that what runs here is part of.

A loader may read other values by the cache. One that is out of date, or not committed,
is for its own caller: what a load makes of it is not stored either. Nothing else would
notice, because the tokens of the outer value may all be the present ones. The same
holds for what is made of it between a reservation and its fill.
"""

from __future__ import annotations

from contextvars import ContextVar
from math import inf
from time import monotonic
from typing import Callable, TypeVar

from hydracache_sync.cache.unstorable import NotToBeStored

T = TypeVar("T")


class _Load:
    __slots__ = ("outer", "is_withheld")

    def __init__(self, outer: _Load | None) -> None:
        self.outer = outer
        self.is_withheld = False


#: A thread that a loader starts in a copy of its context is part of the load.
_current: ContextVar[_Load | None] = ContextVar("hydracache_loading", default=None)


#: When this thread was last given such a value.
_withheld_at: ContextVar[float] = ContextVar("hydracache_withheld_at", default=-inf)


def is_withheld_since(moment: float) -> bool:
    """Whether a value that was given to this thread since ``moment`` is withheld.

    :param moment: of ``time.monotonic()``.
    """
    return _withheld_at.get() >= moment


def withhold() -> None:
    """State that no value of the loads under way is to be stored."""
    _withheld_at.set(monotonic())
    load = _current.get()
    while load is not None:
        load.is_withheld = True
        load = load.outer


def under_way(loader: Callable[[], T]) -> Callable[[], T]:
    """Return ``loader`` as one of the loads under way while it runs.

    It raises ``NotToBeStored`` in place of returning a value that is withheld.
    """

    def load() -> T:
        this = _Load(_current.get())
        token = _current.set(this)
        try:
            value = loader()
        finally:
            _current.reset(token)
        if this.is_withheld:
            raise NotToBeStored(value)
        return value

    return load

"""Loaded values that are not to be stored, and those that cannot be.

How a loader says that its value is for its own caller alone; and what is done about one
that would not come back the same.

A loader may read other values by the cache. One that is out of date, or not committed,
is for its own caller: what a load makes of it is not stored either. Nothing else would
notice, because the tokens of the outer value may all be the present ones. The same
holds for what is made of it between a reservation and its fill.
"""

from __future__ import annotations

from contextvars import ContextVar
from math import inf
from time import monotonic
from typing import Any, Callable, NoReturn, TypeVar

from hydracache_sync.cache.diagnostics import Counter
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.printable import printable_logger

T = TypeVar("T")

logger = printable_logger(__name__)

RAISE, LOG = "raise", "log"

#: Seconds between two warnings of one cache: each load of such a value is one.
PAUSE = 60.0


class NotToBeStored(BaseException):
    """Raised by a loader in place of returning a value that no other reader may get.

    No ``Exception``: to the cache each of those is a loader that has failed.

    :ivar value: for the caller of that load alone.
    """

    def __init__(self, value: Any) -> None:
        super().__init__("this value is not to be stored")
        self.value = value


def value_of(loader: Callable[[], T]) -> T:
    """Return what ``loader`` has loaded, also if it is not to be stored."""
    try:
        return loader()
    except NotToBeStored as exc:
        value: T = exc.value
        return value


class Unstorable:
    """The choice between an error and a warning, for one cache. Safe for threads.

    :param how: ``raise`` or ``log``.
    :raises ConfigurationError: it is neither.
    """

    def __init__(self, how: str, counter: Counter, namespace: str) -> None:
        if how not in (RAISE, LOG):
            raise ConfigurationError(
                f"unstorable must be {RAISE!r} or {LOG!r}, not {how!r}"
            )
        self._raises = how == RAISE
        self._counter = counter
        self._namespace = namespace
        self._silent_until = monotonic()

    def refuse(self, value: object, error: Exception) -> NoReturn:
        """Raise ``error``, or what has the value returned without being stored."""
        if self._raises:
            raise error
        raise NotToBeStored(value) from error

    def tell(self, error: Exception) -> None:
        """Raise ``error``, or count it, and warn with the stack of who has loaded."""
        if self._raises:
            raise error
        self._counter.add()
        now = monotonic()
        if now >= self._silent_until:
            self._silent_until = now + PAUSE
            logger.warning(
                "namespace %s: a value is loaded at each read: %s",
                self._namespace,
                error,
                stack_info=True,
            )


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

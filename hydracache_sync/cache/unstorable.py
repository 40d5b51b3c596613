"""Loaded values that are not to be stored, and those that cannot be.

How a loader says that its value is for its own caller alone; and what is done about one
that would not come back the same.
"""

from __future__ import annotations

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

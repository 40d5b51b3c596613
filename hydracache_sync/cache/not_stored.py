"""How a loader says that its value is for its own caller alone."""

from __future__ import annotations

from typing import Any, Callable, TypeVar

T = TypeVar("T")


class NotToBeStored(BaseException):
    """Raised by a loader in place of returning a value that nobody else may get.

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

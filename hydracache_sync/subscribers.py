"""Callbacks that are told what happened, and cannot harm it."""

from __future__ import annotations

import threading
from typing import Callable, Generic, TypeVar

from hydracache_sync.fork import ProcessLock
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

T = TypeVar("T")


class Subscribers(Generic[T]):
    """Callbacks that take a ``T``. Thread-safe.

    :param occasion: when they are called, for the log: "after a commit".
    :ivar callbacks: empty while there are none; replaced, never changed.
    """

    def __init__(self, occasion: str) -> None:
        self._occasion = occasion
        self.callbacks: dict[object, Callable[[T], object]] = {}
        self._lock = ProcessLock()

    def add(self, callback: Callable[[T], object]) -> Callable[[], None]:
        """Have ``callback`` told from now on; call what is returned to end that."""
        # A key of its own: the same callback may be added twice.
        key = object()
        with self._lock.mine():
            self.callbacks = {**self.callbacks, key: callback}

        def remove() -> None:
            with self._lock.mine():
                self.callbacks = {
                    other: each
                    for other, each in self.callbacks.items()
                    if other is not key
                }

        return remove

    def tell(self, what: T) -> None:
        """Call each with ``what``, in this thread; log what they raise and go on."""
        for callback in self.callbacks.values():
            try:
                callback(what)
            except (Exception, SystemExit) as exc:
                if isinstance(exc, SystemExit) and (
                    threading.current_thread() is threading.main_thread()
                ):
                    raise  # a signal's handler ends the process
                # What they are told has happened and stays so. sys.exit() in a thread
                # of a pool ends no process, only that thread, without a word.
                logger.exception("subscriber %r failed %s", callback, self._occasion)

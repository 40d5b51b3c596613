"""The transactions that this thread has open and the library is told of.

A cached read asks here, before it looks and before it stores: what an open transaction
shows may be older than an invalidation, and newer than what others may see.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from math import inf
from typing import Any, Callable, Iterable, Iterator, Protocol

from hydracache_sync.app import savepoints
from hydracache_sync.fork import ProcessLocal
from hydracache_sync.snapshots import NEVER, LocalMoment, oldest


class OpenTransaction:
    """One transaction, of whatever library.

    :ivar began: a moment that its snapshot is not older than, in Unix seconds; None
        while it has no connection, so that its first statement begins a fresh one.
    """

    began: float | None = None

    def since(self) -> float | None:
        """Return a moment that nothing which is read in it is older than."""
        return self.began

    def has_changes(self) -> bool:
        """Whether it shows its owner what others do not see."""
        raise NotImplementedError

    def read_on(self) -> Iterable[Any]:
        """The driver's connections that it has objects of, which it serves again."""
        return ()

    def outlives_reads(self) -> bool:
        """Whether it has objects of transactions that are over."""
        return False


class StatementListener(Protocol):
    """Is told of the statements that its thread sends in a block."""

    def note(self, began: float | None, connection: Any) -> None:
        """One was sent in a transaction that ``began`` then, at the earliest.

        :param began: None if its transaction is not followed.
        :param connection: the driver's; None if it is not told.
        """

    def note_sent(self, connection: Any) -> None:
        """A driver sends one, which may have been noted, on its ``connection``."""


class _OfThread:
    def __init__(self) -> None:
        # Weak: a session that is dropped without an end is told to nobody.
        self.transactions: weakref.WeakSet[OpenTransaction] = weakref.WeakSet()
        self.statements = 0
        #: When the thread last read something, by the steady clock, or got a value from
        #: the cache or a cached load.
        self.read_at = -inf
        self.listeners: list[StatementListener] = []


_local = ProcessLocal()


def _this_thread() -> _OfThread:
    mine = _local.mine()
    try:
        found: _OfThread = mine.kept
    except AttributeError:
        found = mine.kept = _OfThread()
    return found


def opened(transaction: OpenTransaction) -> None:
    _this_thread().transactions.add(transaction)


def keep(objects: OpenTransaction) -> None:
    """State that this thread still has what ``objects`` says was read before."""
    _this_thread().transactions.add(objects)


def ended(transaction: OpenTransaction) -> None:
    """Also where it was opened in another thread: that one sees no ``began`` then."""
    transaction.began = None
    _this_thread().transactions.discard(transaction)


def is_of_this_thread(transaction: OpenTransaction) -> bool:
    """Whether it was opened in this thread, which knows of its changes."""
    return transaction in _this_thread().transactions


def note_statement(
    began: float | None = None, on: Callable[[], Any] = lambda: None
) -> None:
    """State that this thread sends a statement on a connection that is looked at.

    :param began: a moment that its transaction is not older than; None if nobody
        follows that.
    :param on: returns the driver's connection; called only in a load.
    """
    mine = _this_thread()
    mine.statements += 1
    mine.read_at = time.monotonic()
    if mine.listeners:
        connection = on()
        for each in mine.listeners:
            each.note(began, connection)


def note_sent(connection: Any, statement: Any) -> None:
    """State that this thread sends a statement on whatever connection of a driver."""
    note_read()
    savepoints.note_statement(statement)
    for each in _this_thread().listeners:
        each.note_sent(connection)


def note_read() -> None:
    """State that this thread has got a value from the cache, or from a loader."""
    _this_thread().read_at = time.monotonic()


def oldest_read_since(moment: LocalMoment | float) -> float | None:
    """A moment that what this thread has read since ``moment`` is not older than.

    A row is not older than ``moment``. A hit may be: a cache is told of these by its
    ``earlier_hits``.

    :return: None if it has read nothing.
    """
    if _this_thread().read_at >= getattr(moment, "steady", -inf):
        return LocalMoment.because("earlier", moment)
    return None


@contextlib.contextmanager
def listening(listener: StatementListener) -> Iterator[None]:
    """Tell ``listener`` of the statements that this thread sends in the block."""
    listeners = _this_thread().listeners
    listeners.append(listener)
    try:
        yield
    finally:
        listeners.remove(listener)


def statements() -> int:
    """How many of them this thread has sent.

    What a load reads on a connection that nobody follows is seen by their lack.
    """
    return _this_thread().statements


def all_open() -> Iterator[OpenTransaction]:
    return iter(_this_thread().transactions)


def writing() -> bool:
    """Whether one of them has changes: a cached read must bypass the cache then."""
    transactions = _this_thread().transactions
    return bool(transactions) and any(each.has_changes() for each in transactions)


def snapshot() -> float | None:
    """When the oldest of them began, or what they left was read.

    For ``TaggedCache(snapshot=...)``.

    :return: Unix seconds; None if there is nothing, so that the load's first statement
        begins a fresh snapshot; ``NEVER`` if one of them has changes.
    """
    began: float | None = None
    for each in _this_thread().transactions:
        if each.has_changes():
            return NEVER
        began = oldest(began, each.since())
    return began

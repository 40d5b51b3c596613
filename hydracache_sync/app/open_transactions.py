"""The transactions that this thread has open and the library is told of.

A cached read asks here, before it looks and before it stores: what an open transaction
shows may be older than an invalidation, and newer than what others may see.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any, Iterable, Iterator, Protocol

from hydracache_sync.fork import ProcessLocal
from hydracache_sync.snapshots import NEVER


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


#: Apps that have attached what makes their transactions.
_followed: weakref.WeakSet[Any] = weakref.WeakSet()


def follow(app: Any) -> None:
    """State that this module is told of the transactions of ``app``."""
    _followed.add(app)


def are_followed(app: Any) -> bool:
    return app in _followed


class StatementListener(Protocol):
    """Is told of the statements that its thread sends in a block."""

    def note(self, began: float | None) -> None:
        """One was sent in a transaction that ``began`` then, at the earliest.

        None if its transaction is not followed.
        """


class _OfThread:
    def __init__(self) -> None:
        # Weak: a session that is dropped without an end is told to nobody.
        self.transactions: weakref.WeakSet[OpenTransaction] = weakref.WeakSet()
        self.statements = 0
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


def note_statement(began: float | None = None) -> None:
    """State that this thread sends a statement on a connection that is looked at.

    :param began: a moment that its transaction is not older than; None if nobody
        follows that.
    """
    mine = _this_thread()
    mine.statements += 1
    for each in mine.listeners:
        each.note(began)


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
    """Whether one of them has changes: a cached read must go round the cache then."""
    transactions = _this_thread().transactions
    return bool(transactions) and any(each.has_changes() for each in transactions)


def snapshot() -> float | None:
    """When the oldest of them began, or what they left was read.

    For ``TaggedCache(snapshot=...)``.

    :return: Unix seconds; None if there is nothing, so that the load's first statement
        begins a fresh snapshot; ``NEVER`` if one of them has changes.
    """
    began = None
    for each in _this_thread().transactions:
        if each.has_changes():
            return NEVER
        since = each.since()
        if since is not None and (began is None or since < began):
            began = since
    return began

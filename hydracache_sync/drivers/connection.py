"""What may be asked of a caller's connection, whatever its driver.

The row of an invalidation may only be written where the caller's commit decides on it,
and a value may only be cached where no rollback takes it back. Each driver answers in
its own way; where one cannot, it says so, or asks the server.
"""

from __future__ import annotations

from typing import Any, Callable, ContextManager, Protocol


class CallersConnection(Protocol):
    """A driver's connection of the caller's, and what it knows of its transaction.

    Made for one question, or kept beside the connection: nothing of it is left in the
    connection, but what :mod:`~hydracache_sync.drivers.sqlite` says. Used by the thread
    that uses the connection. Every method may raise what the driver raises, for a
    connection that is closed for instance.

    :ivar connection: the driver's own.
    :ivar errors: what the driver raises.
    :ivar tells_snapshots: :meth:`has_snapshot` can be asked.
    """

    connection: Any
    errors: tuple[type[Exception], ...]
    tells_snapshots: bool

    def cursor(self) -> Any:
        """Return a plain cursor, whatever class the app's cursors are of.

        :raises OutboxError: the connection is in the middle of an answer that a new
            statement would throw away.
        """

    def server(self) -> str | None:
        """Where it has connected to, as the app called it: ``host:port``, or a socket.

        :return: None where there is no server, or the driver does not tell.
        """

    def session(self) -> object:
        """What is equal only while the connection has the same session of a server.

        The object outlives it: ``ping(reconnect=True)`` may connect it elsewhere. Asks
        nobody.

        :return: None where there is no server, or the driver does not tell.
        """

    # Is a transaction open?

    def in_transaction(self) -> bool:
        """Whether the next statement is part of a transaction that stays open.

        It may begin with that statement. May ask the server.
        """

    def require_transaction(self) -> None:
        """Refuse a connection that would commit the next statement at once.

        :raises NotInTransactionError: says what to do first.
        """

    def has_begun(self) -> bool | None:
        """Whether it has written in a transaction that is still open. Asks nobody.

        One that would only begin now does not count, unlike in :meth:`in_transaction`:
        nobody may be left who commits it.

        :return: None where the driver cannot tell: mysqlclient; ``sqlite3`` with
            ``autocommit=False``, where the next transaction begins with the last one's
            end; mysql-connector-python, if one is open, but perhaps by a SELECT.
        """

    # Since when?

    def has_snapshot(self) -> bool:
        """Whether the next SELECT reads in a snapshot that is open. May ask the server.

        Only where :attr:`tells_snapshots`.
        """

    def seen_in_snapshot(self) -> bool | None:
        """Whether the next SELECT reads in a snapshot that is open. Asks nobody.

        :return: None where the driver cannot tell: mysqlclient; PyMySQL out of
            autocommit, after a SELECT.
        """

    def is_reading(self) -> bool:
        """Whether a cursor is in the middle of an answer, which keeps its snapshot.

        False where the driver has no such answers, or cannot tell.
        """

    def answered(self) -> object:
        """What is another object, or number, after each statement that reads.

        Compared before and after a load, it says whether the load has read here. May
        miss some. Asks nobody.

        :return: None if no statement was answered yet, or the driver does not tell.
        """

    # What has it done?

    def changes(self) -> int | None:
        """How many rows it has changed since it was made; None if that is not told."""

    def has_written(self) -> bool | None:
        """Whether it has changed something and not committed it. Asks nobody.

        Errs to True. Where :meth:`changes` are told, what it had changed when it said
        False does not count any more.

        :return: None where the driver cannot tell: mysqlclient; PyMySQL out of
            autocommit, where INSERT ... RETURNING looks like a SELECT;
            mysql-connector-python in a transaction that a SELECT may have begun; a
            ``sqlite3`` of ``autocommit=False`` that has written before it was known.
        """

    def committed_at_once(self) -> bool:
        """Whether a statement just run was a transaction of its own.

        The driver's own knowledge may be older than an error that ended the
        transaction; an acknowledged statement has renewed it.
        """

    def has_committed(self) -> bool:
        """Whether what a statement has just changed is durable: nothing is open.

        False where the driver cannot tell.
        """

    def completion(self) -> Callable[[], bool] | None:
        """Return what tells, without asking, that the open transaction has ended.

        It must know it of the very session that the transaction ran in. None where
        the driver cannot tell.
        """

    # Its ends

    def begin(self) -> None:
        """Begin a transaction, unless :meth:`in_transaction`."""

    def noted_end(self) -> ContextManager[Callable[[], bool]]:
        """In a block: tell whether the open transaction was ended in it.

        To be asked once, before the block's own commit. ``sqlite3`` sets a savepoint,
        and tells of every end. The others tell of the connection's ``commit`` only:
        to be asked of a COMMIT in text would take round trips.
        """

    def commit(self) -> None:
        """Commit what is open."""

    def roll_back(self) -> None:
        """Roll back what is open."""


class TransactionEnd:
    """Tells that a transaction has ended, or that nothing is known of it.

    Known only in the process of the transaction: a copy that has travelled knows
    nothing.

    :param is_over: whether it has ended; by default it has, once :meth:`note` is
        called. False may mean that nobody knows.
    """

    def __init__(self, is_over: Callable[[], bool] | None = None) -> None:
        self._is_over = is_over
        self._noted = False

    def note(self) -> None:
        """It has ended."""
        self._noted = True

    def __bool__(self) -> bool:
        return self._noted or (self._is_over is not None and self._is_over())

    def __reduce__(self) -> tuple[type[TransactionEnd], tuple[()]]:
        return TransactionEnd, ()

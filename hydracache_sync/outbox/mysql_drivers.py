"""What must be known of a caller's MySQL connection, for each driver it may be of.

The row of an invalidation may only be written where the caller's commit decides on it.
Each driver tells in its own way whether a transaction is open; where one cannot, the
server is asked, and only then. No driver is imported: a connection of one brings it.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any, Callable, Protocol, Sequence

from hydracache_sync.errors import NotInTransactionError, OutboxError
from hydracache_sync.outbox.wrappers import refusal

_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS
_AUTOCOMMIT = 2  # SERVER_STATUS_AUTOCOMMIT

#: No savepoint of that name outside a transaction: RELEASE fails.
_NO_SAVEPOINT = 1305
_SAVEPOINT = "hydracache_sync_probe"


class Driver(Protocol):
    """What the outbox asks of a caller's connection."""

    #: What the driver raises.
    errors: tuple[type[Exception], ...]

    def cursor(self) -> Any:
        """A plain cursor, whatever class the app's cursors are of."""

    def in_transaction(self) -> bool:
        """Whether the next statement is part of a transaction that stays open."""

    def committed_at_once(self) -> bool:
        """Whether a statement just run was a transaction of its own.

        The driver's own knowledge may be older than an error that ended the
        transaction; an acknowledged statement has renewed it.
        """

    def end_of_transaction(self) -> Callable[[], bool] | None:
        """What tells, without asking, that the transaction open now has ended.

        It must know it of the very session that the transaction ran in.
        """


class PyMySQLDriver:
    """PyMySQL: keeps the status that the server sent with the last acknowledgement."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.errors: tuple[type[Exception], ...] = (connection.Error, OSError)

    def cursor(self) -> Any:
        result = getattr(self.connection, "_result", None)
        if result is not None and getattr(result, "unbuffered_active", False):
            # PyMySQL would throw the rest of it away, and the app would take what it
            # has for all. The other drivers refuse by themselves.
            raise OutboxError(
                "an unbuffered cursor of the connection has not been read to its end;"
                " read or close it first"
            )
        return self.connection.cursor(sys.modules["pymysql.cursors"].Cursor)

    def in_transaction(self) -> bool:
        return self._said_to_be() or not self._autocommits()

    def _said_to_be(self) -> bool:
        status = self.connection.server_status
        return not status & _AUTOCOMMIT or bool(status & _IN_TRANSACTION)

    def _autocommits(self) -> bool:
        """Ask the server: MySQL 9.7 with autocommit=0 says otherwise in its status."""
        cursor = self.cursor()
        try:
            cursor.execute("select @@session.autocommit")
            return bool(only_value(cursor.fetchall()))
        finally:
            cursor.close()

    def committed_at_once(self) -> bool:
        return not self._said_to_be()

    def end_of_transaction(self) -> Callable[[], bool] | None:
        if not self.connection.server_status & _IN_TRANSACTION:
            return None  # what stands before the server does not tell
        session = _PyMySQLSession.of(self.connection)
        return None if session is None else session.has_left_transaction


class _PyMySQLSession:
    """The session in which a transaction of a PyMySQL connection is open.

    The connection object outlives it: ping(reconnect=True), connect() and wrappers that
    reconnect give it a new session, whose status says nothing of the COMMIT that was
    sent in the old one and may still arrive there.
    """

    def __init__(self, connection: Any, socket: Any) -> None:
        # Weak: neither is kept open by a receipt.
        self._connection = weakref.ref(connection)
        self._socket = weakref.ref(socket)
        self._thread_id = connection.server_thread_id

    @classmethod
    def of(cls, connection: Any) -> _PyMySQLSession | None:
        try:
            return cls(connection, getattr(connection, "_sock", None))
        except TypeError:  # of something that stands before the connection or socket
            return None

    def has_left_transaction(self) -> bool:
        """Whether an acknowledgement has said so, that of COMMIT or ROLLBACK.

        After an error, or in the session's next transaction, none does.
        """
        connection = self._connection()
        if connection is None or connection.server_status & _IN_TRANSACTION:
            return False
        # After the status: a thread that reconnects gives the new socket before it.
        socket = connection._sock
        return (
            socket is not None
            and socket is self._socket()
            and connection.server_thread_id == self._thread_id
        )


class MySQLClientDriver:
    """mysqlclient: knows autocommit, but not whether BEGIN was sent."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.errors: tuple[type[Exception], ...] = (connection.Error, OSError)

    def cursor(self) -> Any:
        return self.connection.cursor(sys.modules["MySQLdb.cursors"].Cursor)

    def in_transaction(self) -> bool:
        return not self.connection.get_autocommit() or self._has_savepoints()

    def _has_savepoints(self) -> bool:
        """Ask the server, in a way that every version and right allows.

        Outside a transaction a savepoint is gone as soon as it is made.
        """
        cursor = self.cursor()
        try:
            cursor.execute(f"savepoint {_SAVEPOINT}")
            cursor.execute(f"release savepoint {_SAVEPOINT}")
        except self.connection.Error as exc:
            if error_number(exc) == _NO_SAVEPOINT:
                return False
            raise
        finally:
            cursor.close()
        return True

    def committed_at_once(self) -> bool:
        return False  # the server has been asked a moment ago

    def end_of_transaction(self) -> Callable[[], bool] | None:
        return None


class ConnectorDriver:
    """mysql-connector-python: knows a transaction, asks the server for autocommit."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.errors: tuple[type[Exception], ...] = (
            sys.modules["mysql.connector"].Error,
            OSError,
        )

    def cursor(self) -> Any:
        return self.connection.cursor()

    def in_transaction(self) -> bool:
        return bool(self.connection.in_transaction) or not self._autocommits()

    def _autocommits(self) -> bool:
        """Ask the server, as the driver does, which takes a raw answer for "off"."""
        cursor = self.cursor()
        try:
            cursor.execute("select @@session.autocommit")
            return bool(only_value(cursor.fetchall()))
        finally:
            cursor.close()

    def committed_at_once(self) -> bool:
        return not self.in_transaction()

    def end_of_transaction(self) -> Callable[[], bool] | None:
        return None


_DRIVERS: dict[str, Callable[[Any], Driver]] = {
    "pymysql": PyMySQLDriver,
    "MySQLdb": MySQLClientDriver,
    "mysql": ConnectorDriver,
}


def driver_of(connection: Any) -> Driver:
    """Return what knows ``connection``.

    :raises TypeError: it is of none of the three drivers.
    """
    # Not type(): what stands before a connection, to trace it, says that it is one.
    for base in connection.__class__.__mro__:
        driver = _DRIVERS.get(base.__module__.partition(".")[0])
        if driver is not None:
            return driver(connection)
    raise refusal("of PyMySQL, mysqlclient or mysql-connector-python", connection)


def require_transaction(driver: Driver) -> None:
    """Refuse a connection that would commit our rows at once."""
    if not driver.in_transaction():
        raise NotInTransactionError(
            "the connection is in autocommit mode and has no transaction open: the"
            " invalidation would be committed without the data. Call begin() first, or"
            " switch autocommit off, or use transaction() of the outbox"
        )


def only_value(records: Sequence[Any]) -> int:
    """The number in the only record, whatever a driver's converters make of it.

    All of them are fetched before: a connection is not free again until the end of a
    result was read.
    """
    [[value]] = records
    return int(value or 0)


def error_number(exc: BaseException) -> int | None:
    """Return the server's or the client library's number of an error."""
    number = getattr(exc, "errno", None)
    if number is None and exc.args:
        number = exc.args[0]
    return number if isinstance(number, int) else None

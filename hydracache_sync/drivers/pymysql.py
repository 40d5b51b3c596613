"""Connections of PyMySQL, which keep the status that the server sent last.

With the acknowledgement of a statement, that is: a SELECT brings none.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any, Callable

from hydracache_sync.drivers.mysql import (
    MySQLConnection,
    autocommits,
    execute,
    refuse_autocommit,
)
from hydracache_sync.errors import OutboxError

_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS
_AUTOCOMMIT = 2  # SERVER_STATUS_AUTOCOMMIT
_READ_ONLY = 8192  # SERVER_STATUS_IN_TRANS_READONLY


def is_in_transaction(connection: Any) -> bool:
    """Whether the server said so at the last acknowledgement."""
    return bool(connection.server_status & _IN_TRANSACTION)


class PyMySQLConnection(MySQLConnection):
    """A connection of PyMySQL's."""

    tells_snapshots = True

    def cursor(self) -> Any:
        if self.is_reading():
            # PyMySQL would throw the rest of it away, and the app would take what it
            # has for all. The other drivers refuse by themselves.
            raise OutboxError(
                "an unbuffered cursor of the connection has not been read to its end;"
                " read or close it first"
            )
        return self.connection.cursor(sys.modules["pymysql.cursors"].Cursor)

    def server(self) -> str | None:
        connection = self.connection
        return connection.unix_socket or f"{connection.host}:{connection.port}"

    def session(self) -> object:
        # Not the thread's id alone: another server may have given the same.
        session = _Session.of(self.connection)
        return None if session is None else session.identity

    def in_transaction(self) -> bool:
        # MySQL 9.7 with autocommit=0 says otherwise in its status.
        return self._said_to_be() or not autocommits(self.cursor())

    def require_transaction(self) -> None:
        if not self.in_transaction():
            raise refuse_autocommit()

    def has_begun(self) -> bool | None:
        # A closed one keeps the last status.
        return is_in_transaction(self.connection) and bool(self.connection.open)

    def has_snapshot(self) -> bool:
        connection = self.connection
        answered, status = connection._result, connection.server_status
        if self.is_reading() or getattr(answered, "has_next", False):
            return True  # a ping would throw the rest of the answer away
        # It does not learn from a SELECT that this has begun a transaction.
        connection.ping(reconnect=False)
        is_open = is_in_transaction(connection)
        # As the last statement has left them: for insert_id(), and for has_written(),
        # to which a transaction that was told of is one that may have written.
        connection._result, connection.server_status = answered, status
        return is_open

    def seen_in_snapshot(self) -> bool | None:
        connection = self.connection
        if not connection.open:
            return False
        status = connection.server_status
        if self.is_reading() or status & _IN_TRANSACTION:
            return True
        answered = connection._result
        if status & _AUTOCOMMIT or answered is None:
            return False  # the status is that of a commit, a rollback or a ping
        # An answer with rows brings no status, and may have begun a transaction.
        return None if answered.server_status is None else False

    def is_reading(self) -> bool:
        result = getattr(self.connection, "_result", None)
        return result is not None and getattr(result, "unbuffered_active", False)

    def answered(self) -> object:
        # A new object for each answer; none after a commit or a rollback.
        return getattr(self.connection, "_result", None)

    def has_written(self) -> bool | None:
        """As the contract says.

        It does not learn from a SELECT that a transaction is open, but from each
        statement that changes something; also from BEGIN, unless that is ``start
        transaction read only``, from SAVEPOINT and from a ping.
        """
        status = self.connection.server_status
        if not self.connection.open or status & _READ_ONLY:
            return False
        if status & _IN_TRANSACTION:
            return True
        return False if status & _AUTOCOMMIT else None

    def committed_at_once(self) -> bool:
        return not self._said_to_be()

    def has_committed(self) -> bool:
        return not self.has_begun()

    def completion(self) -> Callable[[], bool] | None:
        if not is_in_transaction(self.connection):
            return None  # what stands before the server does not tell
        session = _Session.of(self.connection)
        return None if session is None else session.has_left_transaction

    def begin(self) -> None:
        if not self.in_transaction():
            execute(self.cursor(), "begin")

    def _said_to_be(self) -> bool:
        status = self.connection.server_status
        return not status & _AUTOCOMMIT or bool(status & _IN_TRANSACTION)


class _Session:
    """The session in which a transaction of a connection is open.

    The connection object outlives it: ping(reconnect=True), connect() and wrappers that
    reconnect give it a new session. The status of that says nothing of the COMMIT that
    was sent in the old one and may still arrive there.
    """

    def __init__(self, connection: Any, socket: Any) -> None:
        # Weak: neither is kept open by a receipt.
        self._connection = weakref.ref(connection)
        self._socket = weakref.ref(socket)
        self._thread_id = connection.server_thread_id
        self._affected = getattr(connection, "_affected_rows", None)

    @property
    def identity(self) -> object:
        """What is equal for the same session alone."""
        return self._socket, self._thread_id

    @classmethod
    def of(cls, connection: Any) -> _Session | None:
        try:
            return cls(connection, getattr(connection, "_sock", None))
        except TypeError:  # of something that stands before the connection or socket
            return None

    def has_left_transaction(self) -> bool:
        """Whether an acknowledgement has said so, that of commit() or rollback().

        After an error, or in the session's next transaction, none does. Nor is it known
        once another statement was executed: MySQL 8 says the same after XA PREPARE,
        whose COMMIT may come later, and from elsewhere.
        """
        connection = self._connection()
        if connection is None or is_in_transaction(connection):
            return False
        # What was executed leaves an answer, until a ping, and a number of rows.
        if connection._result or connection._affected_rows != self._affected:
            return False
        # After the status: a thread that reconnects gives the new socket before it.
        socket = connection._sock
        return (
            socket is not None
            and socket is self._socket()
            and connection.server_thread_id == self._thread_id
        )

"""Begin, commit and look at a transaction of the caller's own connection.

For ``transaction()`` of the integrations, which is asked to commit, and for the end of
a request, where the app commits only a transaction that is open already.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from hydracache_sync.outbox.mysql_drivers import driver_of
from hydracache_sync.outbox.wrappers import own_connection

_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS
_AUTOCOMMIT = 2  # SERVER_STATUS_AUTOCOMMIT
_READ_ONLY = 8192  # SERVER_STATUS_IN_TRANS_READONLY


def is_open(connection: Any) -> bool | None:
    """Whether ``connection`` has written in a transaction that is still open.

    Unlike the outbox's own check, one that would only begin now does not count: nobody
    may be left who commits it.

    :return: None where the driver cannot tell: mysqlclient; ``sqlite3`` with
        ``autocommit=False``, where the next transaction begins with the last one's end;
        mysql-connector-python, if one is open, but perhaps by a SELECT.
    :raises Exception: the connection is closed, or of no driver that is known.
    """
    connection = own_connection(connection)
    if isinstance(connection, sqlite3.Connection):
        always_open = getattr(connection, "autocommit", -1) is False
        return None if always_open else connection.in_transaction
    driver_of(connection)
    status = getattr(connection, "server_status", None)
    if isinstance(status, int):
        # PyMySQL: refreshed by each acknowledged write; a closed one keeps the last.
        return bool(status & _IN_TRANSACTION) and bool(connection.open)
    return False if getattr(connection, "in_transaction", None) is False else None


def has_written(connection: Any, changes: int | None) -> bool | None:
    """Whether ``connection`` has changed something and not committed it. Asks nobody.

    Errs to True. PyMySQL does not learn from a SELECT that a transaction is open, but
    from each statement that changes something; also from BEGIN, unless that is
    ``start transaction read only``, from SAVEPOINT and from a ping.

    :param changes: what :func:`changes_of` said when it had not; None if that is not
        known.
    :return: None where the driver cannot tell: mysqlclient; PyMySQL out of autocommit,
        where INSERT ... RETURNING looks like a SELECT; mysql-connector-python in a
        transaction that a SELECT may have begun; a ``sqlite3`` of ``autocommit=False``
        that has written before it was known.
    :raises Exception: as :func:`is_open`.
    """
    connection = own_connection(connection)
    if isinstance(connection, sqlite3.Connection):
        if not connection.in_transaction or connection.total_changes == (changes or 0):
            return False
        if changes is None and getattr(connection, "autocommit", -1) is False:
            return None
        return True
    driver_of(connection)
    status = getattr(connection, "server_status", None)
    if isinstance(status, int):
        if not connection.open or status & _READ_ONLY:
            return False
        if status & _IN_TRANSACTION:
            return True
        return False if status & _AUTOCOMMIT else None
    return False if getattr(connection, "in_transaction", None) is False else None


def changes_of(connection: Any) -> int | None:
    """How many rows ``connection`` has changed since it was made; only SQLite tells."""
    connection = own_connection(connection)
    if isinstance(connection, sqlite3.Connection):
        return connection.total_changes
    return None


def has_committed(connection: Any) -> bool:
    """Whether what a statement has just changed is durable: nothing is open any more.

    False where the driver is unknown, or cannot tell.
    """
    try:
        found = is_open(connection)
        if found is None and not isinstance(connection, sqlite3.Connection):
            # mysqlclient: a COMMIT in text stays unseen.
            return bool(connection.get_autocommit())
    except Exception:
        return False
    return found is False


def begin(connection: Any) -> None:
    """Begin a transaction, unless the next statement is part of one that stays open."""
    connection = own_connection(connection)
    if isinstance(connection, sqlite3.Connection):
        if not connection.in_transaction:
            kind = connection.isolation_level or ""
            sqlite3.Cursor(connection).execute(f"begin {kind}")
    elif not driver_of(connection).in_transaction():
        _execute(connection, "begin")


def commit(connection: Any) -> None:
    """Commit what is open on ``connection``."""
    connection = own_connection(connection)
    if _autocommits(connection):
        sqlite3.Cursor(connection).execute("commit")
    else:
        connection.commit()


def roll_back(connection: Any) -> None:
    """Roll back what is open on ``connection``."""
    connection = own_connection(connection)
    if not _autocommits(connection):
        connection.rollback()
    elif connection.in_transaction:
        sqlite3.Cursor(connection).execute("rollback")


def _autocommits(connection: Any) -> bool:
    """SQLite's ``autocommit=True`` of Python 3.12, where commit() does nothing."""
    return (
        isinstance(connection, sqlite3.Connection)
        and getattr(connection, "autocommit", -1) is True
    )


def _execute(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()

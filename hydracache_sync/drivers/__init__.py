"""What a caller's connection can tell of its transaction, one class for each driver.

Outboxes, snapshots and integrations ask here and nowhere else. A driver's private
attributes, and the constants of its protocol, are used in this folder only, in the
``pymysql_`` files for an outbox's own connections too. No driver is imported for a
caller's connection: that brings it. To add one, see docs/project/development.md.
"""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from typing import Any, Callable

from hydracache_sync.drivers.connection import CallersConnection
from hydracache_sync.drivers.mysql_connector import MySQLConnectorConnection
from hydracache_sync.drivers.mysqlclient import MySQLClientConnection
from hydracache_sync.drivers.pymysql import PyMySQLConnection
from hydracache_sync.drivers.sqlite import SQLiteConnection
from hydracache_sync.drivers.wrappers import refusal

__all__ = ["CallersConnection", "driver_of", "find_driver", "mysql_driver_of"]

#: Drivers of MySQL, by the package that their connections are of.
_OF_MYSQL: dict[str, Callable[[Any], CallersConnection]] = {
    "pymysql": PyMySQLConnection,
    "MySQLdb": MySQLClientConnection,
    "mysql": MySQLConnectorConnection,
}


def driver_of(connection: Any) -> CallersConnection:
    """Return what knows ``connection``, of any of the drivers.

    :raises TypeError: it is of none of them; says what to pass instead.
    """
    found = find_driver(connection)
    if found is None:
        raise refusal(
            "of sqlite3, PyMySQL, mysqlclient or mysql-connector-python", connection
        )
    return found


def mysql_driver_of(connection: Any) -> CallersConnection:
    """Return what knows ``connection``, of one of the drivers of MySQL.

    :raises TypeError: it is of none of them; says what to pass instead.
    """
    found = _find_mysql_driver(connection)
    if found is None:
        raise refusal("of PyMySQL, mysqlclient or mysql-connector-python", connection)
    return found


def find_driver(connection: Any) -> CallersConnection | None:
    """Return what knows ``connection``; None if it is of no driver that is known."""
    if isinstance(connection, sqlite3.Connection):
        return SQLiteConnection(connection)
    return _find_mysql_driver(connection)


def _find_mysql_driver(connection: Any) -> CallersConnection | None:
    # Not type(): what stands before a connection, to trace it, says that it is one.
    driver = _mysql_driver(connection.__class__)
    return None if driver is None else driver(connection)


@lru_cache(32)  # classes; a producer asks in each transaction
def _mysql_driver(kind: type) -> Callable[[Any], CallersConnection] | None:
    for base in kind.__mro__:
        driver = _OF_MYSQL.get(base.__module__.partition(".")[0])
        if driver is not None:
            return driver
    return None

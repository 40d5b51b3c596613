"""MariaDB or MySQL under the storm, with each driver that apps use.

The server is killed and comes back. Readers outlive that by themselves, since what they
ask can be asked again. Writers do not: one whose connection dies in a COMMIT cannot
know what became of it, and looks.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any, Callable
from urllib.parse import urlsplit

import mysql.connector
import MySQLdb
import pymysql

from faults.database import PATIENCE, Database, Session
from hydracache_sync import OutboxBusyError, OutboxError
from hydracache_sync.drivers.mysql import error_number

#: Name of the database that the storm makes for itself.
NAME = "storm"

#: Seconds that a server may be away: killed, down, and recovering on a busy machine.
AWAY_PATIENCE = 120.0

#: Seconds between two tries to reach it.
AGAIN = 0.05

#: Seconds until an answer counts as missing.
ANSWER = 60

#: What a killed server and rows held by others bring about: lock wait timeout,
#: deadlock, a row that is newer than the snapshot (MariaDB from 11.6 on), and the ways
#: in which drivers say that a connection is or was dead.
FAULTS = frozenset((1020, 1205, 1213, -1, 0, 1053, 2002, 2003, 2006, 2013, 2055))


class MySQLSession(Session):
    def _in_dialect(self, statement: str) -> str:
        return statement.replace("?", "%s")


class LastingSession(MySQLSession):
    """Runs a statement again where the server was killed: for reads only."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        super().__init__(connect())

    def run(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        try:
            return super().run(statement, *parameters)
        except pymysql.Error as exc:
            if error_number(exc) not in FAULTS:
                raise
        self.close()
        self.connection = self._connect()
        return self.run(statement, *parameters)


class MySQLDatabase(Database):
    """A server of the storm's own, in its default isolation: REPEATABLE READ."""

    errors = (pymysql.Error, MySQLdb.Error, mysql.connector.Error, OSError)
    # With BEGIN the connection autocommits before, without it never does.
    styles = [
        f"{driver}{how}"
        for driver in ("PyMySQL", "mysqlclient", "mysql-connector-python")
        for how in ("", ", begin")
    ]

    def prepare(self, items: int) -> None:
        with closing(self._reached(self._pymysql, database=None)) as connection:
            with closing(connection.cursor()) as cursor:
                cursor.execute(f"create database {NAME}")
        super().prepare(items)

    def product(self) -> tuple[str, str]:
        with closing(self.reader()) as session:
            [[version]] = session.run("select version()")
        return "mariadb" if "MariaDB" in version else "mysql", str(version)

    def is_fault(self, error: Exception) -> bool:
        cause = error.__cause__ if isinstance(error, OutboxError) else error
        return (
            isinstance(error, OutboxBusyError)
            or isinstance(cause, OSError)
            or (cause is not None and error_number(cause) in FAULTS)
        )

    def writer(self, style: str, *, patience: float = PATIENCE) -> Session:
        driver, _, begin = style.partition(", ")
        connect = {
            "PyMySQL": self._pymysql,
            "mysqlclient": self._mysqlclient,
            "mysql-connector-python": self._connector,
        }[driver]
        connection = self._reached(connect, database=NAME)
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"set autocommit = {1 if begin else 0}")
            # The server takes no less than a second.
            cursor.execute(f"set innodb_lock_wait_timeout = {max(1, int(patience))}")
        return MySQLSession(connection, begin or None)

    def reader(self) -> Session:
        return LastingSession(
            lambda: self._reached(self._pymysql, database=NAME, autocommit=True)
        )

    def _reached(self, connect: Callable[..., Any], **options: Any) -> Any:
        """Connect, waiting for a server that is being restarted."""
        deadline = time.monotonic() + AWAY_PATIENCE
        while True:
            try:
                return connect(**self._options(), **options)
            except self.errors as exc:
                if not self.is_fault(exc) or time.monotonic() > deadline:
                    raise
            time.sleep(AGAIN)

    def _options(self) -> dict[str, Any]:
        url = urlsplit(self.url)
        return {"host": url.hostname, "port": url.port, "user": url.username}

    def _pymysql(self, **options: Any) -> Any:
        return pymysql.connect(ssl_disabled=True, read_timeout=ANSWER, **options)

    def _mysqlclient(self, **options: Any) -> Any:
        return MySQLdb.connect(read_timeout=ANSWER, **options)

    def _connector(self, **options: Any) -> Any:
        # Old servers do not know the character set that it takes by itself.
        return mysql.connector.connect(
            charset="utf8mb4",
            collation="utf8mb4_general_ci",
            ssl_disabled=True,
            connection_timeout=ANSWER,
            use_pure=True,
            **options,
        )

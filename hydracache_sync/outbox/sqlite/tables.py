"""The outbox's tables in a SQLite file."""

from __future__ import annotations

import contextlib
import os
import sqlite3

from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.schema import schema_statements, schema_text
from hydracache_sync.outbox.schema_checker import (
    require_columns,
    require_indexes,
    require_version,
)
from hydracache_sync.outbox.sqlite.errors import to_text
from hydracache_sync.outbox.sqlite.sessions import (
    SQLiteConnector,
    close_connection,
    rolled_back,
)
from hydracache_sync.outbox.statements import (
    PAUSED,
    SCHEMA_VERSION_SELECT,
    WORKERS,
)


class SQLiteTables:
    """Creates and looks at the tables.

    :param table: name of the outbox's own table.
    """

    def __init__(
        self, database: Database, connector: SQLiteConnector, table: str
    ) -> None:
        self._database = database
        self._connector = connector
        self._table = table

    def text(self) -> str:
        return schema_text("sqlite", self._table)

    def install(self) -> None:
        """Create what is missing; a new file is for this user alone (0600).

        One that is there keeps its mode, an empty one too.
        """
        path = self._connector.path
        # The errors of a path where no file can be are left to SQLite.
        with contextlib.suppress(OSError):
            # SQLite's own files beside it, -wal and -shm, take over this mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        connection = self._connected()
        try:
            self.install_on(connection)
        finally:
            close_connection(connection)

    def _connected(self) -> sqlite3.Connection:
        attempt = self._database.attempt()
        while True:
            with attempt:
                return self._connector.connect("rwc")

    def install_on(self, connection: sqlite3.Connection) -> None:
        """Create what is missing through ``connection``, in one transaction."""
        attempt = self._database.attempt()
        while True:
            with attempt:
                connection.execute("begin immediate")
                try:
                    self._create(connection)
                    connection.execute("commit")
                except BaseException:
                    rolled_back(connection)
                    raise
                return

    def _create(self, connection: sqlite3.Connection) -> None:
        version = self._database.statements.text(SCHEMA_VERSION_SELECT)
        with contextlib.suppress(sqlite3.OperationalError):  # there is no table
            for (found,) in connection.execute(version).fetchall():
                require_version(self._database, found)
        for statement in schema_statements(self.text()):
            connection.execute(statement)

    def exist(self, timeout: float | None) -> bool:
        return True  # else the first read of check() says so

    def check(self, timeout: float | None) -> None:
        database = self._database
        database.read("select 1 from {table} limit 0", {})
        columns = database.read(
            f"select name from pragma_table_info('{self._table}', 'main')",
            {},
            timeout=timeout,
        )
        require_columns(database, [to_text(name) for (name,) in columns])
        database.read(f"{PAUSED}limit 0", {})
        database.read(WORKERS, database.params(limit=0), timeout=timeout)
        indexes = database.read(
            'select list.name, list."unique", info.name, info.coll'
            f" from pragma_index_list('{self._table}', 'main') as list,"
            " pragma_index_xinfo(list.name) as info"
            " where info.key = 1"
            " order by list.name, info.seqno",
            {},
            timeout=timeout,
        )
        found: dict[tuple[str, int], list[str]] = {}
        for index, unique, column, collation in indexes:
            binary = to_text(collation).upper() == "BINARY"
            name = (
                to_text(column) if binary else f"{to_text(column)} {to_text(collation)}"
            )
            found.setdefault((to_text(index), unique), []).append(name)
        require_indexes(
            database,
            [columns for (_, unique), columns in found.items() if unique],
            list(found.values()),
        )

    def versions(self) -> dict[str, str]:
        return {"sqlite": sqlite3.sqlite_version}

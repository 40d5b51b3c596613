"""The outbox's tables in MySQL or MariaDB."""

from __future__ import annotations

from typing import Any

from hydracache_sync.drivers.pymysql_own import driver_version
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.history import MAX_HISTORY
from hydracache_sync.outbox.row import MAX_NODE, MAX_TRACEPARENT
from hydracache_sync.outbox.schema import SCHEMA_VERSION, schema_statements, schema_text
from hydracache_sync.outbox.schema_checker import (
    altered,
    found_version,
    require_columns,
    require_indexes,
)
from hydracache_sync.outbox.statements import PAUSED, WORKERS

#: Bytes that columns must take, as bytes: a text column takes different ones for the
#: same, and servers that are not strict cut in silence what is too long.
_BYTES = {
    "namespace": 64,
    "commit_position": 128,
    "target_hash": 32,
    "kind": 16,
    "value": 4096,
    "entity_name": 4096,
    "reason": 255,
    "claim_owner": 255,
    "waits_for": MAX_NODE,
    "last_error": 4096,
    "traceparent": MAX_TRACEPARENT,
    "history": MAX_HISTORY,
}

_PAUSED_BYTES = {"namespace": 64, "reason": 255}

#: Read, so that tables of an earlier version and a login without the right are told.
_IDENTITY = "select identity from {table}_schema"

#: Columns of moments, tokens and ids.
_BIG = (
    "id",
    "created_at_ms",
    "at_ms",
    "claimed_at_ms",
    "claim_until_ms",
    "claim_token",
)


class MySQLTables:
    """Creates and looks at the tables.

    :param schema: the database that they are in.
    :param table: name of the outbox's own table.
    """

    def __init__(self, database: Database, schema: str, table: str) -> None:
        self._database = database
        self._schema = schema
        self._table = table

    def text(self) -> str:
        return schema_text("mysql", self._table)

    def install(self) -> None:
        found = found_version(self._database)
        missing = found is None or (found == SCHEMA_VERSION and not self.exist(None))
        beside = ("_paused", "_heartbeat", "_workers")
        if not missing and all(self._columns(self._table + each) for each in beside):
            return
        for statement in schema_statements(self.text()):
            self._database.run(lambda cursor: cursor.execute(statement))

    def exist(self, timeout: float | None) -> bool:
        return bool(self._described("tables", "1, 2", timeout))

    def check(self, timeout: float | None) -> None:
        database = self._database
        [(engine, _)] = self._described("tables", "engine, 2", timeout)
        if str(engine).lower() != "innodb":
            altered(
                database,
                f"has engine {engine}, on which rows do not roll back with the data",
            )
        found = self._columns(self._table, timeout)
        require_columns(database, found)
        self._require_bytes(found, _BYTES)
        for column in _BIG:
            if found[column][0] != "bigint":
                altered(database, f"has {column} as {found[column][0]}, not bigint")
        indexes: dict[tuple[str, int], list[str]] = {}
        for index, _, column, other, part in self._described(
            "statistics",
            "index_name, seq_in_index, column_name, non_unique, sub_part",
            timeout,
        ):
            name = str(column) if part is None else f"{column}({part})"
            indexes.setdefault((str(index), int(other)), []).append(name)
        require_indexes(
            database,
            [columns for (_, other), columns in indexes.items() if not other],
            list(indexes.values()),
        )
        database.read(_IDENTITY, {}, timeout=timeout)
        # Read, not only looked up: a login without a right on it would be told that
        # the table is missing.
        database.read(f"{PAUSED}limit 0", {}, timeout=timeout)
        database.read(WORKERS, database.params(limit=0), timeout=timeout)
        paused = f"{self._table}_paused"
        self._require_bytes(self._columns(paused, timeout), _PAUSED_BYTES, paused)

    def _require_bytes(
        self,
        found: dict[str, tuple[str, int]],
        wanted: dict[str, int],
        table: str | None = None,
    ) -> None:
        database = self._database
        for column, length in wanted.items():
            kind, takes = found[column]
            if not kind.endswith(("binary", "blob")) or takes < length:
                altered(
                    database,
                    f"has {column} as {kind} of {takes} bytes: it must be binary, and"
                    f" take {length} or more",
                    table,
                )

    def _columns(
        self, table: str, timeout: float | None = None
    ) -> dict[str, tuple[str, int]]:
        """Type and length in bytes of each column; empty if ``table`` is not there."""
        described = self._described(
            "columns",
            "column_name, data_type, character_octet_length",
            timeout,
            table,
        )
        return {
            str(column): (str(kind), int(length or 0))
            for column, kind, length in described
        }

    def _described(
        self, what: str, columns: str, timeout: float | None, table: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Read what the server says of ``table``, or ours, in one of its own tables."""
        return self._database.read(
            f"select {columns} from information_schema.{what}"
            " where table_schema = :database and table_name = :name order by 1, 2",
            {"database": self._schema, "name": table or self._table},
            timeout=timeout,
        )

    def versions(self) -> dict[str, str]:
        [(version,)] = self._database.read("select version()", {})
        name = "mariadb" if "mariadb" in str(version).lower() else "mysql"
        return {name: str(version), "pymysql": driver_version()}

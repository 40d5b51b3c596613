"""Whether the tables are there, and are those of this version of the library."""

from __future__ import annotations

from typing import Collection, NoReturn, Protocol, Sequence

from hydracache_sync.errors import SchemaError
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.row import TABLE_COLUMNS
from hydracache_sync.outbox.schema import SCHEMA_VERSION


class Tables(Protocol):
    """The tables in one database: how they are made, and what they look like."""

    def text(self) -> str:
        """Return the DDL, for a DBA to read or run."""

    def install(self) -> None:
        """Create what is missing of them."""

    def exist(self, timeout: float | None) -> bool:
        """Whether the outbox's own table is there, beside the one of the version."""

    def check(self, timeout: float | None) -> None:
        """Raise SchemaError if tables of the right version were altered."""

    def versions(self) -> dict[str, str]:
        """Name the database and the driver, and their versions."""


class SchemaChecker:
    """Creates the tables, and checks them.

    :param database: one that does not check the tables first.
    """

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._tables = tables

    def install(self) -> None:
        self._tables.install()
        self.check()

    def check(self, timeout: float | None = None) -> None:
        """Return if the tables are there and of this library's version."""
        database = self._database
        found = found_version(database, timeout)
        if found == SCHEMA_VERSION and not self._tables.exist(timeout):
            found = None
        if found is None:
            raise SchemaError(
                f"table {database.table} is missing in {database.name}; run"
                " `hydracache schema install` or install_schema()",
                expected=SCHEMA_VERSION,
            )
        require_version(database, found)
        self._tables.check(timeout)


def found_version(database: Database, timeout: float | None = None) -> int | None:
    """Version in the database; None where there are no tables."""
    try:
        records = database.read(statements.SCHEMA_VERSION_SELECT, {}, timeout=timeout)
    except SchemaError:
        return None
    return int(records[0][0]) if records else None


def require_version(database: Database, found: int) -> None:
    """Raise SchemaError if ``found`` is another version than this library's."""
    if found == SCHEMA_VERSION:
        return
    age, mend = (
        ("older", "CHANGELOG.md has the steps from one version to the next")
        if found < SCHEMA_VERSION
        else ("newer", "upgrade hydracache_sync here")
    )
    raise SchemaError(
        f"the tables of {database.name} have version {found}, {age} than version"
        f" {SCHEMA_VERSION} of this library; {mend}",
        found=found,
        expected=SCHEMA_VERSION,
    )


def require_columns(database: Database, found: Collection[str]) -> None:
    """Raise SchemaError if the table has not all columns of this version."""
    missing = [column for column in TABLE_COLUMNS if column not in found]
    if missing:
        altered(
            database,
            f"lacks the columns {', '.join(missing)}: an earlier version made it, or it"
            " was altered",
        )


def require_indexes(
    database: Database, unique: Sequence[list[str]], indexes: Sequence[list[str]]
) -> None:
    """Raise SchemaError if the indexes that are needed are not there.

    :param unique: columns of the unique indexes; those that are not compared byte by
        byte say so in their names.
    :param indexes: columns of all indexes.
    """
    identity = ["namespace", "commit_position", "target_hash"]
    if identity not in unique:
        altered(database, f"has no unique index on {', '.join(identity)}, as bytes")
    if not any(columns[:3] == ["namespace", "state", "at_ms"] for columns in indexes):
        altered(
            database,
            "has no index that begins with namespace, state, at_ms: each claim would"
            " read every finished row",
        )


def altered(database: Database, what: str, table: str | None = None) -> NoReturn:
    """Raise SchemaError for a table that is not as it was made.

    :param table: its name; by default the outbox's own table.
    """
    raise SchemaError(
        f"{database.name}: the table {f'{table} ' if table else ''}{what}; compare it"
        " with `hydracache schema show`, and alter it",
        found=SCHEMA_VERSION,
        expected=SCHEMA_VERSION,
    )

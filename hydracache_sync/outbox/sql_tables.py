"""Whether the tables are there, and are those of this version of the library."""

from __future__ import annotations

import abc
from typing import Collection, NoReturn, Sequence

from hydracache_sync.errors import SchemaError
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.row import TABLE_COLUMNS
from hydracache_sync.outbox.schema import SCHEMA_VERSION
from hydracache_sync.outbox.sql_runner import StatementRunner


class CheckedTables(StatementRunner):
    """Checks the tables before their first use by this object, and when asked to."""

    def check_schema(self) -> None:
        self._check_schema(None)

    def _check_schema(self, timeout: float | None) -> None:
        found = self._found_version(timeout)
        if found is None:
            raise SchemaError(
                f"table {self._table} is missing in {self}; run `hydracache schema"
                " install` or install_schema()",
                expected=SCHEMA_VERSION,
            )
        self._require_version(found)
        self._check_tables(timeout)

    def _require_version(self, found: int) -> None:
        if found == SCHEMA_VERSION:
            return
        age, mend = (
            ("older", "run `hydracache schema install` with this version")
            if found < SCHEMA_VERSION
            else ("newer", "upgrade hydracache_sync here")
        )
        raise SchemaError(
            f"the tables of {self} have version {found}, {age} than version"
            f" {SCHEMA_VERSION} of this library; {mend}",
            found=found,
            expected=SCHEMA_VERSION,
        )

    @abc.abstractmethod
    def _check_tables(self, timeout: float | None) -> None:
        """Raise SchemaError if tables of the right version were altered."""

    def _require_columns(self, found: Collection[str]) -> None:
        """Raise SchemaError if the table has not all columns of this version."""
        missing = [column for column in TABLE_COLUMNS if column not in found]
        if missing:
            self._altered(
                f"lacks the columns {', '.join(missing)}: an earlier version made it,"
                " or it was altered"
            )

    def _require_indexes(
        self, unique: Sequence[list[str]], indexes: Sequence[list[str]]
    ) -> None:
        """Raise SchemaError if the indexes that are needed are not there.

        :param unique: columns of the unique indexes; those that are not compared byte
            by byte say so in their names.
        :param indexes: columns of all indexes.
        """
        identity = ["namespace", "commit_position", "target_hash"]
        if identity not in unique:
            self._altered(f"has no unique index on {', '.join(identity)}, as bytes")
        if not any(
            columns[:3] == ["namespace", "state", "at_ms"] for columns in indexes
        ):
            self._altered(
                "has no index that begins with namespace, state, at_ms: each claim"
                " would read every finished row"
            )

    def _altered(self, what: str, table: str | None = None) -> NoReturn:
        raise SchemaError(
            f"{self}: the table {f'{table} ' if table else ''}{what}; compare it with"
            " `hydracache schema show`",
            found=SCHEMA_VERSION,
            expected=SCHEMA_VERSION,
        )

    def _found_version(self, timeout: float | None = None) -> int | None:
        """Version in the database; None where there are no tables."""
        try:
            records = self._read(
                statements.SCHEMA_VERSION_SELECT, {}, timeout=timeout, check=False
            )
        except SchemaError:
            return None
        return int(records[0][0]) if records else None

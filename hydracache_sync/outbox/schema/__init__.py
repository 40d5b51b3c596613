"""The packaged DDL, as a DBA reads it and as statements to run."""

from __future__ import annotations

import re
from pathlib import Path

DEFAULT_TABLE = "hydracache_outbox"

#: Version of the tables that this library reads and writes.
SCHEMA_VERSION = 1


def schema_text(database: str, table: str = DEFAULT_TABLE) -> str:
    """Return the DDL for ``database``, "sqlite" or "mysql", with comments."""
    text = Path(__file__).with_name(f"{database}.sql").read_text("utf-8")
    return text.replace(DEFAULT_TABLE, table)


def schema_statements(text: str) -> list[str]:
    """Split DDL into its statements, without comments.

    For our own DDL only, which has no semicolon and no comment inside a literal.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return [part.strip() for part in "\n".join(lines).split(";") if part.strip()]


def install_statements(dialect: str, table: str = DEFAULT_TABLE) -> list[str]:
    """Return what makes the tables; statements that find them there do nothing.

    :param dialect: as SQLAlchemy and Django name it: sqlite, mysql or mariadb.
    :raises ValueError: any other, which has no outbox.
    """
    if dialect not in ("sqlite", "mysql", "mariadb"):
        raise ValueError(f"an outbox is in SQLite, MySQL or MariaDB, not in {dialect}")
    database = "sqlite" if dialect == "sqlite" else "mysql"
    return schema_statements(schema_text(database, table))


def table_names(table: str = DEFAULT_TABLE) -> list[str]:
    """Return the names of all tables of an outbox, in the order they are made in."""
    text = schema_text("mysql", table)
    return re.findall(r"^create table if not exists (\w+)", text, re.M)


def drop_statements(table: str = DEFAULT_TABLE) -> list[str]:
    """Return what drops the tables, and the rows that were not applied yet."""
    return [f"drop table if exists {name}" for name in reversed(table_names(table))]

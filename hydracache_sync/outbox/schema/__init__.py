"""The packaged DDL, as a DBA reads it and as statements to run."""

from __future__ import annotations

from importlib import resources

DEFAULT_TABLE = "hydracache_outbox"

#: Version of the tables that this library reads and writes.
SCHEMA_VERSION = 1


def schema_text(database: str, table: str = DEFAULT_TABLE) -> str:
    """Return the DDL for ``database``, "sqlite" or "mysql", with comments."""
    text = (resources.files(__name__) / f"{database}.sql").read_text("utf-8")
    return text.replace(DEFAULT_TABLE, table)


def schema_statements(text: str) -> list[str]:
    """Split DDL into its statements, without comments.

    For our own DDL only, which has no semicolon and no comment inside a literal.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return [part.strip() for part in "\n".join(lines).split(";") if part.strip()]

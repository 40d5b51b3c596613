"""The outbox's tables as SQLAlchemy's, read from the packaged DDL.

The DDL of MySQL says all but the types that columns have in SQLite. Both have the same
tables, columns and indexes.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import DDL, Column, Index, MetaData, Table, event, text
from sqlalchemy.dialects import mysql, sqlite

from hydracache_sync.app import settings
from hydracache_sync.outbox.schema import DEFAULT_TABLE, install_statements

#: Key in ``Table.info``, of the name of the outbox's own table.
OF_OUTBOX = "hydracache_outbox"

_MYSQL = ("mysql", "mariadb")

_ddl: Any = DDL  # untyped in SQLAlchemy


def tables(metadata: MetaData, table: str = DEFAULT_TABLE) -> None:
    """Add the outbox's tables to ``metadata``; harmless to repeat.

    Autogenerate then finds in the database what it looks for. ``create_all`` makes
    tables that ``hydracache schema check`` accepts.

    :param table: ``HYDRACACHE_TABLE``.
    :raises ValueError: that is no table's name.
    """
    table = settings.TABLE.parse(table)
    of_sqlite = dict(map(_created, _creates("sqlite", table)))
    for name, (body, _) in map(_created, _creates("mysql", table)):
        if name not in metadata.tables:
            _add(metadata, name, table, body, *of_sqlite[name])


def _creates(dialect: str, table: str) -> list[str]:
    statements = install_statements(dialect, table)
    return [each for each in statements if each.startswith("create table ")]


def _created(statement: str) -> tuple[str, tuple[str, str]]:
    """Name of the table; what is between its parentheses, and what is after them."""
    [(name, body, options)] = re.findall(
        r"(?s)^create table if not exists (\w+) \((.*)\)([^)]*)$", statement
    )
    return name, (body, options)


def _columns(body: str) -> dict[str, tuple[str, str]]:
    """Type of each column, and what is said of it after that."""
    found = re.findall(r"(?m)^ +(\w+) ([a-z]+(?:\(\d+\))?)( .*?)?,?$", body)
    return {name: (kind, rest) for name, kind, rest in found}


def _add(
    metadata: MetaData,
    name: str,
    table: str,
    body: str,
    sqlite_body: str,
    sqlite_options: str,
) -> None:
    parts: list[Any] = []
    [key] = re.findall(r"primary key \((\w+)\)", body)
    in_sqlite = _columns(sqlite_body)
    for column, (kind, rest) in _columns(body).items():
        if column not in in_sqlite:
            continue  # "primary key" and its like
        of_mysql = _type(mysql.dialect.ischema_names, kind)
        of_sqlite = _type(sqlite.dialect.ischema_names, in_sqlite[column][0].upper())
        for dialect in _MYSQL:
            of_sqlite = of_sqlite.with_variant(of_mysql, dialect)
        parts.append(
            Column(
                column,
                of_sqlite,
                primary_key=column == key,
                autoincrement="auto_increment" in rest,
                nullable="not null" not in rest,
                server_default=text("0") if "default 0" in rest else None,
            )
        )
    for unique, index, columns in re.findall(
        r"(?m)^ +(unique )?key (\w+) \((.*)\)", body
    ):
        parts.append(Index(index, *columns.split(", "), unique=bool(unique)))
    made = Table(
        name,
        metadata,
        *parts,
        info={OF_OUTBOX: table},
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
        sqlite_autoincrement="autoincrement" in sqlite_body,
        sqlite_with_rowid="without rowid" not in sqlite_options,
    )
    for dialect in ("sqlite", *_MYSQL):
        for statement in install_statements(dialect, table):
            if statement.startswith(f"insert into {name} "):
                row = _ddl(statement.replace("%", "%%")).execute_if(dialect=dialect)
                event.listen(made, "after_create", row)


def _type(kinds: Any, kind: str) -> Any:
    """An instance of the type that SQLAlchemy reflects such a column as."""
    name, _, length = kind.rstrip(")").partition("(")
    return kinds[name](int(length)) if length else kinds[name]()

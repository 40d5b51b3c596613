"""Statements of PyMySQL in cached loads, on MySQL and MariaDB: tables without a tag."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pymysql
import pytest
from mysql_databases import Database
from pymysql.cursors import SSCursor
from sqlalchemy import create_engine, text

from hydracache_sync import MemoryStore, TaggedCache
from hydracache_sync.integrations.sqlalchemy.recording import record_statements
from hydracache_sync.missing_tags import find_missing_tags
from hydracache_sync.statement_recorder import StatementRecorder


@pytest.fixture
def found(database: Database, tmp_path: Path) -> Callable[[], list[tuple[str, str]]]:
    database.sql("create table users (id integer, name varchar(20))")
    database.sql("create table stock (id integer, name varchar(20))")
    (tmp_path / "tags.ini").write_text("[tables]\nusers = user:*\n")

    def find() -> list[tuple[str, str]]:
        report = find_missing_tags(tmp_path / "loads.jsonl", tmp_path / "tags.ini")
        assert report.unreadable == ()
        return [(each.table, each.loader.rpartition(".")[2]) for each in report.missing]

    return find


@pytest.mark.parametrize("cursor_class", [None, SSCursor], ids=["plain", "unbuffered"])
def test_statements_of_a_connection_are_recorded(
    database: Database, tmp_path: Path, found: Any, cursor_class: Any
) -> None:
    cache = TaggedCache(MemoryStore(), "shop")

    def load() -> Any:
        with connection.cursor(cursor_class) as cursor:
            cursor.execute(
                "select u.name from users u join stock using (id)"
                " where u.id = %s and u.name like '%%a'",
                (1,),
            )
            return len(cursor.fetchall())

    with database.connect() as connection:
        with StatementRecorder(tmp_path / "loads.jsonl") as recorder:
            recorder.watch(connection)
            value = cache.get_or_load("a", load, tags=["user:1"])

    assert value == 0
    assert found() == [("stock", "load")]


def test_statements_of_an_engine_are_recorded(
    database: Database, tmp_path: Path, found: Any
) -> None:
    engine = create_engine(
        "mysql+pymysql://", creator=lambda: pymysql.connect(**database.options)
    )
    cache = TaggedCache(MemoryStore(), "shop")

    def load() -> Any:
        with engine.connect() as connection:
            statement = text("select * from stock where id = :id and name like '%a'")
            return len(connection.execute(statement, {"id": 1}).all())

    with StatementRecorder(tmp_path / "loads.jsonl") as recorder:
        record_statements(engine, recorder)
        value = cache.get_or_load("a", load, tags=["user:1"])
    engine.dispose()

    assert value == 0
    assert found() == [("stock", "load")]

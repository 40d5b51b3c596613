"""Connections as frameworks and pools hand them out."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, Iterator

import pytest
import sqlalchemy
from django.utils.connection import ConnectionProxy
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from hydracache_sync import InvalidationIntentBatch, SQLiteOutbox

SHOP = "shop"


def batch_of(*keys: str) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch("test")
    for key in keys:
        batch.invalidate_key(key)
    return batch


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[SQLiteOutbox]:
    with contextlib.closing(SQLiteOutbox(tmp_path / "shop.db")) as outbox:
        outbox.install_schema()
        with contextlib.closing(sqlite3.connect(outbox.path)) as connection:
            connection.execute("create table item (id integer)")
        yield outbox


@pytest.fixture
def engine(outbox: SQLiteOutbox) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(f"sqlite:///{outbox.path}")
    yield engine
    engine.dispose()


def test_a_raw_connection_of_sqlalchemy_is_one(
    outbox: SQLiteOutbox, engine: sqlalchemy.Engine
) -> None:
    with contextlib.closing(engine.raw_connection()) as connection:
        connection.cursor().execute("insert into item values (1)")
        receipt = outbox.enqueue_in(connection, SHOP, batch_of("undone"))
        seen = [outbox.sees(connection, receipt)]
        connection.rollback()
        connection.cursor().execute("insert into item values (2)")
        seen.append(outbox.sees(connection, receipt))
        outbox.enqueue_in(connection, SHOP, batch_of("done"))
        connection.commit()

    assert seen == [True, False]
    assert [row.intent and row.intent.value for row in outbox.rows(SHOP)] == ["done"]


def test_a_raw_connection_that_was_given_back_is_refused(
    outbox: SQLiteOutbox, engine: sqlalchemy.Engine
) -> None:
    connection = engine.raw_connection()
    connection.close()

    with pytest.raises(TypeError, match="attach"):
        outbox.enqueue_in(connection, SHOP, batch_of("a"))

    assert outbox.rows(SHOP) == []


class _Steady:
    """As DBUtils has it; the package is not among those of the tests."""

    __module__ = "dbutils.steady_db"


@pytest.mark.parametrize(
    ("thing", "remedy"),
    [
        (lambda engine: engine, "attach.*raw_connection"),
        (lambda engine: engine.connect(), r"attach.*\.connection\.driver_connection"),
        (Session, r"attach.*\.connection\(\)\.connection\.driver_connection"),
        (
            lambda engine: scoped_session(sessionmaker(engine)),
            r"attach.*\.connection\(\)\.connection\.driver_connection",
        ),
        (lambda engine: SQLAlchemy(), "attach"),
        (lambda engine: ConnectionProxy({}, "default"), r"atomic.*pass \.connection"),
        (lambda engine: _Steady(), r"begin\(\).*_con"),
        (lambda engine: object(), "the driver's own connection"),
    ],
    ids=["engine", "connection", "session", "scoped", "flask", "django", "dbutils", ""],
)
def test_what_is_no_connection_of_a_driver_is_refused_with_what_to_pass(
    outbox: SQLiteOutbox, engine: sqlalchemy.Engine, thing: Any, remedy: str
) -> None:
    with contextlib.ExitStack() as ended:
        connection = thing(engine)
        if isinstance(connection, (sqlalchemy.Connection, Session)):
            ended.callback(connection.close)

        with pytest.raises(TypeError, match=f"must be sqlite3.Connection.*{remedy}"):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

    assert outbox.rows(SHOP) == []

"""The database under the storm: the data of an app, beside the outbox.

A row of ``history`` is written in the transaction that changes an item, so whether a
transaction was committed is what this table says, whoever was killed when. Another
database is another subclass of ``Database`` and a line in ``open_database``; MariaDB
and MySQL are in ``mysql_database.py``.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing, suppress
from typing import Any, NamedTuple, Sequence

from faults.job import NAMESPACE
from faults.workload import Transaction, target
from hydracache_sync import (
    CommitPosition,
    InvalidationIntent,
    InvalidationOutbox,
    OutboxBusyError,
    open_outbox,
)

TABLES = [
    """create table item (
         id integer primary key, version integer not null, txn varchar(64) not null)""",
    """create table history (
         item integer not null, version integer not null,
         txn varchar(64) not null, position varchar(128) not null,
         primary key (item, version))""",
    """create table commits (
         txn varchar(64) primary key, slot integer not null,
         position varchar(128) not null, intents text not null)""",
    "create index commits_of_slot on commits (slot)",
]

#: Seconds to wait for a lock that others hold.
PATIENCE = 20.0

#: Newest version of an item whose commit has no row that is not published.
PUBLISHED_VERSION = """
select version
from history
where item = ?
  and not exists (
    select 1
    from hydracache_outbox
    where namespace = ?
      and commit_position = history.position
      and state <> 1
  )
order by version desc
limit 1
"""


class Commit(NamedTuple):
    """A transaction that was committed, as it was written down by itself."""

    txn: str
    position: str
    intents: list[InvalidationIntent]


class Session:
    """A connection of the app, and how a transaction begins on it.

    :ivar connection: the driver's own, for ``enqueue_in``.
    """

    def __init__(self, connection: Any, begin: str | None = None) -> None:
        self.connection = connection
        self._begin = begin

    def run(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(self._in_dialect(statement), parameters)
            # One driver refuses to fetch what a statement does not return.
            return list(cursor.fetchall()) if cursor.description else []

    def _in_dialect(self, statement: str) -> str:
        return statement

    def begin(self) -> None:
        if self._begin is not None:
            self.run(self._begin)

    def commit(self) -> None:
        self.connection.commit()

    def roll_back(self) -> None:
        self.connection.rollback()

    def close(self) -> None:
        # A server that has gone cannot be told; what was open is rolled back.
        with suppress(Exception):
            self.connection.rollback()
        with suppress(Exception):
            self.connection.close()

    # What writers do

    def change(self, transaction: Transaction) -> list[tuple[int, int]]:
        """Raise the versions of the items; return ``(item, version)`` of each."""
        changed = []
        for item in transaction.items:
            self.run(
                "update item set version = version + 1, txn = ? where id = ?",
                transaction.id,
                item,
            )
            [[version]] = self.run("select version from item where id = ?", item)
            changed.append((item, int(version)))
        return changed

    def write_down(
        self,
        transaction: Transaction,
        slot: int,
        changed: Sequence[tuple[int, int]],
        position: CommitPosition,
    ) -> None:
        """Write what the transaction did and what it has enqueued."""
        for item, version in changed:
            self.run(
                "insert into history (item, version, txn, position)"
                " values (?, ?, ?, ?)",
                item,
                version,
                transaction.id,
                position.value,
            )
        self.run(
            "insert into commits (txn, slot, position, intents) values (?, ?, ?, ?)",
            transaction.id,
            slot,
            position.value,
            json.dumps([target(intent) for intent in transaction.intents]),
        )

    # What readers ask, each in a snapshot of its own

    def item(self, item: int) -> tuple[int, str]:
        """Version of ``item``, and the transaction that wrote it."""
        [[version, txn]] = self.run("select version, txn from item where id = ?", item)
        return int(version), str(txn)

    def published_version(self, item: int) -> int:
        found = self.run(PUBLISHED_VERSION, item, NAMESPACE)
        return int(found[0][0]) if found else 0

    def author(self, item: int, version: int) -> str:
        """The transaction that wrote ``version`` of ``item``."""
        found = self.run(
            "select txn from history where item = ? and version = ?", item, version
        )
        return str(found[0][0]) if found else ""

    # What the supervisor and the checker ask

    def committed(self, slot: int | None = None) -> int:
        """Transactions committed, by one writer's slot or in all."""
        if slot is None:
            [[count]] = self.run("select count(*) from commits")
        else:
            [[count]] = self.run("select count(*) from commits where slot = ?", slot)
        return int(count)

    def commits(self) -> list[Commit]:
        return [
            Commit(txn, position, [InvalidationIntent(*t) for t in json.loads(intents)])
            for txn, position, intents in self.run(
                "select txn, position, intents from commits"
            )
        ]

    def history(self) -> list[tuple[Any, ...]]:
        """``(item, version, txn, position)`` in order."""
        return self.run(
            "select item, version, txn, position from history order by item, version"
        )

    def items(self) -> list[tuple[Any, ...]]:
        """``(item, version, txn)`` of each."""
        return self.run("select id, version, txn from item order by id")


class Database:
    """What the storm needs of a database.

    :param url: as ``open_outbox`` takes it.
    :ivar errors: what the driver raises.
    :ivar styles: names of the ways in which an app begins its transactions.
    """

    errors: tuple[type[Exception], ...]
    styles: list[str]

    def __init__(self, url: str) -> None:
        self.url = url

    def open_outbox(self) -> InvalidationOutbox:
        return open_outbox(self.url)

    def prepare(self, items: int) -> None:
        """Create the tables, with ``items`` items of version 0."""
        with closing(self.open_outbox()) as outbox:
            outbox.install_schema()
        with closing(self.writer(self.styles[0])) as session:
            session.begin()
            for statement in TABLES:
                session.run(statement)
            for item in range(items):
                session.run(
                    "insert into item (id, version, txn) values (?, 0, '')", item
                )
            session.commit()

    def product(self) -> tuple[str, str]:
        """What the database is, and its version."""
        raise NotImplementedError

    def is_fault(self, error: Exception) -> bool:
        """Whether ``error`` is one that a storm brings, and not a mistake of ours."""
        raise NotImplementedError

    def writer(self, style: str, *, patience: float = PATIENCE) -> Session:
        """Connect for transactions, waiting for a server that is being restarted.

        :param patience: seconds to wait for a lock before the transaction fails.
        """
        raise NotImplementedError

    def reader(self) -> Session:
        """Connect for statements that each see what is committed at that moment.

        Where a server may be restarted, they have to outlive that by themselves.
        """
        raise NotImplementedError


class SQLiteDatabase(Database):
    """One file in WAL mode, every commit synced."""

    @classmethod
    def in_folder(cls, folder: str) -> SQLiteDatabase:
        return cls(f"sqlite:///{folder}/storm.db")

    errors = (sqlite3.Error,)
    # "legacy": the driver begins before the first statement that writes.
    # "autocommit": the driver is always in a transaction (Python 3.12).
    styles = ["begin immediate", "legacy"] + (
        ["autocommit"] if sys.version_info >= (3, 12) else []
    )

    def prepare(self, items: int) -> None:
        with closing(sqlite3.connect(self._path)) as connection:
            connection.execute("pragma journal_mode = wal")
        super().prepare(items)

    def product(self) -> tuple[str, str]:
        return "sqlite", sqlite3.sqlite_version

    def is_fault(self, error: Exception) -> bool:
        return isinstance(error, OutboxBusyError) or "is locked" in str(error)

    def writer(self, style: str, *, patience: float = PATIENCE) -> Session:
        if style == "legacy":
            return Session(self._connect(patience))
        if style == "autocommit":
            connection = self._connect(patience, autocommit=True)
            connection.autocommit = False  # type: ignore[attr-defined]
            return Session(connection)
        return Session(self._connect(patience, isolation_level=None), style)

    def reader(self) -> Session:
        return Session(self._connect(PATIENCE, isolation_level=None))

    @property
    def _path(self) -> str:
        return self.url[len("sqlite:///") :]

    def _connect(self, patience: float, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(
            self._path, timeout=patience, **options
        )
        connection.execute("pragma synchronous = full")
        return connection


def open_database(url: str) -> Database:
    """Return the database at ``url``; nothing is connected yet."""
    if url.startswith("sqlite:///"):
        return SQLiteDatabase(url)
    # Its drivers are for those who ask for it.
    from faults.mysql_database import MySQLDatabase

    return MySQLDatabase(url)

"""The outbox in the memory of one process, for tests, demos and development."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from functools import partial
from typing import Any, Callable, ContextManager, Iterator

from hydracache_sync.errors import (
    ConnectionLostError,
    NotInTransactionError,
    OutboxBusyError,
    OutboxError,
)
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.call_limits import CallLimits
from hydracache_sync.outbox.database import BUSY_BACKOFF, Database
from hydracache_sync.outbox.due import Poll
from hydracache_sync.outbox.schema import DEFAULT_TABLE
from hydracache_sync.outbox.sqlite.callers import SQLiteCallers
from hydracache_sync.outbox.sqlite.errors import sqlite_error
from hydracache_sync.outbox.sqlite.inserts import SQLiteInserts
from hydracache_sync.outbox.sqlite.outbox import BUSY_TIMEOUT, SQLITE
from hydracache_sync.outbox.sqlite.sessions import (
    OwnConnection,
    SQLiteConnector,
    rolled_back,
)
from hydracache_sync.outbox.sqlite.tables import SQLiteTables

_NAME = "MemoryOutbox()"


class MemoryOutbox(InvalidationOutbox):
    """Outbox without a file: the SQLite one on a private database in memory.

    The same statements and so the same behaviour, but nothing outlives the process and
    no other process sees it; in a forked child every call raises ``OutboxError``.
    Thread-safe: threads take turns on one connection, and one that is inside
    ``transaction`` keeps the others waiting.

    Its rows are part of a transaction through ``transaction`` only.
    """

    def __init__(
        self,
        *,
        busy_timeout: float = BUSY_TIMEOUT,
        max_batch: int | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        sessions = MemorySessions()
        # Closed with this object; from 3.13 on Python complains about one that is not.
        weakref.finalize(self, sessions.connection.close)
        database = Database(
            sessions,
            SQLITE,
            f"main.{DEFAULT_TABLE}",
            name=_NAME,
            busy_timeout=busy_timeout,
            clock=clock,
            limits=CallLimits(),
        )
        super().__init__(
            database,
            MemoryTables(database),
            SQLiteInserts(database.statements),
            SQLiteCallers(None, _NAME, partial(_require_block, database)),
            MemoryClaims(),
            _as_it_is,
            max_batch=max_batch,
        )
        self.install_schema()

    def close(self) -> None:
        """Do nothing: the rows live as long as this object."""


class MemorySessions:
    """Lends one connection to one thread at a time."""

    retries_commit = True

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        #: ``bytes`` once a value was found that is no text.
        self._text_factory: type[str] | type[bytes] = str
        self.connection = connected()

    @contextlib.contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        if os.getpid() != self._pid:
            raise OutboxError(
                f"a MemoryOutbox lives in process {self._pid} and this is its child"
                f" {os.getpid()}; use SQLiteOutbox across processes"
            )
        # Short: how long to wait in all is the caller's to count.
        if not self._mutex.acquire(timeout=BUSY_BACKOFF.longest):
            raise OutboxBusyError(f"{_NAME}: another thread is inside transaction()")
        try:
            self.connection.text_factory = self._text_factory
            yield self.connection
        finally:
            self._mutex.release()

    def close(self) -> None:
        """Do nothing: the rows live in the connection."""

    def prepare(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = str

    def restore(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = self._text_factory
        connection.row_factory = None

    def in_transaction(self, connection: sqlite3.Connection) -> bool:
        return connection.in_transaction

    def abandon(self, connection: sqlite3.Connection, exc: BaseException) -> None:
        rolled_back(connection)

    def error_of(self, exc: Exception) -> OutboxError | None:
        if not isinstance(exc, sqlite3.Error):
            return None
        if "Could not decode" in str(exc):
            # As for a file, only that the connection stays; another thread may be using
            # it by now, and has it as the next one will.
            self._text_factory = bytes
            return ConnectionLostError(f"{_NAME}: {exc}")
        return sqlite_error(exc, _NAME)


class MemoryTables(SQLiteTables):
    """The tables, made on the connection that there is."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, SQLiteConnector(":memory:"), DEFAULT_TABLE)

    def install(self) -> None:
        with self._database.session() as connection:
            self.install_on(connection)


def _require_block(database: Database, connection: Any) -> None:
    """Refuse any connection but that of a ``transaction()`` block."""
    block = database.open_block()
    if block is None or block.connection is not connection:
        raise NotInTransactionError(
            "a MemoryOutbox takes part in no connection but its own: use"
            " `with outbox.transaction() as connection`; tests of an app take a"
            " RecordingOutbox of hydracache_sync.testing"
        )


class MemoryClaims:
    """A claim needs nothing more than its transaction."""

    def around(self, cursor: Any) -> ContextManager[None]:
        return contextlib.nullcontext()

    def locking(self, cursor: Any) -> str:
        return ""


def connected() -> OwnConnection:
    """Open a database in memory."""
    return sqlite3.connect(
        ":memory:",
        timeout=0.0,
        isolation_level=None,
        check_same_thread=False,
        factory=OwnConnection,
    )


def _as_it_is(poll: Poll) -> Poll:
    return poll

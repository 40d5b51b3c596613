"""A caller's SQLite connection: rows are written where its commit decides on them."""

from __future__ import annotations

import os
import sqlite3
from typing import Any, NoReturn, Sequence

from hydracache_sync.drivers.sqlite import SQLiteConnection
from hydracache_sync.drivers.sqlite_file import opened_file
from hydracache_sync.drivers.transaction_end import TransactionEnd
from hydracache_sync.drivers.wrappers import refusal
from hydracache_sync.errors import NotInTransactionError
from hydracache_sync.outbox.database import raise_as
from hydracache_sync.outbox.sqlite_errors import sqlite_error


class SQLiteCallers:
    """Callers' connections to the file ``path``.

    :param path: None where a connection was told apart already.
    :param name: of the outbox, for errors.
    """

    def __init__(self, path: str | None, name: str) -> None:
        self.path = path
        self.name = name
        #: As the last connection had the file open.
        self.file: str | None = None

    def cursor(self, connection: Any) -> CallersCursor:
        if not isinstance(connection, sqlite3.Connection):
            raise refusal("sqlite3.Connection", connection)
        return CallersCursor(self, connection)

    def execute(self, cursor: Any, text: str, values: Sequence[Any]) -> None:
        cursor.execute(text, values)

    def end_of(self, connection: Any) -> TransactionEnd | None:
        return None

    def require_same_file(self, connection: sqlite3.Connection) -> None:
        """Refuse a connection whose main database is another file."""
        if self.path is None:
            return
        opened = opened_file(connection)
        # Before 3.39 SQLite does not resolve the links among a path's directories.
        if opened != self.file and (
            not opened or os.path.realpath(opened) != os.path.realpath(self.path)
        ):
            raise NotInTransactionError(
                f"the connection has {opened or 'a database in memory'} open, the"
                f" outbox is in {self.path}: rows written there would never be drained"
            )
        self.file = opened


class CallersCursor:
    """Gives a cursor on the caller's connection, once that was checked.

    A class, not a generator: in a producer's way each call counts, the more as the
    processor comes from other work and has none of ours in its caches.
    """

    __slots__ = ("_callers", "_driver", "_idle")

    def __init__(self, callers: SQLiteCallers, connection: sqlite3.Connection) -> None:
        self._callers = callers
        self._driver = SQLiteConnection(connection)
        self._idle = False

    def __enter__(self) -> sqlite3.Cursor:
        driver = self._driver
        try:
            if not driver.connection.in_transaction:
                self._idle = True
                driver.require_transaction()
            self._callers.require_same_file(driver.connection)
            return driver.cursor()
        except sqlite3.Error as exc:
            self._fail(exc)

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        if isinstance(exc, sqlite3.Error):
            self._fail(exc)

    def _fail(self, exc: sqlite3.Error) -> NoReturn:
        if self._idle:
            self._driver.end_implicit()
        raise_as(sqlite_error(exc, self._callers.name), exc)

"""A caller's SQLite connection: rows are written where its commit decides on them."""

from __future__ import annotations

import os
import sqlite3
from typing import Any, NoReturn, Sequence

from hydracache_sync.drivers.connection import TransactionEnd
from hydracache_sync.drivers.sqlite import SQLiteConnection, opened_file
from hydracache_sync.drivers.wrappers import own_connection, refusal
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
            connection = own_connection(connection)
            if not isinstance(connection, sqlite3.Connection):
                raise refusal("sqlite3.Connection", connection)
        return CallersCursor(self, connection)

    def execute(self, cursor: Any, text: str, values: Sequence[Any]) -> None:
        cursor.execute(text, values)

    def require_file(self, opened: str, path: str) -> None:
        """Refuse a connection whose main database, ``opened``, is not at ``path``."""
        # Before 3.39 SQLite does not resolve the links among a path's directories.
        if not opened or os.path.realpath(opened) != os.path.realpath(path):
            raise NotInTransactionError(
                f"the connection has {opened or 'a database in memory'} open, the"
                f" outbox is in {path}: rows written there would never be drained"
            )
        self.file = opened


class CallersCursor:
    """Gives a cursor on the caller's connection, once that was checked.

    A class, not a generator: in a producer's way each call counts, the more as the
    processor comes from other work and has none of ours in its caches.
    """

    __slots__ = ("_callers", "_connection", "_idle")

    def __init__(self, callers: SQLiteCallers, connection: sqlite3.Connection) -> None:
        self._callers = callers
        self._connection = connection
        self._idle = False

    def __enter__(self) -> sqlite3.Cursor:
        connection = self._connection
        try:
            if not connection.in_transaction:
                self._idle = True
                SQLiteConnection(connection).require_transaction()
            callers = self._callers
            if callers.path is not None:
                opened = opened_file(connection)
                if opened != callers.file:
                    callers.require_file(opened, callers.path)
            # Not connection.cursor(): a subclass may give it other habits.
            return sqlite3.Cursor(connection)
        except sqlite3.Error as exc:
            self._fail(exc)

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        if isinstance(exc, sqlite3.Error):
            self._fail(exc)

    def transaction_end(self) -> TransactionEnd | None:
        return None

    def _fail(self, exc: sqlite3.Error) -> NoReturn:
        if self._idle:
            SQLiteConnection(self._connection).end_implicit()
        raise_as(sqlite_error(exc, self._callers.name), exc)

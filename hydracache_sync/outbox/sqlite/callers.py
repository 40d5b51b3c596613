"""A caller's SQLite connection: rows are written where its commit decides on them."""

from __future__ import annotations

import os
import sqlite3
from typing import Any, Callable, Sequence, TypeVar

from hydracache_sync.drivers.connection import TransactionEnd
from hydracache_sync.drivers.sqlite import SQLiteConnection, opened_file
from hydracache_sync.drivers.wrappers import own_connection, refusal
from hydracache_sync.errors import NotInTransactionError
from hydracache_sync.outbox.database import raise_as
from hydracache_sync.outbox.sqlite.errors import sqlite_error

T = TypeVar("T")


class SQLiteCallers:
    """Callers' connections to the file ``path``.

    :param path: None for an outbox in memory.
    :param name: of the outbox, for errors.
    :param require: refuses other connections than that one's.
    """

    def __init__(
        self,
        path: str | None,
        name: str,
        require: Callable[[Any], None] | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self._require = require
        #: As the last connection had the file open.
        self.file: str | None = None

    def run(
        self, connection: Any, work: Callable[..., T], *args: Any
    ) -> tuple[T, TransactionEnd | None]:
        if self._require is not None:
            self._require(connection)
        if not isinstance(connection, sqlite3.Connection):
            connection = own_connection(connection)
            if not isinstance(connection, sqlite3.Connection):
                raise refusal("sqlite3.Connection", connection)
        idle = False
        try:
            if not connection.in_transaction:
                idle = True
                SQLiteConnection(connection).require_transaction()
            if self.path is not None:
                opened = opened_file(connection)
                if opened != self.file:
                    self.require_file(opened, self.path)
            # Not connection.cursor(): a subclass may give it other habits.
            return work(sqlite3.Cursor(connection), *args), None
        except sqlite3.Error as exc:
            if idle:
                SQLiteConnection(connection).end_implicit()
            raise_as(sqlite_error(exc, self.name), exc)

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

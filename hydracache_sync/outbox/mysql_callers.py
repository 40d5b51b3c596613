"""A caller's MySQL connection: rows are written where its commit decides on them."""

from __future__ import annotations

from typing import Any, Callable, Sequence

from hydracache_sync.drivers import CallersConnection, mysql_driver_of
from hydracache_sync.drivers.connection import TransactionEnd
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.errors import NotInTransactionError
from hydracache_sync.outbox.database import raise_as
from hydracache_sync.outbox.mysql_errors import mysql_error
from hydracache_sync.outbox.mysql_inserts import literal


class MySQLCallers:
    """Callers' connections of any driver that is known.

    :param name: of the outbox, for errors.
    :param require: refuses one to another server.
    """

    def __init__(self, name: str, require: Callable[[CallersConnection], None]) -> None:
        self.name = name
        self._require = require

    def cursor(self, connection: Any) -> CallersCursor:
        driver = mysql_driver_of(own_connection(connection))
        return CallersCursor(driver, self.name, self._require)

    def execute(self, cursor: Any, text: str, values: Sequence[Any]) -> None:
        cursor.execute(text % tuple(map(literal, values)))


class CallersCursor:
    """Gives a cursor on the caller's connection, once that was checked."""

    __slots__ = ("_cursor", "_driver", "_name", "_require")

    def __init__(
        self,
        driver: CallersConnection,
        name: str,
        require: Callable[[CallersConnection], None],
    ) -> None:
        self._driver = driver
        self._name = name
        self._require = require
        self._cursor: Any = None

    def __enter__(self) -> Any:
        try:
            self._driver.require_transaction()
            self._require(self._driver)
            self._cursor = self._driver.cursor()
            return self._cursor
        except self._driver.errors as exc:
            raise_as(mysql_error(exc, self._name, own=False), exc)

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        driver, cursor = self._driver, self._cursor
        self._cursor = None
        try:
            cursor.close()
            if exc is None and driver.committed_at_once():
                raise NotInTransactionError(
                    "the connection committed the invalidation at once: its transaction"
                    " had been ended before, by an error or by a statement that commits"
                )
        except driver.errors as failure:
            raise_as(mysql_error(failure, self._name, own=False), failure)
        if isinstance(exc, driver.errors):
            raise_as(mysql_error(exc, self._name, own=False), exc)

    def transaction_end(self) -> TransactionEnd | None:
        is_over = self._driver.completion()
        return None if is_over is None else TransactionEnd(is_over)

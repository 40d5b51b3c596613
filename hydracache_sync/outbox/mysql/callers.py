"""A caller's MySQL connection: rows are written where its commit decides on them."""

from __future__ import annotations

from typing import Any, Callable, Sequence, TypeVar

from hydracache_sync.drivers import CallersConnection, mysql_driver_of
from hydracache_sync.drivers.connection import TransactionEnd
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.errors import NotInTransactionError
from hydracache_sync.outbox.database import raise_as
from hydracache_sync.outbox.mysql.errors import mysql_error
from hydracache_sync.outbox.mysql.inserts import literal

T = TypeVar("T")


class MySQLCallers:
    """Callers' connections of any driver that is known.

    :param name: of the outbox, for errors.
    :param require: refuses one to another server.
    """

    def __init__(self, name: str, require: Callable[[CallersConnection], None]) -> None:
        self.name = name
        self._require = require

    def run(
        self, connection: Any, work: Callable[..., T], *args: Any
    ) -> tuple[T, TransactionEnd | None]:
        driver = mysql_driver_of(own_connection(connection))
        try:
            driver.require_transaction()
            self._require(driver)
            cursor = driver.cursor()
            try:
                result = work(cursor, *args)
            finally:
                cursor.close()
            if driver.committed_at_once():
                raise NotInTransactionError(
                    "the connection committed the invalidation at once: its transaction"
                    " had been ended before, by an error or by a statement that commits"
                )
        except driver.errors as exc:
            raise_as(mysql_error(exc, self.name, own=False), exc)
        is_over = driver.completion()
        return result, None if is_over is None else TransactionEnd(is_over)

    def execute(self, cursor: Any, text: str, values: Sequence[Any]) -> None:
        cursor.execute(text % tuple(map(literal, values)))

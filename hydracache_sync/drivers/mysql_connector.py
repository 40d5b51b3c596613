"""Connections of mysql-connector-python: know a transaction, ask for autocommit."""

from __future__ import annotations

import sys
from typing import Any, Callable

from hydracache_sync.drivers.mysql import autocommits, execute, refuse_autocommit


class MySQLConnectorConnection:
    """See :class:`~hydracache_sync.drivers.connection.CallersConnection`."""

    tells_snapshots = False

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.errors: tuple[type[Exception], ...] = (
            sys.modules["mysql.connector"].Error,
            OSError,
        )

    def cursor(self) -> Any:
        return self.connection.cursor()

    def in_transaction(self) -> bool:
        # Asked as the driver does, which takes a raw answer for "off".
        return bool(self.connection.in_transaction) or not autocommits(self.cursor())

    def require_transaction(self) -> None:
        if not self.in_transaction():
            raise refuse_autocommit()

    def has_begun(self) -> bool | None:
        return False if self.connection.in_transaction is False else None

    def has_snapshot(self) -> bool:
        raise NotImplementedError

    def is_reading(self) -> bool:
        return False

    def answered(self) -> object:
        return None

    def changes(self) -> int | None:
        return None

    def has_written(self) -> bool | None:
        return self.has_begun()

    def committed_at_once(self) -> bool:
        return not self.in_transaction()

    def has_committed(self) -> bool:
        return self.has_begun() is False

    def completion(self) -> Callable[[], bool] | None:
        return None

    def begin(self) -> None:
        if not self.in_transaction():
            execute(self.cursor(), "begin")

    def commit(self) -> None:
        self.connection.commit()

    def roll_back(self) -> None:
        self.connection.rollback()

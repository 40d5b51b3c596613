"""Connections of mysql-connector-python: know a transaction, ask for autocommit."""

from __future__ import annotations

import sys
from typing import Any

from hydracache_sync.drivers.mysql import (
    MySQLConnection,
    autocommits,
    execute,
    refuse_autocommit,
)


class MySQLConnectorConnection(MySQLConnection):
    """A connection of mysql-connector-python's."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection, sys.modules["mysql.connector"].Error)

    def cursor(self) -> Any:
        return self.connection.cursor()

    def server(self) -> str | None:
        connection = self.connection
        return (
            connection.unix_socket
            or f"{connection.server_host}:{connection.server_port}"
        )

    def session(self) -> object:
        return self.connection.connection_id

    def in_transaction(self) -> bool:
        # Asked as the driver does, which takes a raw answer for "off".
        return bool(self.connection.in_transaction) or not autocommits(self.cursor())

    def require_transaction(self) -> None:
        if not self.in_transaction():
            raise refuse_autocommit()

    def has_begun(self) -> bool | None:
        return False if self.connection.in_transaction is False else None

    def seen_in_snapshot(self) -> bool | None:
        return bool(self.connection.in_transaction)

    def has_written(self) -> bool | None:
        return self.has_begun()

    def committed_at_once(self) -> bool:
        return not self.in_transaction()

    def has_committed(self) -> bool:
        return self.has_begun() is False

    def begin(self) -> None:
        if not self.in_transaction():
            execute(self.cursor(), "begin")

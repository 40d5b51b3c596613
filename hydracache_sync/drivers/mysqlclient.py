"""Connections of mysqlclient, which know autocommit, but not whether BEGIN was sent."""

from __future__ import annotations

import sys
from typing import Any

from hydracache_sync.drivers.mysql import (
    MySQLConnection,
    error_number,
    execute,
    refuse_autocommit,
)

#: No savepoint of that name outside a transaction: RELEASE fails.
_NO_SAVEPOINT = 1305
_SAVEPOINT = "hydracache_sync_probe"


class MySQLClientConnection(MySQLConnection):
    """A connection of mysqlclient's."""

    def cursor(self) -> Any:
        return self.connection.cursor(sys.modules["MySQLdb.cursors"].Cursor)

    def server(self) -> str | None:
        host, _, by = self.connection.get_host_info().partition(" via ")
        return f"{host}:{self.connection.port}" if by == "TCP/IP" else None

    def session(self) -> object:
        return self.connection.thread_id()

    def in_transaction(self) -> bool:
        return not self.connection.get_autocommit() or self._has_savepoints()

    def _has_savepoints(self) -> bool:
        """Ask the server, in a way that every version and right allows.

        Outside a transaction a savepoint is gone as soon as it is made.
        """
        cursor = self.cursor()
        try:
            cursor.execute(f"savepoint {_SAVEPOINT}")
            cursor.execute(f"release savepoint {_SAVEPOINT}")
        except self.connection.Error as exc:
            if error_number(exc) == _NO_SAVEPOINT:
                return False
            raise
        finally:
            cursor.close()
        return True

    def require_transaction(self) -> None:
        if not self.in_transaction():
            raise refuse_autocommit()

    def has_begun(self) -> bool | None:
        return None

    def seen_in_snapshot(self) -> bool | None:
        return None

    def has_written(self) -> bool | None:
        return None

    def committed_at_once(self) -> bool:
        return False  # the server has been asked a moment ago

    def has_committed(self) -> bool:
        # A COMMIT in text stays unseen.
        return bool(self.connection.get_autocommit())

    def begin(self) -> None:
        if not self.in_transaction():
            execute(self.cursor(), "begin")

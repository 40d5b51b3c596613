"""The heartbeat: until when everything committed is in a snapshot that has it.

One row on the server that takes the writes. Its moment is read before its own commit,
so whatever was committed before that moment is before it in the log, too. Where a
replica applies commits in their order, a snapshot that shows the row has all of that.
"""

from __future__ import annotations

from hydracache_sync.durations import duration_ms
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.database import Database


class Heartbeat:
    """Writes the row, for all namespaces and readers of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, *, every: float) -> None:
        """See ``InvalidationOutbox.write_heartbeat``."""
        every_ms = duration_ms("every", every)
        database = self._database

        def write(cursor: object) -> None:
            # The host's clock at each try, not before one that had to wait.
            params = database.params(every_ms=every_ms)
            params["host_ms"] = params["now"]
            database.statements.run(cursor, statements.HEARTBEAT, params)

        database.run(write)

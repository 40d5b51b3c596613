"""The outbox in a SQLite file, beside the data of the app that writes to it."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from typing import Any, Callable, Iterator

from hydracache_sync.errors import ConfigurationError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.call_limits import CallLimits
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.dialect import Dialect
from hydracache_sync.outbox.history import MAX_HISTORY
from hydracache_sync.outbox.schema import DEFAULT_TABLE
from hydracache_sync.outbox.sqlite.callers import SQLiteCallers
from hydracache_sync.outbox.sqlite.inserts import SQLiteInserts
from hydracache_sync.outbox.sqlite.poll import FilePoll
from hydracache_sync.outbox.sqlite.sessions import SQLiteConnector, SQLiteSessions
from hydracache_sync.outbox.sqlite.tables import SQLiteTables

#: Seconds to go on trying while others hold SQLite's write lock. Producers hold it
#: for milliseconds; a backup or a long import may hold it for seconds.
BUSY_TIMEOUT = 5.0

SQLITE = Dialect(
    # SQLite has no clock but the host's, and one file is used on one host.
    now=":now",
    marker="?",
    on_conflict="\non conflict (namespace, commit_position, target_hash) do nothing",
    # An upsert would count the rows that it updates as if it had inserted them.
    carry_again=None,
    on_present="\non conflict ({key}) do update set",
    # LIKE would take capitals for small letters.
    matches="last_error glob :pattern",
    kept=("substr(", " || ", f", -{MAX_HISTORY})"),
    pattern=lambda text: "*" + re.sub(r"[\[?]", r"[\g<0>]", text) + "*",
    begin="begin immediate",
    ids_in_text=False,
    encode=lambda text: text,
)


class SQLiteOutbox(InvalidationOutbox):
    """Outbox in the SQLite file ``path``, which is the file of the app's data.

    Thread-safe: each thread gets a connection of its own at its first use, and so does
    a forked child. The file is not created, nor its journal mode changed, except that
    ``install_schema`` creates a file that is missing.

    :param path: made absolute at once; a later ``chdir`` has no effect.
    :param table: its name; beside it are ``<table>_schema``,
        ``<table>_paused``, ``<table>_heartbeat`` and ``<table>_workers``.
    :param busy_timeout: seconds to go on trying while others hold the write lock.
    :param max_batch: intents that a batch may have; beyond it an enqueue is a
        ``ValueError`` and writes nothing. By default without limit.
    :param clock: returns Unix seconds, for tests; by default ``time.time``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = DEFAULT_TABLE,
        busy_timeout: float = BUSY_TIMEOUT,
        max_batch: int | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", table):
            raise ConfigurationError(
                f"table {table!r} is not a name of letters, digits and underscores"
            )
        name = os.fsdecode(path)
        if name in ("", ":memory:") or name.startswith("file:"):
            raise ConfigurationError(
                f"path {name!r} names no file: a database in memory is seen by one"
                " connection only, use MemoryOutbox() there; of a URI give the path"
            )
        self.path = os.path.abspath(name)
        if "\0" in self.path:
            raise ConfigurationError(f"path {self.path!r} has a NUL in it")
        shown = f"SQLiteOutbox({self.path!r})"
        connector = SQLiteConnector(self.path)
        sessions = SQLiteSessions(connector, shown)
        database = Database(
            sessions,
            SQLITE,
            # "main.": a temporary table of the caller's would be taken before ours.
            f"main.{table}",
            name=shown,
            busy_timeout=busy_timeout,
            clock=clock,
            limits=CallLimits(),
        )
        super().__init__(
            database,
            SQLiteTables(database, connector, table),
            SQLiteInserts(database.statements),
            SQLiteCallers(self.path, shown),
            UnsyncedClaims(sessions),
            lambda poll: FilePoll(poll, self.path, clock),
            max_batch=max_batch,
        )


class UnsyncedClaims:
    """A claim waits for no disk.

    A claim that a power cut takes back harms nothing: its worker is gone, and the
    rows are due at once. To wait for the disk is half of what a worker waits for. In
    WAL mode alone: only there does the next commit that is synced bring all before it
    to the disk, in order, and the file is never broken.
    """

    def __init__(self, sessions: SQLiteSessions) -> None:
        self._sessions = sessions

    @contextlib.contextmanager
    def around(self, cursor: sqlite3.Cursor) -> Iterator[None]:
        if not cursor.connection.logs_ahead:  # type: ignore[attr-defined]
            yield
            return
        try:
            cursor.execute("pragma synchronous = normal")
            yield
        finally:
            try:
                cursor.execute("pragma synchronous = full")
            except BaseException as exc:
                # The next connection begins with it.
                self._sessions.discard()
                if not isinstance(exc, sqlite3.Error):
                    raise

    def locking(self, cursor: Any) -> str:
        return ""  # the transaction has the file's write lock

"""Own connections to a SQLite file: how they are made, lent and replaced."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import weakref
from typing import Any, Callable, Iterator
from urllib.parse import quote

from hydracache_sync.errors import ConnectionLostError, OutboxError
from hydracache_sync.fork import (
    ForkLock,
    ProcessLocal,
    abandon_in_children,
    fork_lock,
    keep_for_good,
)
from hydracache_sync.outbox.sqlite.errors import sqlite_error, to_text


class _Slot:
    """One thread's connection; closes it when the thread ends, or its owner."""

    def __init__(
        self,
        connection: Any,
        close: Callable[[Any], None],
        abandon: Callable[[Any], None],
    ) -> None:
        self.connection = connection
        self.pid = os.getpid()
        self._close = close
        self._abandon = abandon
        # An owner in a cycle, as an app and its extensions are, is collected with all
        # that only it holds, in any order. A finalizer holds the connection, so that it
        # is there to be closed, and not by itself.
        self._end = weakref.finalize(self, _end, connection, self.pid, close, abandon)
        # Threads may still be using theirs when the interpreter ends.
        self._end.atexit = False

    def close(self) -> None:
        connection, self.connection = self.connection, None
        self._end.detach()
        if connection is not None:
            _end(connection, self.pid, self._close, self._abandon)

    def __del__(self) -> None:
        # Finalizers do nothing any more at the interpreter's end.
        self.close()


def _end(
    connection: Any,
    pid: int,
    close: Callable[[Any], None],
    abandon: Callable[[Any], None],
) -> None:
    if pid == os.getpid():
        close(connection)
    else:
        abandon(connection)


class ThreadConnections:
    """Opens a connection at a thread's first use and keeps it for that thread.

    :param connect: opens a connection; called in the thread that uses it.
    :param close: closes one; also called from another thread, by :meth:`close_all`.
    :param abandon: called in a child with a connection of its parent's: lets go of it
        without a word that the server, or the parent, would hear.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        close: Callable[[Any], None],
        abandon: Callable[[Any], None],
    ) -> None:
        self._connect = connect
        self._close = close
        self._abandon = abandon
        self._local = ProcessLocal()
        self._slots: weakref.WeakSet[_Slot] = weakref.WeakSet()
        abandon_in_children(self)

    def get(self) -> Any:
        """Return this thread's connection, opening it if there is none."""
        local = self._local.mine()
        slot = getattr(local, "slot", None)
        if slot is None or slot.connection is None:
            # Here too, for forks that Python does not see.
            self.abandon_inherited()
            slot = _Slot(self._connect(), self._close, self._abandon)
            local.slot = slot
            self._slots.add(slot)
        return slot.connection

    def discard(self) -> None:
        """Close this thread's connection; the next use opens another."""
        slot = getattr(self._local.mine(), "slot", None)
        if slot is not None:
            slot.close()

    def abandon_inherited(self) -> None:
        """In a forked child, forget the parent's connections and let them be."""
        for slot in list(self._slots):
            if slot.pid != os.getpid():
                slot.close()

    def close_all(self) -> None:
        """Close the connections of all threads of this process."""
        for slot in list(self._slots):
            slot.close()


class OwnConnection(sqlite3.Connection):
    """One of our own.

    :ivar logs_ahead: whether the file is in WAL mode. Nobody can end that while a
        connection is open.
    :ivar file: which file it has open, as device and inode; None if not known.
    """

    logs_ahead = False
    file: tuple[int, int] | None = None


class SQLiteConnector:
    """Opens own connections to the file ``path``.

    :ivar text_factory: of the connections; ``bytes`` once a value was found that is
        not UTF-8. One such value must not fail the rows beside it: from then on rows
        decode themselves, which takes longer.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.text_factory: type[str] | type[bytes] = str

    def connect(self, mode: str = "rw") -> OwnConnection:
        # Before it is opened: should another file come in its place in between, that
        # is noticed at the next use.
        file = self.file_there()
        connection = sqlite3.connect(
            f"file:{quote(self.path)}?mode={mode}",
            uri=True,
            # Waiting is done by Database, in pauses that let greenlets run.
            timeout=0.0,
            isolation_level=None,
            # Used by one thread, closed by any.
            check_same_thread=False,
            factory=OwnConnection,
        )
        connection.text_factory = self.text_factory
        connection.file = file
        try:
            # In WAL mode the default of some builds may lose the last commits.
            connection.execute("pragma synchronous = full")
            [(journal,)] = connection.execute("pragma journal_mode")
            connection.logs_ahead = to_text(journal) == "wal"
        except BaseException:
            connection.close()
            raise
        return connection

    def file_there(
        self, unknown: tuple[int, int] | None = None
    ) -> tuple[int, int] | None:
        """Device and inode of what is at the path now; None if nothing is.

        :param unknown: returned where it cannot be told, as by a process that has
            given up its rights on the directory since.
        """
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        except OSError:
            return unknown
        return found.st_dev, found.st_ino


class SQLiteSessions:
    """Lends each thread a connection of its own.

    :param name: of the outbox, for errors.
    """

    retries_commit = True

    def __init__(self, connector: SQLiteConnector, name: str) -> None:
        self._connector = connector
        self._name = name
        self._connections = ThreadConnections(
            connector.connect, close_connection, keep_for_good
        )

    @contextlib.contextmanager
    def lend(self) -> Iterator[OwnConnection]:
        with fork_lock:
            connection = self._connections.get()
            if connection.file != self._connector.file_there(connection.file):
                # A backup was put in its place, or it was deleted. SQLite leaves
                # alone the log that is at the path now, which is another's.
                self.discard()
                connection = self._connections.get()
            yield connection

    def discard(self) -> None:
        """Close this thread's connection; the next use opens another."""
        self._connections.discard()

    def close(self) -> None:
        self._connections.close_all()

    def prepare(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = str

    def restore(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = self._connector.text_factory
        connection.row_factory = None

    def in_transaction(self, connection: sqlite3.Connection) -> bool:
        return connection.in_transaction

    def abandon(self, connection: sqlite3.Connection, exc: BaseException) -> None:
        if not rolled_back(connection):
            self.discard()

    def error_of(self, exc: Exception) -> OutboxError | None:
        if not isinstance(exc, sqlite3.Error):
            return None
        # Perhaps on a connection from before another thread found such a value. One
        # that gives bytes does not fail so, and an attempt is made again only once.
        if "Could not decode" in str(exc):
            self._connector.text_factory = bytes
            self.discard()
            return ConnectionLostError(f"{self._name}: {exc}")
        return sqlite_error(exc, self._name)


def rolled_back(connection: sqlite3.Connection) -> bool:
    """Roll back whatever is open; False if only closing the connection does it."""
    try:
        if connection.in_transaction:
            connection.execute("rollback")
    except sqlite3.Error:
        return False
    return True


def close_connection(
    connection: sqlite3.Connection, lock: ForkLock = fork_lock
) -> None:
    """Close a connection of ours, as at the end of its thread; no fork is made then.

    :param lock: bound here, since a module has lost its names at the interpreter's end.
    """
    with lock:
        sqlite3.Connection.close(connection)

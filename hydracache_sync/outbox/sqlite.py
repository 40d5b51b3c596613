"""The outbox in a SQLite file, beside the data of the app that writes to it."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
import weakref
from typing import Any, Callable, Iterator, Sequence, TypeVar
from urllib.parse import quote

from hydracache_sync.drivers.sqlite import SQLiteConnection
from hydracache_sync.drivers.sqlite_file import opened_file
from hydracache_sync.drivers.wrappers import refusal
from hydracache_sync.errors import (
    ConfigurationError,
    ConnectionLostError,
    NotInTransactionError,
    OutboxBusyError,
    OutboxError,
    SchemaError,
)
from hydracache_sync.fork import ForkLock, fork_lock
from hydracache_sync.outbox.connections import ThreadConnections, keep_for_good
from hydracache_sync.outbox.row import DETAIL_COLUMNS
from hydracache_sync.outbox.schema import (
    DEFAULT_TABLE,
    SCHEMA_VERSION,
    schema_statements,
    schema_text,
)
from hydracache_sync.outbox.sql import SQLOutbox
from hydracache_sync.outbox.sql_producers import NewRow, Shared
from hydracache_sync.outbox.sql_runner import (
    IDS_PER_STATEMENT,
    parts_of,
    raise_as,
)
from hydracache_sync.outbox.statements import (
    CARRY_AGAIN,
    CLAIMED,
    PAUSED,
    SCHEMA_VERSION_SELECT,
    Dialect,
    Present,
)

T = TypeVar("T")

#: Seconds to go on trying while others hold SQLite's write lock. Producers hold it
#: for milliseconds; a backup or a long import may hold it for seconds.
BUSY_TIMEOUT = 5.0

#: Seconds that a file must have been left alone so that its time of change tells the
#: next change from the last: some systems count it in ticks of 10 ms.
QUIET_AFTER = 0.05

#: Seconds until a file that nobody changed is looked into all the same, for rows whose
#: backoff or claim has ended.
LOOK_ANYWAY = 0.25

#: SQLITE_BUSY and SQLITE_LOCKED, without their extended parts (such as 517, a
#: snapshot that can no longer be written to).
_BUSY_CODES = (5, 6)

#: Rows of one INSERT with four parameters each, and five that they share; SQLite takes
#: 32766, or 999 before 3.32.
_ROWS_PER_INSERT = 3600 if sqlite3.sqlite_version_info >= (3, 32) else 110

#: The highest that an id can be.
MAX_ID = 2**63 - 1

SQLITE = Dialect(
    # SQLite has no clock but the host's, and one file is used on one host.
    now=":now",
    marker="?",
    on_conflict="\non conflict (namespace, commit_position, target_hash) do nothing",
    # An upsert would count the rows that it updates as if it had inserted them.
    carry_again=None,
    on_paused="\non conflict (namespace) do update set reason = :reason",
    # LIKE would take capitals for small letters.
    matches="last_error glob :pattern",
    pattern=lambda text: "*" + re.sub(r"[\[?]", r"[\g<0>]", text) + "*",
    begin="begin immediate",
    details=", ".join(
        f"{{{column}}}" if column in CLAIMED else column for column in DETAIL_COLUMNS
    )
    + ", {now}",
    ids_in_text=False,
    encode=lambda text: text,
)


class _Connection(sqlite3.Connection):
    """One of our own.

    :ivar logs_ahead: whether the file is in WAL mode. Nobody can end that while a
        connection is open.
    :ivar file: which file it has open, as device and inode; None if not known.
    """

    logs_ahead = False
    file: tuple[int, int] | None = None


class SQLiteOutbox(SQLOutbox):
    """Outbox in the SQLite file ``path``, which is the file of the app's data.

    Thread-safe: each thread gets a connection of its own at its first use, and so does
    a forked child. The file is not created, nor its journal mode changed, except that
    :meth:`install_schema` creates a file that is missing.

    :param path: made absolute at once; a later ``chdir`` has no effect.
    :param table: its name; beside it are ``<table>_schema`` and ``<table>_paused``.
    :param busy_timeout: seconds to go on trying while others hold the write lock.
    :param max_batch: intents that a batch may have; beyond it an enqueue is a
        ``ValueError`` and writes nothing. By default without limit.
    :param clock: returns Unix seconds, for tests; by default ``time.time``.
    """

    dialect = SQLITE
    _in_memory = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = DEFAULT_TABLE,
        busy_timeout: float = BUSY_TIMEOUT,
        max_batch: int | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        # "main.": a temporary table of the caller's would be taken before ours.
        super().__init__(
            table=f"main.{table}",
            busy_timeout=busy_timeout,
            max_batch=max_batch,
            clock=clock,
        )
        self._name = table
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", table):
            raise ConfigurationError(
                f"table {table!r} is not a name of letters, digits and underscores"
            )
        name = os.fsdecode(path)
        if not self._in_memory and (
            name in ("", ":memory:") or name.startswith("file:")
        ):
            raise ConfigurationError(
                f"path {name!r} names no file: a database in memory is seen by one"
                " connection only, use MemoryOutbox() there; of a URI give the path"
            )
        self.path = os.path.abspath(name)
        if "\0" in self.path:
            raise ConfigurationError(f"path {self.path!r} has a NUL in it")
        self._log = f"{self.path}-wal"
        #: Texts of INSERTs by their rows, and what they do about those that are there.
        self._inserts: dict[tuple[int, Present], str] = {}
        self._file: str | None = None
        #: What was asked for when nothing was due, how the files were then, and when.
        self._quiet: tuple[tuple[str, ...], tuple[int, ...], float] | None = None
        self._text_factory: type[str] | type[bytes] = str
        # Weak: in a cycle the connections would be collected before their owner, which
        # Python 3.13 complains about.
        itself = weakref.ref(self)

        def connect() -> sqlite3.Connection:
            outbox = itself()
            assert outbox is not None, "who asks for a connection holds the outbox"
            return outbox._connect()

        self._connections = ThreadConnections(connect, _close, keep_for_good)

    def __repr__(self) -> str:
        return f"SQLiteOutbox({self.path!r})"

    # Producers

    def _run_in(self, connection: Any, work: Callable[[sqlite3.Cursor], T]) -> T:
        if not isinstance(connection, sqlite3.Connection):
            raise refusal("sqlite3.Connection", connection)
        driver = SQLiteConnection(connection)
        idle = False
        try:
            idle = not connection.in_transaction
            if idle:
                driver.require_transaction()
            self._require_same_file(connection)
            return work(driver.cursor())
        except sqlite3.Error as exc:
            if idle:
                driver.end_implicit()
            raise_as(self._error(exc), exc)

    def _insert_parts(
        self, rows: Sequence[NewRow], shared: Shared
    ) -> Sequence[Sequence[NewRow]]:
        if len(rows) <= _ROWS_PER_INSERT:
            return [rows]
        return [
            rows[start : start + _ROWS_PER_INSERT]
            for start in range(0, len(rows), _ROWS_PER_INSERT)
        ]

    def _insert_part(
        self,
        cursor: sqlite3.Cursor,
        rows: Sequence[NewRow],
        shared: Shared,
        present: Present,
    ) -> int:
        text = self._inserts.get((len(rows), present))
        if text is None:
            marks = _marks(len(shared), len(rows), len(rows[0]))
            text = self._statements.insert(marks, present)
            self._inserts[len(rows), present] = text
        values = list(shared)
        for row in rows:
            values += row
        cursor.execute(text, values)
        inserted = cursor.rowcount
        if present is Present.CARRIED_AGAIN and inserted < len(rows):
            self._carry_again(cursor, rows, shared, inserted)
        return inserted

    def _carry_again(
        self,
        cursor: sqlite3.Cursor,
        rows: Sequence[NewRow],
        shared: Shared,
        inserted: int,
    ) -> None:
        """Change those of ``rows`` that were there, and not the ``inserted`` ones.

        In a transaction: the INSERT took the write lock, also if it added nothing, so
        that no purge comes between.
        """
        namespace, position, _, now_ms, _ = shared
        # New rows have the highest ids, of which the last is known.
        last = cursor.lastrowid - inserted if inserted and cursor.lastrowid else MAX_ID
        params = {
            "namespace": namespace,
            "position": position,
            "now": now_ms,
            "last": last,
        }
        for part in parts_of([row[0] for row in rows], IDS_PER_STATEMENT):
            self._statements.run(cursor, CARRY_AGAIN, params, part)

    def _require_same_file(self, connection: sqlite3.Connection) -> None:
        """Refuse a connection whose main database is another file."""
        opened = opened_file(connection)
        # Before 3.39 SQLite does not resolve the links among a path's directories.
        if opened != self._file and (
            not opened or os.path.realpath(opened) != os.path.realpath(self.path)
        ):
            raise NotInTransactionError(
                f"the connection has {opened or 'a database in memory'} open, the"
                f" outbox is in {self.path}: rows written there would never be drained"
            )
        self._file = opened

    # Workers

    def due_namespaces(self, namespaces: Sequence[str]) -> list[str]:
        """Tell at once, from the times of the files, when nobody has committed.

        An idle worker asks fifty times a second; the system call takes a fraction of a
        query's time. Rows whose backoff or claim has ended are told up to
        :data:`LOOK_ANYWAY` seconds late.
        """
        self._look_ahead(namespaces)
        asked = tuple(namespaces)
        now = (self._clock or time.time)()
        # Read before the rows: what is committed in between makes a difference later.
        changes = self._changes()
        quiet = self._quiet
        if quiet is not None and quiet[:2] == (asked, changes):
            if abs(now - quiet[2]) < LOOK_ANYWAY:
                return []
        due = super().due_namespaces(asked)
        self._quiet = None
        if changes is not None and not due:
            if changes[0] < (time.time() - QUIET_AFTER) * 1e9:
                self._quiet = (asked, changes, now)
        return due

    def _changes(self) -> tuple[int, ...] | None:
        """When the files were changed last, and their sizes; None without a file."""
        try:
            data = os.stat(self.path)
        except OSError:
            return None  # opening it says what is wrong
        try:
            log = os.stat(self._log)
        except OSError:
            return data.st_mtime_ns, data.st_size  # a rollback journal
        last = max(data.st_mtime_ns, log.st_mtime_ns)
        return last, data.st_size, log.st_mtime_ns, log.st_size

    @contextlib.contextmanager
    def _claiming(self, cursor: sqlite3.Cursor) -> Iterator[None]:
        # A claim that a power cut takes back harms nothing: whoever made it is gone,
        # and the rows are due at once. So it waits for no disk, half of what a worker
        # waits for. In WAL mode alone: only there does the next commit that is synced
        # bring all before it to the disk, in order, and the file is never broken.
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
                self._connections.discard()
                if not isinstance(exc, sqlite3.Error):
                    raise

    # Connections

    def _connect(self, mode: str = "rw") -> _Connection:
        # Before it is opened: should another file come in its place in between, that
        # is noticed at the next use.
        file = self._file_there()
        connection = sqlite3.connect(
            f"file:{quote(self.path)}?mode={mode}",
            uri=True,
            # Waiting is done by SQLOutbox, in pauses that let greenlets run.
            timeout=0.0,
            isolation_level=None,
            # Used by one thread, closed by any.
            check_same_thread=False,
            factory=_Connection,
        )
        connection.text_factory = self._text_factory
        connection.file = file
        try:
            # In WAL mode the default of some builds may lose the last commits.
            connection.execute("pragma synchronous = full")
            [(journal,)] = connection.execute("pragma journal_mode")
            connection.logs_ahead = _str(journal) == "wal"
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        self._refuse_in_block()
        with fork_lock:
            with self._translated():
                connection = self._connections.get()
                if connection.file != self._file_there(connection.file):
                    # A backup was put in its place, or it was deleted. SQLite leaves
                    # alone the log that is at the path now, which is another's.
                    self._connections.discard()
                    connection = self._connections.get()
            yield connection

    def _file_there(
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

    def _lend(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = str

    def _take_back(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = self._text_factory
        connection.row_factory = None

    def _in_transaction(self, connection: sqlite3.Connection) -> bool:
        with self._translated():
            return connection.in_transaction

    def _abandon(self, connection: sqlite3.Connection, exc: BaseException) -> None:
        try:
            if connection.in_transaction:
                connection.execute("rollback")
        except sqlite3.Error:
            # Closing ends the transaction all the same: nothing of it is kept.
            self._connections.discard()

    def close(self) -> None:
        self._connections.close_all()

    def versions(self) -> dict[str, str]:
        return {"sqlite": sqlite3.sqlite_version}

    # Errors

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            if "Could not decode" in str(exc) and self._text_factory is str:
                # One value that is not UTF-8 must not fail the rows beside it: from
                # now on rows decode themselves, which takes longer.
                self._text_factory = bytes
                self._drop_connection()
                raise ConnectionLostError(f"{self}: {exc}") from exc
            raise_as(self._error(exc), exc)

    def _drop_connection(self) -> None:
        self._connections.discard()

    def _error(self, exc: sqlite3.Error) -> OutboxError:
        text = str(exc)
        # The code is there from Python 3.11 on.
        code = getattr(exc, "sqlite_errorcode", None)
        if (code is not None and code & 0xFF in _BUSY_CODES) or "is locked" in text:
            return OutboxBusyError(
                f"{self}: {text}; another connection writes. Roll back and run the"
                " transaction again, if it is yours; BEGIN IMMEDIATE avoids most of it"
            )
        if "no such table" in text:
            return SchemaError(
                f"{self}: {text}; run `hydracache schema install` or install_schema()",
                expected=SCHEMA_VERSION,
            )
        if "no such column" in text or "has no column" in text:
            return SchemaError(
                f"{self}: {text}; the table was made by another version or altered,"
                " compare it with `hydracache schema show`",
                expected=SCHEMA_VERSION,
            )
        if "unable to open" in text:
            return OutboxError(
                f"{self}: {text}; check the path and its rights, or create the file"
                " with `hydracache schema install`"
            )
        return OutboxError(f"{self}: {text}")

    # The tables

    def install_schema(self) -> None:
        """Create what is missing; a new file is for this user alone (0600).

        One that is there keeps its mode, an empty one too.
        """
        # The errors of a path where no file can be are left to SQLite.
        with contextlib.suppress(OSError):
            # SQLite's own files beside it, -wal and -shm, take over this mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        connection = self._retried(lambda: self._connect("rwc"))
        try:
            self._retried(lambda: self._install(connection))
        finally:
            _close(connection)
        self.check_schema()

    def _install(self, connection: sqlite3.Connection) -> None:
        connection.execute("begin immediate")
        try:
            version = self._statements.text(SCHEMA_VERSION_SELECT)
            with contextlib.suppress(sqlite3.OperationalError):  # there is no table
                for (found,) in connection.execute(version).fetchall():
                    self._require_version(found)
            for statement in schema_statements(self.schema()):
                connection.execute(statement)
            connection.execute("commit")
        except BaseException as exc:
            self._abandon(connection, exc)
            raise

    def schema(self) -> str:
        """Return the DDL, for a DBA to read or run."""
        return schema_text("sqlite", self._name)

    def _check_tables(self, timeout: float | None) -> None:
        self._read("select 1 from {table} limit 0", {}, check=False)
        columns = self._read(
            f"select name from pragma_table_info('{self._name}', 'main')",
            {},
            timeout=timeout,
            check=False,
        )
        self._require_columns([_str(name) for (name,) in columns])
        self._read(f"{PAUSED}limit 0", {}, check=False)
        indexes = self._read(
            'select list.name, list."unique", info.name, info.coll'
            f" from pragma_index_list('{self._name}', 'main') as list,"
            " pragma_index_xinfo(list.name) as info"
            " where info.key = 1"
            " order by list.name, info.seqno",
            {},
            timeout=timeout,
            check=False,
        )
        found: dict[tuple[str, int], list[str]] = {}
        for index, unique, column, collation in indexes:
            binary = _str(collation).upper() == "BINARY"
            name = _str(column) if binary else f"{_str(column)} {_str(collation)}"
            found.setdefault((_str(index), unique), []).append(name)
        self._require_indexes(
            [columns for (_, unique), columns in found.items() if unique],
            list(found.values()),
        )


def _close(connection: sqlite3.Connection, lock: ForkLock = fork_lock) -> None:
    """Close a connection of ours, as at the end of its thread; no fork is made then.

    :param lock: bound here, since a module has lost its names at the interpreter's end.
    """
    with lock:
        sqlite3.Connection.close(connection)


def _str(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _marks(shared: int, rows: int, own: int) -> str:
    """Return rows of parameters: ``own`` ones in each, then the ``shared`` ones.

    The shared ones come first in the list, and are bound once for all rows.
    """
    common = ", ".join([f"?{n + 1}" for n in range(shared)])
    return ",\n".join(
        f"({', '.join([f'?{first + n}' for n in range(own)])}, {common}, 0)"
        for first in range(shared + 1, shared + 1 + rows * own, own)
    )

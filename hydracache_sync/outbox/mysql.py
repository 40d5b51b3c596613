"""The outbox in MySQL or MariaDB, beside the data of the apps that write to it.

Own connections are PyMySQL's. The caller's may be of PyMySQL, mysqlclient or
mysql-connector-python; how each tells whether a transaction is open is in
:mod:`~hydracache_sync.drivers`.
"""

from __future__ import annotations

import contextlib
import re
import struct
import time
from dataclasses import replace
from typing import Any, Callable, Iterator, NamedTuple, Sequence, TypeVar

from hydracache_sync.drivers import mysql_driver_of
from hydracache_sync.drivers.mysql import error_number, only_value
from hydracache_sync.drivers.pymysql import is_in_transaction
from hydracache_sync.drivers.transaction_end import TransactionEnd
from hydracache_sync.durations import duration_ms
from hydracache_sync.errors import (
    ConfigurationError,
    ConnectionLostError,
    NotInTransactionError,
    OutboxBusyError,
    OutboxError,
    ReadOnlyServerError,
    SchemaError,
)
from hydracache_sync.outbox.connections import ThreadConnections, is_apart
from hydracache_sync.outbox.lent_connections import LentConnections, NoFreeConnection
from hydracache_sync.outbox.mysql_connection import (
    close,
    connect,
    driver_error,
    driver_version,
    has_plain_cursors,
    is_cut_short,
    is_stale,
    let_go,
    was_cut_off,
)
from hydracache_sync.outbox.mysql_question import ask, question
from hydracache_sync.outbox.packed_row import PACKED_DETAILS, PackedRow
from hydracache_sync.outbox.row import MAX_NODE
from hydracache_sync.outbox.schema import (
    DEFAULT_TABLE,
    SCHEMA_VERSION,
    schema_statements,
    schema_text,
)
from hydracache_sync.outbox.sql import NAMESPACES_PER_STATEMENT, SQLOutbox
from hydracache_sync.outbox.sql_producers import NewRow, Shared
from hydracache_sync.outbox.sql_runner import checked_count, raise_as
from hydracache_sync.outbox.statements import (
    ON_DUPLICATE_CARRY_AGAIN,
    PAUSED,
    Dialect,
    Present,
)

T = TypeVar("T")

#: Seconds. Connecting takes milliseconds, a statement of ours too; the rest is for a
#: server under load. Without them a network that swallows packets hangs a worker.
CONNECT_TIMEOUT = 3.0
READ_TIMEOUT = 10.0
WRITE_TIMEOUT = 10.0

#: Connections that the threads of a process have between them, those of pools not
#: counted. Each is in use for a statement, some milliseconds, or for a block.
POOL_SIZE = 10

#: Seconds that an own transaction is run again while others hold its rows.
BUSY_TIMEOUT = 5.0

#: Seconds that one own statement waits for a row lock. Producers hold ours only from
#: their INSERT to their COMMIT.
LOCK_WAIT_TIMEOUT = 2

#: Seconds that one own statement waits for a table that is being altered, or for the
#: end of FLUSH TABLES WITH READ LOCK. Where it were given up by READ_TIMEOUT alone, it
#: would go on waiting in the server, and each further try would add a connection.
TABLE_WAIT_TIMEOUT = 5

#: Bytes of one INSERT. The smallest default of max_allowed_packet is 1 MB.
STATEMENT_BYTES = 512 * 1024

#: Rows that stay below that whatever they hold: two texts of 4096 bytes, three shorter
#: ones, in hex.
SURE_ROWS = 28

#: Bytes of one INSERT below which the server is not asked for its limit.
SURE_BYTES = 60_000

#: Bytes of a packet that are not the statement's.
PACKET_MARGIN = 1024

#: Seconds to wait for the turn to claim, on servers without SKIP LOCKED.
TURN_TIMEOUT = 1

#: Bytes that columns must take, as bytes: a text column takes different ones for the
#: same, and servers that are not strict cut in silence what is too long.
_BYTES = {
    "namespace": 64,
    "commit_position": 128,
    "target_hash": 32,
    "kind": 16,
    "value": 4096,
    "entity_name": 4096,
    "reason": 255,
    "claim_owner": 255,
    "waits_for": MAX_NODE,
    "last_error": 4096,
}

_PAUSED_BYTES = {"namespace": 64, "reason": 255}

#: Packets with questions for due rows that are kept; a pool has one.
MAX_QUESTIONS = 20

#: Columns of moments, tokens and ids.
_BIG = (
    "id",
    "created_at_ms",
    "at_ms",
    "claimed_at_ms",
    "claim_until_ms",
    "claim_token",
)

#: Another transaction was in the way: deadlock, lock wait timeout, the same said of
#: NOWAIT, and by MariaDB with innodb_snapshot_isolation, the default from 11.6 on; and
#: a conflict that group replication finds at COMMIT.
_BUSY = frozenset((1020, 1205, 1213, 3101, 3572))

#: An error at COMMIT, of whatever kind. The storage engine's 149 is a deadlock, as
#: group replication calls some conflicts; "not connected to Primary" is an outage.
_AT_COMMIT = 1180
_DEADLOCK = re.compile(r"\berror 149\b")

#: The connection is dead, or its stream of packets is out of step.
_LOST = frozenset(
    (0, 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927)
    + (2000, 2002, 2003, 2006, 2013, 2014, 2027, 2055, 3169, 4031)
)

#: What PyMySQL raises where a server, or what stands before it, talks nonsense.
_GARBAGE = (struct.error, IndexError, AssertionError, UnicodeDecodeError, KeyError)

_READ_ONLY = "; the server is read-only: a replica? Name the primary in the URL"
_CUT_OFF = "; a node of a cluster that is not part of it now"

#: The server takes no writes, and will not because we stay: a replica, a primary that
#: was one until a failover (read_only, innodb_read_only, offline_mode), a node of
#: Galera or of group replication that the others have left behind.
_NO_WRITES = {
    1036: _READ_ONLY,
    1047: _CUT_OFF,
    1290: _READ_ONLY,
    1792: _READ_ONLY,
    1836: _READ_ONLY,
    1874: _READ_ONLY,
    3032: "; the server is offline for all but its administrators",
    3100: _CUT_OFF,
}

_RIGHTS = "; the user lacks a right: see the grants in docs/databases.md"
_HINTS = {
    1044: _RIGHTS,
    1045: "; is the password right? If it is: see the grants in docs/databases.md",
    1142: _RIGHTS,
    1143: _RIGHTS,
    1049: "; the database in the URL does not exist on that server",
    1153: "; max_allowed_packet is too small for one row",
}

MYSQL = Dialect(
    # The database's clock, in UTC: now() repeats an hour when summer time ends. Both
    # are of the statement's beginning. timestampdiff() takes three times as long.
    now="(unix_timestamp() * 1000 + microsecond(utc_time(3)) div 1000)",
    marker="%s",
    # Not INSERT IGNORE, which also cuts what is too long and drops what is wrong.
    on_conflict="\non duplicate key update id = id",
    carry_again=ON_DUPLICATE_CARRY_AGAIN,
    on_paused="\non duplicate key update reason = :reason",
    # The column is of bytes, so that case matters.
    matches="last_error like :pattern escape '|'",
    pattern=lambda text: b"%%%s%%"
    % re.sub(r"[%_|]", r"|\g<0>", text).replace("*", "%").encode("utf-8"),
    begin="start transaction",
    details=PACKED_DETAILS,
    ids_in_text=True,
    encode=lambda text: text.encode("utf-8"),
)


#: What the rows of an enqueue share and end in, by how many values that takes: due at
#: once, with a delay, or with moments of another clock. Not "created_at_ms + %s": a
#: producer's user may have the right to insert alone.
_ROW_ENDS = {
    3: f"%s, %s, %s, {MYSQL.now}, {MYSQL.now}, 0)",
    4: f"%s, %s, %s, {MYSQL.now}, {MYSQL.now} + %s, 0)",
    5: "%s, %s, %s, %s, %s, 0)",
}


class Server(NamedTuple):
    """What was read of a server when a connection to it was opened."""

    version: tuple[int, ...]
    is_mariadb: bool
    #: READ COMMITTED writes are refused under statement based replication, the
    #: default of MySQL 5.6 with a binary log.
    statement_binlog: bool
    #: A claim would be refused because of rows that were committed since it began.
    #: MariaDB from 11.6 on.
    snapshot_isolation: bool

    @property
    def skips_locked(self) -> bool:
        """Whether it has SKIP LOCKED."""
        return self.version >= ((10, 6) if self.is_mariadb else (8, 0, 1))


#: Each replica has a thread that reads the log; a replica one that asks for it. Only
#: MariaDB names the latter in its command.
_REPLICATION = """
select
  coalesce(sum(left(command, 11) = 'Binlog Dump'), 0),
  coalesce(sum(command = 'Slave_IO' or right(state, 13) = 'to send event'), 0)
from information_schema.processlist
"""


class Replication(NamedTuple):
    """What a server's threads tell of asynchronous replication.

    :ivar replicas: how many read this server's log now.
    :ivar is_replica: whether it asks another for its log.
    """

    replicas: int
    is_replica: bool


class MySQLOutbox(SQLOutbox):
    """Outbox in the MySQL or MariaDB database of the app's data.

    Thread-safe. Threads share up to ``pool_size`` connections, which are made when they
    are needed and closed after a minute of idleness; where none is free, it is waited
    for. Each thread of a pool has one of its own beside them. None grows older than
    three minutes, so that a name which leads to another server is followed. A forked
    child makes its own.

    :param database: the schema that the tables are in; statements name it, so that it
        need not be the current one of a caller's connection.
    :param password: never shown. Sent in UTF-8, and as it is only to a server that has
        proven who it is, or over a unix socket.
    :param unix_socket: path, in place of host and port.
    :param ssl: TLS, as in ``pymysql.connect``: an ``ssl.SSLContext``, or a dict, whose
        ``ca`` makes the server prove who it is. A server without TLS is then refused
        before anything is sent. False never uses TLS. By default it is used where the
        server has it, and verifies nothing.
    :param table: its name; beside it are ``<table>_schema`` and ``<table>_paused``.
    :param busy_timeout: seconds that an own transaction is run again while others hold
        its rows.
    :param pool_size: connections that threads share, 1 or more.
    :param connect_timeout, read_timeout, write_timeout: seconds above 0: to reach the
        server, from a question to the end of its answer, to send a statement. A call
        with a ``timeout`` takes no longer than that with all it does, or than a quarter
        of a second.
    :param max_batch: intents that a batch may have; beyond it an enqueue is a
        ``ValueError`` and writes nothing. By default without limit.
    :param clock: returns Unix seconds, for tests; by default the server's clock.
    """

    dialect = MYSQL
    claimed_row = PackedRow

    def __init__(
        self,
        *,
        database: str,
        host: str = "localhost",
        port: int = 3306,
        user: str | None = None,
        password: str = "",
        unix_socket: str | None = None,
        ssl: Any = None,
        table: str = DEFAULT_TABLE,
        pool_size: int = POOL_SIZE,
        busy_timeout: float = BUSY_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
        write_timeout: float = WRITE_TIMEOUT,
        max_batch: int | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if clock is not None:
            self.dialect = replace(MYSQL, now=":now")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,50}", table):
            raise ConfigurationError(
                f"table {table!r} is not a name of letters, digits and underscores"
            )
        if not database or "`" in database or "\0" in database or "%" in database:
            raise ConfigurationError(f"database {database!r} is not a usable name")
        super().__init__(
            table=f"`{database}`.{table}",
            busy_timeout=busy_timeout,
            max_batch=max_batch,
            clock=clock,
        )
        for name, seconds in (
            ("connect_timeout", connect_timeout),
            ("read_timeout", read_timeout),
            ("write_timeout", write_timeout),
        ):
            if duration_ms(name, seconds) == 0:
                raise ValueError(f"{name} must be at least 0.001 seconds")
        if checked_count("pool_size", pool_size) == 0:
            raise ValueError("pool_size must be 1 or more, not 0")
        self.database = database
        self._name = table
        # Before the answer is given up here; the server takes whole seconds.
        self._table_wait = max(1, min(TABLE_WAIT_TIMEOUT, int(read_timeout / 2)))
        self._where = unix_socket or f"{host}:{port}"
        self._options: dict[str, Any] = {
            "host": host,
            "port": port,
            "user": user,
            # PyMySQL would make latin1 of it.
            "password": password.encode("utf-8"),
            "database": database,
            "unix_socket": unix_socket,
            "ssl": ssl or None,
            "ssl_disabled": ssl is False,
            "connect_timeout": connect_timeout,
            "read_timeout": read_timeout,
            "write_timeout": write_timeout,
        }
        #: Packets that ask which of some namespaces have rows due.
        self._questions: dict[tuple[str, ...], bytes] = {}
        #: What was connected before is at a server that takes no writes.
        self._distrusted = 0.0
        self._connections = LentConnections(
            self._connect, close, let_go, self._is_stale, size=pool_size
        )
        #: Those of threads that must not wait for others, one for each.
        self._apart = ThreadConnections(self._connect, close, let_go, self._is_stale)

    def __repr__(self) -> str:
        return f"MySQLOutbox({self._where!r}, {self.database!r}, {self._name!r})"

    # Producers

    def _run_in(self, connection: Any, work: Callable[[Any], T]) -> T:
        driver = mysql_driver_of(connection)
        try:
            driver.require_transaction()
            cursor = driver.cursor()
            try:
                result = work(cursor)
            finally:
                cursor.close()
            if driver.committed_at_once():
                raise NotInTransactionError(
                    "the connection committed the invalidation at once: its transaction"
                    " had been ended before, by an error or by a statement that commits"
                )
            return result
        except driver.errors as exc:
            raise_as(self._error(exc, own=False), exc)

    def _insert_parts(
        self, rows: Sequence[NewRow], shared: Shared
    ) -> Sequence[Sequence[NewRow]]:
        if len(rows) <= SURE_ROWS:
            return [rows]
        return _split(rows, shared, STATEMENT_BYTES)

    def _insert_part(
        self, cursor: Any, rows: Sequence[NewRow], shared: Shared, present: Present
    ) -> int:
        # Literals in hex, no parameters: what a driver, its converters, the character
        # set of the connection and the sql_mode make of text does not matter then.
        # What the rows have in common is written once.
        end = _ROW_ENDS[len(shared)] % tuple(map(_literal, shared))
        texts = [f"({', '.join(map(_literal, row))}, {end}" for row in rows]
        now = _literal(shared[3]) if self._binds_clock else self.dialect.now
        statement = self._statements.insert(", ".join(texts), present, now=now)
        if len(statement) > SURE_BYTES and len(rows) > 1:
            cursor.execute("select @@max_allowed_packet")
            if len(statement) + PACKET_MARGIN > only_value(cursor.fetchall()):
                middle = len(rows) // 2
                return sum(
                    self._insert_part(cursor, half, shared, present)
                    for half in (rows[:middle], rows[middle:])
                )
        cursor.execute(statement)
        if present is Present.CARRIED_AGAIN:
            # The server counts a row that was changed twice, and each is changed.
            return 2 * len(rows) - int(cursor.rowcount)
        return len(rows) if present is Present.IMPOSSIBLE else int(cursor.rowcount)

    def _execute_in(self, cursor: Any, text: str, values: Sequence[Any]) -> None:
        # In hex for the same reasons.
        cursor.execute(text % tuple(map(_literal, values)))

    def _commit(self, connection: Any) -> None:
        # Once: a COMMIT that fails has rolled back, and the next one would be
        # acknowledged with nothing in it.
        with self._translated():
            connection.commit()

    def _end_of(self, connection: Any) -> TransactionEnd | None:
        is_over = mysql_driver_of(connection).completion()
        return None if is_over is None else TransactionEnd(is_over)

    # Workers

    def _lock_rows(self, cursor: Any) -> str:
        return "for update skip locked\n" if _server(cursor).skips_locked else ""

    def due_namespaces(self, namespaces: Sequence[str]) -> list[str]:
        """Ask at little cost, and in the usual way whenever there is more to it.

        An idle worker asks fifty times a second, on cold caches: what is not needed
        when nothing is due costs more than the query.
        """
        self._look_ahead(namespaces)
        asked = self._questions.get(tuple(namespaces))
        if asked is not None:
            try:
                with self._session() as connection:
                    bits = ask(connection, asked)
                if bits == 0:
                    return []
                if not bits >> len(namespaces):  # none is paused
                    due = [name for n, name in enumerate(namespaces) if bits >> n & 1]
                    self._likely.update(due)
                    return due
            except Exception:
                pass  # said by the usual way, if it lasts
        due = super().due_namespaces(namespaces)
        if asked is None:
            self._prepare_question(tuple(namespaces))
        return due

    def _prepare_question(self, namespaces: tuple[str, ...]) -> None:
        distinct = len(set(namespaces)) == len(namespaces)
        if self.dialect.binds_clock or not distinct:
            return
        if not 0 < len(namespaces) <= NAMESPACES_PER_STATEMENT:
            return
        literals = [_literal(self.dialect.encode(each)) for each in namespaces]
        text = self._statements.due(len(namespaces)) % tuple(literals)
        # Pools ask for the same ones; whoever asks for others each time must not fill
        # the memory.
        kept = self._questions if len(self._questions) < MAX_QUESTIONS else {}
        self._questions = {**kept, namespaces: question(text)}

    @contextlib.contextmanager
    def _claiming(self, cursor: Any) -> Iterator[None]:
        if _server(cursor).skips_locked:
            yield
            return
        # Claims that take the same rows undo each other's work, and deadlock. They take
        # turns instead; one that has waited in vain, behind a process that was stopped
        # in its turn, goes on: its update takes only rows that are still free.
        name = f"hydracache_sync {self.database}.{self._name}"[-64:]
        cursor.execute(f"select get_lock(%s, {TURN_TIMEOUT})", (name,))
        mine = only_value(cursor.fetchall()) == 1
        try:
            yield
        finally:
            if mine:
                try:
                    cursor.execute("do release_lock(%s)", (name,))
                except Exception:
                    # The lock goes with the connection. What the claim itself has
                    # returned or raised, a Ctrl-C for instance, must not be lost.
                    close(cursor.connection)

    # Connections

    def _connect(self) -> Any:
        try:
            return self._set_up()
        except Exception as exc:
            # Killed between its first packet and its first use. A server that is gone
            # says so at the second attempt.
            if not was_cut_off(exc):
                raise
        return self._set_up()

    def _set_up(self) -> Any:
        # All of it together: a server that says one byte now and then, or each answer
        # at the last moment, would hold whoever waits.
        limits = self._options["connect_timeout"] + self._options["read_timeout"]
        until = time.monotonic() + limits
        call_until = self._until()
        if call_until is not None:
            until = min(until, call_until)
        try:
            connection: Any = connect(
                until, charset="utf8mb4", autocommit=True, **self._options
            )
        except RuntimeError as exc:
            if "cryptography" not in str(exc):
                raise
            raise OutboxError(
                f"{self}: {exc}, the default of MySQL 8: pip install"
                " 'hydracache_sync[mysql8]', or connect by TLS or a unix socket"
            ) from exc
        try:
            with connection.cursor() as cursor:
                connection.hydracache_server = server = _ask(cursor)
                # One statement each, so that a poller sees what was committed since,
                # and a claim locks no gap that a producer wants to insert into.
                isolation = (
                    "repeatable read" if server.statement_binlog else "read committed"
                )
                # Also where the server makes each transaction one that only reads.
                cursor.execute(
                    f"set session transaction isolation level {isolation}, read write"
                )
                # Whatever the server's defaults are: nothing of ours is cut, and what
                # is done is committed, by each statement or COMMIT, and no more. A
                # server may be set up to ignore the character set that was asked for.
                cursor.execute(
                    "set names utf8mb4, sql_mode = 'STRICT_ALL_TABLES', autocommit = 1,"
                    " completion_type = 0,"
                    f" innodb_lock_wait_timeout = {LOCK_WAIT_TIMEOUT},"
                    f" lock_wait_timeout = {self._table_wait}"
                    + (
                        ", innodb_snapshot_isolation = off"
                        if server.snapshot_isolation
                        else ""
                    )
                )
        except BaseException:
            close(connection)
            raise
        return connection

    @contextlib.contextmanager
    def _session(self) -> Iterator[Any]:
        self._refuse_in_block()
        until = self._until()
        place = None
        try:
            if is_apart():
                connection = self._apart.get()
            else:
                patience = time.monotonic() + self._busy_timeout
                place = self._connections.take(patience if until is None else until)
                connection = place.connection
        except NoFreeConnection as exc:
            raise OutboxBusyError(f"{self}: {exc}") from exc
        except Exception as exc:
            raise self._connect_error(exc) from exc
        connection.until = until
        try:
            yield connection
        except BaseException as exc:
            if self._takes_no_writes(exc) or self._is_lost(exc):
                # The others are at the same server, and ended with it, perhaps: what
                # is tried once more must not be tried on one of them.
                self._distrusted = time.monotonic()
                self._connections.drop_stale()
                close(connection)
            raise
        finally:
            self._give_back(connection, place)

    def _give_back(self, connection: Any, place: Any) -> None:
        connection.until = None
        connection.used_at = time.monotonic()
        if connection.open and not self._in_transaction(connection):
            if place is not None:
                self._connections.put(place)
        elif place is not None:
            self._connections.drop(place)
        else:
            close(connection)

    def _is_stale(self, connection: Any) -> bool:
        return connection.made_at <= self._distrusted or is_stale(connection)

    @staticmethod
    def _takes_no_writes(exc: BaseException) -> bool:
        # What the caller of a block has run raises the driver's own errors.
        return isinstance(exc, ReadOnlyServerError) or error_number(exc) in _NO_WRITES

    @staticmethod
    def _is_lost(exc: BaseException) -> bool:
        if isinstance(exc, (ConnectionLostError, OSError)) or is_cut_short(exc):
            return True
        return isinstance(exc, driver_error()) and error_number(exc) in _LOST

    def _take_back(self, connection: Any) -> None:
        if not has_plain_cursors(connection) or not connection.get_autocommit():
            # Ours count on both; without autocommit nothing would be committed.
            close(connection)

    def _in_transaction(self, connection: Any) -> bool:
        return is_in_transaction(connection)

    def _abandon(self, connection: Any, exc: BaseException) -> None:
        # The server rolls back when the connection ends: nothing of it is kept.
        if self._takes_no_writes(exc) or is_cut_short(exc):
            close(connection)
            return
        try:
            connection.rollback()
        except Exception:
            close(connection)

    def check_writable(self) -> None:
        def look(cursor: Any) -> None:
            # Of the server, not of the session; super_read_only implies the first.
            cursor.execute("select @@global.read_only, @@global.innodb_read_only")
            [record] = cursor.fetchall()
            # Newer MariaDBs have more than two values, and then words for them.
            if any(str(value).upper() not in ("0", "OFF") for value in record):
                raise ReadOnlyServerError(f"{self}: no writes{_READ_ONLY}")

        self._run(look, check=False)

    def close_idle(self) -> None:
        self._connections.drop_stale()

    def close(self) -> None:
        """Close all connections; those in use when they come back."""
        self._connections.close_all()
        self._apart.close_all()

    def versions(self) -> dict[str, str]:
        [(version,)] = self._read("select version()", {}, check=False)
        name = "mariadb" if "mariadb" in str(version).lower() else "mysql"
        return {name: str(version), "pymysql": driver_version()}

    def global_variables(self, names: Sequence[str]) -> dict[str, str]:
        """Read those of the server's global variables that it has."""
        listed = ", ".join(f"'{name}'" for name in names)
        text = f"show global variables where variable_name in ({listed})"
        return {
            str(name).lower(): str(value)
            for name, value in self._read(text, {}, check=False)
        }

    def replication(self) -> Replication:
        """See who replicates this server, and whether it replicates another.

        A login without the right PROCESS sees nothing of both.
        """
        [(replicas, is_replica)] = self._read(_REPLICATION, {}, check=False)
        return Replication(int(replicas), bool(is_replica))

    # Errors

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (driver_error(), OSError) as exc:
            raise_as(self._error(exc, own=True), exc)
        except _GARBAGE as exc:
            if not is_cut_short(exc):
                raise
            raise ConnectionLostError(f"{self}: not understood: {exc!r}") from exc

    def _error(self, exc: BaseException, *, own: bool) -> OutboxError:
        if isinstance(exc, OutboxError):
            return exc
        number = error_number(exc)
        text = f"{self}: {exc}"
        if number in _BUSY or (number == _AT_COMMIT and _DEADLOCK.search(text)):
            return OutboxBusyError(
                f"{text}; another transaction was in the way. Roll back and run the"
                " transaction again, if it is yours"
            )
        if number is None or number in _LOST or isinstance(exc, OSError):
            return (ConnectionLostError if own else OutboxError)(text)
        if number in _NO_WRITES:
            return ReadOnlyServerError(text + _NO_WRITES[number])
        if number == 1146:
            return SchemaError(
                f"{text}; run `hydracache schema install` or install_schema()",
                expected=SCHEMA_VERSION,
            )
        if number == 1054:
            return SchemaError(
                f"{text}; the table was made by another version or altered",
                expected=SCHEMA_VERSION,
            )
        return OutboxError(text + _HINTS.get(number, ""))

    def _connect_error(self, exc: Exception) -> OutboxError:
        error = self._error(exc, own=False)
        said = str(exc)
        until = self._until()
        if until is not None and time.monotonic() >= until:
            return OutboxBusyError(f"{error}; the call's time is over")
        if "CERTIFICATE_VERIFY_FAILED" in said:
            hint = (
                "the server's certificate is not of the CA in ssl_ca, or another host's"
            )
        elif "[SSL" in said:
            hint = (
                "no TLS that both know: an old server's is refused by this Python."
                " ssl=False, or ssl_disabled=true in the URL, goes without"
            )
        else:
            return error
        return OutboxError(f"{error}; {hint}")

    # The tables

    def schema(self) -> str:
        """Return the DDL, for a DBA to read or run."""
        return schema_text("mysql", self._name)

    def install_schema(self) -> None:
        if self._found_version() is None or not self._columns(f"{self._name}_paused"):
            for statement in schema_statements(self.schema()):
                self._run(lambda cursor: cursor.execute(statement), check=False)
        self.check_schema()

    def _found_version(self, timeout: float | None = None) -> int | None:
        found = super()._found_version(timeout)
        if found == SCHEMA_VERSION and not self._described("tables", "1, 2", timeout):
            return None  # only the version is there, the table has been dropped
        return found

    def _check_tables(self, timeout: float | None) -> None:
        [(engine, _)] = self._described("tables", "engine, 2", timeout)
        if str(engine).lower() != "innodb":
            self._altered(
                f"has engine {engine}, on which rows do not roll back with the data"
            )
        found = self._columns(self._name, timeout)
        self._require_columns(found)
        self._require_bytes(found, _BYTES)
        for column in _BIG:
            if found[column][0] != "bigint":
                self._altered(f"has {column} as {found[column][0]}, not bigint")
        indexes: dict[tuple[str, int], list[str]] = {}
        for index, _, column, other, part in self._described(
            "statistics",
            "index_name, seq_in_index, column_name, non_unique, sub_part",
            timeout,
        ):
            name = str(column) if part is None else f"{column}({part})"
            indexes.setdefault((str(index), int(other)), []).append(name)
        self._require_indexes(
            [columns for (_, other), columns in indexes.items() if not other],
            list(indexes.values()),
        )
        # Read, not only looked up: a login without a right on it would be told that
        # the table is missing.
        self._read(f"{PAUSED}limit 0", {}, timeout=timeout, check=False)
        paused = f"{self._name}_paused"
        self._require_bytes(self._columns(paused, timeout), _PAUSED_BYTES, paused)

    def _require_bytes(
        self,
        found: dict[str, tuple[str, int]],
        wanted: dict[str, int],
        table: str | None = None,
    ) -> None:
        for column, length in wanted.items():
            kind, takes = found[column]
            if not kind.endswith(("binary", "blob")) or takes < length:
                self._altered(
                    f"has {column} as {kind} of {takes} bytes: it must take {length},"
                    " and none for another",
                    table,
                )

    def _columns(
        self, table: str, timeout: float | None = None
    ) -> dict[str, tuple[str, int]]:
        """Type and length in bytes of each column; empty if ``table`` is not there."""
        described = self._described(
            "columns",
            "column_name, data_type, character_octet_length",
            timeout,
            table,
        )
        return {
            str(column): (str(kind), int(length or 0))
            for column, kind, length in described
        }

    def _described(
        self, what: str, columns: str, timeout: float | None, table: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Read what the server says of ``table``, or ours, in one of its own tables."""
        return self._read(
            f"select {columns} from information_schema.{what}"
            " where table_schema = :database and table_name = :name order by 1, 2",
            {"database": self.database, "name": table or self._name},
            timeout=timeout,
            check=False,
        )


def _ask(cursor: Any) -> Server:
    """Read what a server can do; variables that it lacks are taken as off."""
    cursor.execute(
        "show variables where variable_name in"
        " ('version', 'log_bin', 'binlog_format', 'innodb_snapshot_isolation')"
    )
    variables = dict(cursor.fetchall())
    version = variables["version"]
    return Server(
        version=tuple(int(part) for part in re.findall(r"\d+", version)[:3]),
        is_mariadb="mariadb" in version.lower(),
        statement_binlog=variables.get("log_bin") == "ON"
        and variables.get("binlog_format") == "STATEMENT",
        snapshot_isolation=variables.get("innodb_snapshot_isolation") == "ON",
    )


def _server(cursor: Any) -> Server:
    server: Server = cursor.connection.hydracache_server
    return server


def _literal(value: str | bytes | int | None) -> str:
    if isinstance(value, str):
        return f"x'{value.encode('utf-8').hex()}'"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return "null" if value is None else str(value)


def _split(rows: Sequence[NewRow], shared: Shared, size: int) -> list[Sequence[NewRow]]:
    """Split rows so that the literals of each part stay below ``size`` bytes."""
    parts: list[list[NewRow]] = [[]]
    total = 0
    for row in rows:
        length = 100 + sum(len(_literal(value)) for value in (*row, *shared))
        if parts[-1] and total + length > size:
            parts.append([])
            total = 0
        parts[-1].append(row)
        total += length
    return list(parts)

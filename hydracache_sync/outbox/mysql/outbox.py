"""The outbox in MySQL or MariaDB, beside the data of the apps that write to it.

Own connections are PyMySQL's. The caller's may be of PyMySQL, mysqlclient or
mysql-connector-python; how each tells whether a transaction is open is in
:mod:`~hydracache_sync.drivers`.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from typing import Any, Callable, Iterator, NamedTuple, Sequence

from hydracache_sync.drivers.mysql import only_value
from hydracache_sync.drivers.pymysql_own import close
from hydracache_sync.durations import positive_ms
from hydracache_sync.errors import ConfigurationError, ReadOnlyServerError
from hydracache_sync.outbox.arguments import checked_count
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.call_limits import CallLimits
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.dialect import Dialect
from hydracache_sync.outbox.history import MAX_HISTORY
from hydracache_sync.outbox.mysql.callers import MySQLCallers
from hydracache_sync.outbox.mysql.errors import READ_ONLY
from hydracache_sync.outbox.mysql.identity import PATIENCE, ServerIdentity
from hydracache_sync.outbox.mysql.inserts import MySQLInserts
from hydracache_sync.outbox.mysql.poll import MySQLPoll
from hydracache_sync.outbox.mysql.sessions import (
    MySQLConnector,
    MySQLSessions,
    server_of,
)
from hydracache_sync.outbox.mysql.tables import MySQLTables
from hydracache_sync.outbox.schema import DEFAULT_TABLE
from hydracache_sync.outbox.statements import ON_DUPLICATE_CARRY_AGAIN

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

#: Seconds to wait for the turn to claim, on servers without SKIP LOCKED.
TURN_TIMEOUT = 1

MYSQL = Dialect(
    # The database's clock, in UTC: now() repeats an hour when summer time ends. Both
    # are of the statement's beginning. timestampdiff() takes three times as long.
    now="(unix_timestamp() * 1000 + microsecond(utc_time(3)) div 1000)",
    marker="%s",
    # Not INSERT IGNORE, which also cuts what is too long and drops what is wrong.
    on_conflict="\non duplicate key update id = id",
    carry_again=ON_DUPLICATE_CARRY_AGAIN,
    on_present="\non duplicate key update",
    # The column is of bytes, so that case matters.
    matches="last_error like :pattern escape '|'",
    # Of bytes, as the column is.
    kept=("right(concat(", ", ", f"), {MAX_HISTORY})"),
    pattern=lambda text: b"%%%s%%"
    % re.sub(r"[%_|]", r"|\g<0>", text).replace("*", "%").encode("utf-8"),
    begin="start transaction",
    ids_in_text=True,
    encode=lambda text: text.encode("utf-8"),
)


_TLS_FILES = ("ca", "capath", "cert", "key")
_TLS_OPTIONS = (*_TLS_FILES, "password", "check_hostname", "verify_mode", "cipher")
_VERIFY_MODES = ("none", "optional", "required")

#: Each replica has a thread that reads the log; a replica one that asks for it. Only
#: MariaDB names the latter in its command.
_REPLICATION = """
select
  coalesce(sum(left(command, 11) = 'Binlog Dump'), 0),
  coalesce(sum(command = 'Slave_IO' or right(state, 13) = 'to send event'), 0)
from information_schema.processlist
"""


#: An engine that is switched off has no tables.
_WITHOUT_ROLLBACK = """
select t.table_name from information_schema.tables t
join information_schema.engines e on e.engine = t.engine
where t.table_schema = database() and e.transactions = 'NO'
order by t.table_name
"""


class Replication(NamedTuple):
    """What a server's threads tell of asynchronous replication.

    :ivar replicas: how many read this server's log now.
    :ivar is_replica: whether it asks another for its log.
    """

    replicas: int
    is_replica: bool


class MySQLOutbox(InvalidationOutbox):
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
        ``ca`` makes the server prove who it is; keys that are not known are refused. A
        server without TLS is then refused before anything is sent. False never uses
        TLS. By default it is used where the server has it, and verifies nothing.
    :param table: its name; beside it are ``<table>_schema``,
        ``<table>_paused``, ``<table>_heartbeat`` and ``<table>_workers``.
    :param busy_timeout: seconds that an own transaction is run again while others hold
        its rows.
    :param pool_size: connections that threads share, 1 or more.
    :param connect_timeout: seconds above 0, to look up the server's name and reach it.
        A call with a ``timeout`` takes no longer than that with all it does, or than a
        quarter of a second.
    :param read_timeout: seconds above 0, from a question to the end of its answer.
    :param write_timeout: seconds above 0, to send a statement.
    :param max_batch: intents that a batch may have; beyond it an enqueue is a
        ``ValueError`` and writes nothing. By default without limit.
    :param clock: returns Unix seconds, for tests; by default the server's clock.
    """

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
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,50}", table):
            raise ConfigurationError(
                f"table {table!r} is not a name of letters, digits and underscores"
            )
        if not database or "`" in database or "\0" in database or "%" in database:
            raise ConfigurationError(f"database {database!r} is not a usable name")
        for name, seconds in (
            ("connect_timeout", connect_timeout),
            ("read_timeout", read_timeout),
            ("write_timeout", write_timeout),
        ):
            positive_ms(name, seconds)
        if checked_count("pool_size", pool_size) == 0:
            raise ValueError("pool_size must be 1 or more, not 0")
        self.database = database
        options = {
            "host": host,
            "port": port,
            "user": user,
            # PyMySQL would make latin1 of it.
            "password": password.encode("utf-8"),
            "database": database,
            "unix_socket": unix_socket,
            "ssl": _checked_tls(ssl) or None,
            "ssl_disabled": ssl is False,
            "connect_timeout": connect_timeout,
            "read_timeout": read_timeout,
            "write_timeout": write_timeout,
        }
        #: Address of the server, as the drivers of callers' connections name it.
        self.where = where = unix_socket or f"{host}:{port}"
        shown = f"MySQLOutbox({where!r}, {database!r}, {table!r})"
        qualified = f"`{database}`.{table}"
        identity = ServerIdentity(where, qualified, shown)
        limits = CallLimits()
        self._sessions = MySQLSessions(
            MySQLConnector(options, shown, limits, identity.note),
            shown,
            limits,
            size=pool_size,
            busy_timeout=busy_timeout,
        )
        dialect = MYSQL if clock is None else replace(MYSQL, now=":now")
        unchecked = Database(
            self._sessions,
            dialect,
            qualified,
            name=shown,
            busy_timeout=busy_timeout,
            clock=clock,
            limits=limits,
        )
        super().__init__(
            unchecked,
            MySQLTables(unchecked, database, table),
            MySQLInserts(dialect, unchecked.statements),
            MySQLCallers(
                shown,
                lambda driver: identity.require(
                    driver, lambda: unchecked.run(identity.note, timeout=PATIENCE)
                ),
            ),
            ClaimTurns(f"hydracache_sync {database}.{table}"[-64:]),
            lambda poll: MySQLPoll(poll, unchecked, self._sessions.apart),
            max_batch=max_batch,
        )

    def check_writable(self) -> None:
        def look(cursor: Any) -> None:
            # Of the server, not of the session; super_read_only implies the first.
            cursor.execute("select @@global.read_only, @@global.innodb_read_only")
            [record] = cursor.fetchall()
            # Newer MariaDBs have more than two values, and then words for them.
            if any(str(value).upper() not in ("0", "OFF") for value in record):
                raise ReadOnlyServerError(f"{self}: no writes{READ_ONLY}")

        self._unchecked.run(look)

    def close_idle(self) -> None:
        self._sessions.close_idle()

    def global_variables(self, names: Sequence[str]) -> dict[str, str]:
        """Read those of the server's global variables that it has."""
        listed = ", ".join(f"'{name}'" for name in names)
        text = f"show global variables where variable_name in ({listed})"
        return {
            str(name).lower(): str(value)
            for name, value in self._unchecked.read(text, {})
        }

    def replication(self) -> Replication:
        """See who replicates this server, and whether it replicates another.

        A login without the right PROCESS sees nothing of both.
        """
        [(replicas, is_replica)] = self._unchecked.read(_REPLICATION, {})
        return Replication(int(replicas), bool(is_replica))

    def tables_without_rollback(self) -> list[str]:
        """Return the names of those beside the outbox whose changes no rollback undoes.

        Of those that the login has a right on.
        """
        found = self._unchecked.read(_WITHOUT_ROLLBACK, {})
        return [str(name) for (name,) in found]


def _checked_tls(options: Any) -> Any:
    """Refuse what the driver would ignore, and then verify nothing."""
    if options in (None, False):
        return options
    from ssl import SSLContext  # takes milliseconds to load

    if isinstance(options, SSLContext):
        return options
    if not isinstance(options, dict):
        raise TypeError(
            "ssl must be an ssl.SSLContext, a dict, False or None, not"
            f" {type(options).__name__}"
        )
    for name, value in options.items():
        if name not in _TLS_OPTIONS:
            raise ConfigurationError(
                f"ssl has an unknown option {name!r}; known are"
                f" {', '.join(_TLS_OPTIONS)}"
            )
        if name in _TLS_FILES and not value:
            raise ConfigurationError(f"ssl has {name} {value!r}: it must be a path")
    mode = options.get("verify_mode", True)
    if not isinstance(mode, bool) and mode not in _VERIFY_MODES:
        raise ConfigurationError(
            f"ssl has verify_mode {mode!r}; known are {', '.join(_VERIFY_MODES)}"
        )
    if "key" in options and "cert" not in options:
        raise ConfigurationError("ssl has key without the cert that it is of")
    return options


class ClaimTurns:
    """Claims skip rows that are locked; where the server cannot, they take turns.

    Claims that take the same rows undo each other's work, and deadlock.

    :param name: of the server's lock that stands for a turn.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @contextlib.contextmanager
    def around(self, cursor: Any) -> Iterator[None]:
        if server_of(cursor).skips_locked:
            yield
            return
        # One whose wait timed out, behind a process that was stopped while it had the
        # lock, goes on: its update takes only rows that are still free.
        cursor.execute(f"select get_lock(%s, {TURN_TIMEOUT})", (self._name,))
        mine = only_value(cursor.fetchall()) == 1
        try:
            yield
        finally:
            if mine:
                try:
                    cursor.execute("do release_lock(%s)", (self._name,))
                except Exception:
                    # The lock goes with the connection. What the claim itself has
                    # returned or raised, a Ctrl-C for instance, must not be lost.
                    close(cursor.connection)

    def locking(self, cursor: Any) -> str:
        return "for update skip locked\n" if server_of(cursor).skips_locked else ""

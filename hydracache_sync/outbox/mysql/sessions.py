"""Own connections to MySQL or MariaDB: how they are made, lent and replaced."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from typing import Any, Callable, Iterator, NamedTuple

from hydracache_sync.drivers.pymysql import is_in_transaction
from hydracache_sync.drivers.pymysql_own import (
    close,
    connect,
    is_cut_short,
    let_go,
    was_cut_off,
)
from hydracache_sync.errors import OutboxBusyError, OutboxError
from hydracache_sync.lending import MAX_IDLE, NoFreeConnection
from hydracache_sync.outbox.call_limits import CallLimits
from hydracache_sync.outbox.lent_connections import LentConnections, is_apart
from hydracache_sync.outbox.mysql.errors import (
    is_lost,
    mysql_error,
    own_error,
    takes_no_writes,
)

#: Seconds that one own statement waits for a row lock. Producers hold ours only from
#: their INSERT to their COMMIT.
LOCK_WAIT_TIMEOUT = 2

#: Seconds that one own statement waits for a table that is being altered, or for the
#: end of FLUSH TABLES WITH READ LOCK. Where it were given up by the time limit of an
#: answer alone, it would go on waiting in the server, and each further try would add a
#: connection.
TABLE_WAIT_TIMEOUT = 5


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


class MySQLConnector:
    """Opens own connections, and says which are too old to be used.

    :param options: of the connection, as PyMySQL takes them.
    :param name: of the outbox, for errors.
    :param limits: until when the call that needs a connection has time.
    :param note: told of each new connection, by a cursor that is ready.
    """

    def __init__(
        self,
        options: dict[str, Any],
        name: str,
        limits: CallLimits,
        note: Callable[[Any], None],
    ) -> None:
        self.options = options
        self._name = name
        self._limits = limits
        self._note = note
        # Before the answer is given up here; the server takes whole seconds.
        half = int(options["read_timeout"] / 2)
        self._table_wait = max(1, min(TABLE_WAIT_TIMEOUT, half))
        #: Until when what was connected is at a server that takes no writes, or lost.
        self._distrusted = 0.0

    def connect(self) -> Any:
        try:
            return self.set_up()
        except Exception as exc:
            # Killed between its first packet and its first use. A server that is gone
            # says so at the second attempt.
            if not was_cut_off(exc):
                raise
        return self.set_up()

    def set_up(self) -> Any:
        # All of it together: a server that says one byte now and then, or each answer
        # at the last moment, would hold the caller.
        limits = self.options["connect_timeout"] + self.options["read_timeout"]
        until = time.monotonic() + limits
        call_until = self._limits.until()
        if call_until is not None:
            until = min(until, call_until)
        try:
            connection: Any = connect(
                until, charset="utf8mb4", autocommit=True, **self.options
            )
        except RuntimeError as exc:
            if "cryptography" not in str(exc):
                raise
            raise OutboxError(
                f"{self._name}: {exc}, the default of MySQL 8: install"
                " hydracache_sync with its extra 'mysql8', or connect by TLS or a unix"
                " socket"
            ) from exc
        try:
            with connection.cursor() as cursor:
                # Before anything is read. Whatever the server's defaults are: nothing
                # of ours is cut or refused, and what is done is committed, by each
                # statement or COMMIT, and no more. A server may be set up to ignore
                # the character set that was asked for.
                cursor.execute(
                    "set names utf8mb4, sql_mode = 'STRICT_ALL_TABLES', autocommit = 1,"
                    f" completion_type = 0, sql_select_limit = {2**64 - 1},"
                    " sql_big_selects = 1, sql_safe_updates = 0,"
                    f" innodb_lock_wait_timeout = {LOCK_WAIT_TIMEOUT},"
                    f" lock_wait_timeout = {self._table_wait}"
                )
                connection.hydracache_server = server = read_server(cursor)
                # One statement each, so that a poller sees what was committed since,
                # and a claim locks no gap that a producer wants to insert into.
                isolation = (
                    "repeatable read" if server.statement_binlog else "read committed"
                )
                # Also where the server makes each transaction one that only reads.
                cursor.execute(
                    f"set session transaction isolation level {isolation}, read write"
                )
                if server.snapshot_isolation:
                    cursor.execute("set innodb_snapshot_isolation = off")
                self._note(cursor)
        except BaseException:
            close(connection)
            raise
        return connection

    def is_stale(self, connection: Any) -> bool:
        """Whether it is to be closed, and another made."""
        return connection.made_at <= self._distrusted or bool(
            connection.is_stale(MAX_IDLE)
        )

    def distrust(self) -> None:
        """Have no connection used that was made until now."""
        self._distrusted = time.monotonic()

    def error_of(self, exc: Exception) -> OutboxError:
        """Return what ``exc`` means, which has kept us from connecting."""
        error = mysql_error(exc, self._name, own=False)
        said = str(exc)
        until = self._limits.until()
        if until is not None and time.monotonic() >= until:
            return OutboxBusyError(f"{error}; the call's time is over")
        if "CERTIFICATE_VERIFY_FAILED" in said:
            hint = (
                "the server's certificate is not of the CA in ssl_ca, is another"
                " host's, or has expired"
            )
        elif "[SSL" in said:
            hint = (
                "no TLS that both know: an old server's is refused by this Python."
                " ssl=False, or ssl_disabled=true in the URL, goes without"
            )
        else:
            return error
        return OutboxError(f"{error}; {hint}")


class MySQLSessions:
    """Lends connections: those of requests, or those of threads that carry rows.

    :param size: connections for requests, 1 or more.
    :param busy_timeout: seconds to wait for one of them.
    """

    # A COMMIT that fails has rolled back, and the next one would be acknowledged with
    # nothing in it.
    retries_commit = False

    def __init__(
        self,
        connector: MySQLConnector,
        name: str,
        limits: CallLimits,
        *,
        size: int,
        busy_timeout: float,
    ) -> None:
        self._connector = connector
        self._name = name
        self._limits = limits
        self._busy_timeout = busy_timeout
        self.connections = LentConnections(
            connector.connect, close, let_go, connector.is_stale, size=size
        )
        # One for each thread that carries rows, however many there are.
        self.apart = LentConnections(
            connector.connect, close, let_go, connector.is_stale, size=sys.maxsize
        )

    @contextlib.contextmanager
    def lend(self) -> Iterator[Any]:
        until = self._limits.until()
        connections = self.apart if is_apart() else self.connections
        try:
            patience = time.monotonic() + self._busy_timeout
            place = connections.take(patience if until is None else until)
        except NoFreeConnection as exc:
            raise OutboxBusyError(f"{self._name}: {exc}") from exc
        except Exception as exc:
            raise self._connector.error_of(exc) from exc
        connection = place.connection
        connection.until = until
        try:
            yield connection
        except BaseException as exc:
            if takes_no_writes(exc) or is_lost(exc):
                # The others are at the same server, and ended with it, perhaps: what
                # is tried once more must not be tried on one of them.
                self._connector.distrust()
                self.close_idle()
                close(connection)
            raise
        finally:
            connection.until = None
            connection.used_at = time.monotonic()
            if connection.open and not self.in_transaction(connection):
                connections.put(place)
            else:
                connections.drop(place)

    def prepare(self, connection: Any) -> None:
        """Do nothing: it is ready."""

    def restore(self, connection: Any) -> None:
        if not connection.has_plain_cursors() or not connection.get_autocommit():
            # Ours count on both; without autocommit nothing would be committed.
            close(connection)

    def in_transaction(self, connection: Any) -> bool:
        return is_in_transaction(connection)

    def abandon(self, connection: Any, exc: BaseException) -> None:
        # The server rolls back when the connection ends: nothing of it is kept.
        if takes_no_writes(exc) or is_cut_short(exc):
            close(connection)
            return
        try:
            connection.rollback()
        except Exception:
            # The caller's error goes on; what was written goes with the connection.
            close(connection)

    def error_of(self, exc: Exception) -> OutboxError | None:
        return own_error(exc, self._name)

    def close_idle(self) -> None:
        self.connections.drop_stale()
        self.apart.drop_stale()

    def close(self) -> None:
        self.connections.close_all()
        self.apart.close_all()


def read_server(cursor: Any) -> Server:
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


def server_of(cursor: Any) -> Server:
    """What was read of the server of an own connection's cursor."""
    server: Server = cursor.connection.hydracache_server
    return server

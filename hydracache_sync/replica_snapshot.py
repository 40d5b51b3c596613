"""Until when a replica has everything, for loaders that read there.

A replica is behind, by how much nobody can tell from a moment of this host. What its
snapshot has is told by the heartbeat that is in the snapshot itself: a row that
workers write on the primary, and that is replicated like the data. Only looks at
connections that the caller uses.
"""

from __future__ import annotations

import re
import time
import weakref
from typing import Any, Callable, Mapping

from hydracache_sync.drivers import CallersConnection, find_driver
from hydracache_sync.drivers.commit_order import VARIABLES, disorder
from hydracache_sync.drivers.sqlite import SQLiteConnection
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.durations import checked_seconds
from hydracache_sync.errors import ConfigurationError, OutboxError
from hydracache_sync.outbox.schema import DEFAULT_TABLE
from hydracache_sync.printable import printable_logger
from hydracache_sync.snapshots import NEVER

logger = printable_logger(__name__)

#: Seconds after which a server is asked again whether it shows commits in order.
ASK_AGAIN = 60.0

#: Seconds between two log lines of the same trouble.
SAY_AGAIN = 600.0

_TABLE = re.compile(r"(?:(?:`[^`\0]+`|[A-Za-z_][\w$]*)\.)?[A-Za-z_][A-Za-z0-9_]{0,99}")

#: One row, also without a heartbeat.
_HEARTBEAT = """
select (select beat_ms from {table}_heartbeat where id = 1),
  @@session.{isolation}, connection_id(), @@global.server_id
"""

_SQLITE_HEARTBEAT = "select (select beat_ms from {table}_heartbeat where id = 1)"

#: The level whose transaction reads everything in the snapshot of its first read.
_ONE_SNAPSHOT = "REPEATABLE-READ"


class ReplicaSnapshot:
    """Until when the snapshot of a connection has everything that was committed.

    For ``since=`` of a read, or ``TaggedCache(snapshot=...)``, where the loader reads
    on ``connection``, from an asynchronous replica or any node of a cluster::

        snapshot = ReplicaSnapshot(connection)
        cache.get_or_load(key, loader, tags=tags, since=snapshot())

    Needs a heartbeat, see ``HYDRACACHE_HEARTBEAT`` and ``outbox.write_heartbeat()``,
    and a login that may read its table. Reads it with one statement, which is the first
    of the transaction or one of its snapshot: at READ COMMITTED only a call before the
    transaction's first statement counts. The level is the session's: one that SET
    TRANSACTION gives to a single transaction is not seen. The connection must stay at
    one server from the call to the end of the load: no reconnect, no proxy that spreads
    statements.

    Where the moment is not known, nothing is stored, and a warning says why: there is
    no heartbeat, or it is from the future. Or the server does not show commits in their
    order, or the level is READ UNCOMMITTED or SERIALIZABLE.

    :param connection: of PyMySQL, mysqlclient, mysql-connector-python or ``sqlite3``.
    :param table: name of the outbox's table; ``shop.hydracache_outbox`` where it is not
        in the current database of the connection.
    :param clock_skew: seconds by which the clocks of hosts may differ, 0 or more.
    :param clock: Unix seconds; replaced in tests.
    :raises ConfigurationError: the connection is of another driver, or ``table`` is no
        name.
    """

    def __init__(
        self,
        connection: Any,
        *,
        table: str = DEFAULT_TABLE,
        clock_skew: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        connection = own_connection(connection)
        driver = find_driver(connection)
        if driver is None:
            kind = type(connection)
            raise ConfigurationError(
                f"{kind.__module__}.{kind.__qualname__} is no connection of sqlite3,"
                " PyMySQL, mysqlclient or mysql-connector-python"
            )
        if not _TABLE.fullmatch(table):
            raise ConfigurationError(
                f"table {table!r} is not a name of letters, digits and underscores,"
                " perhaps with that of its database and a dot before it"
            )
        self._driver = driver
        self._table = table
        self._clock_skew = checked_seconds("clock_skew", clock_skew)
        self._clock = clock

    def __call__(self) -> float:
        """Return a moment that the next statement's snapshot has everything before.

        :return: Unix seconds; ``NEVER`` where it is not known. Never raises what the
            database raises: the loader meets the same.
        """
        driver = self._driver
        errors: tuple[type[Exception], ...] = (*driver.errors, OutboxError)
        try:
            if driver.is_reading():
                # Nothing can be asked on it now.
                return NEVER
            if isinstance(driver, SQLiteConnection):
                return self._of_sqlite(driver)
            return self._of_mysql(driver)
        except errors as exc:
            return _unknown("the heartbeat could not be read", f": {exc}")

    def _of_sqlite(self, driver: SQLiteConnection) -> float:
        if driver.has_written() is not False:
            return NEVER
        [(beat_ms,)] = _read(driver, _SQLITE_HEARTBEAT.format(table=self._table))
        return self._moment(beat_ms)

    def _of_mysql(self, driver: CallersConnection) -> float:
        session = _Session.of(driver.connection)
        # Before anything is asked, which may begin a transaction.
        is_idle = session.isolation != _ONE_SNAPSHOT and _is_idle(driver)
        session.ask(driver)
        if session.trouble is not None:
            return _unknown(session.trouble)
        statement = _HEARTBEAT.format(
            table=self._table, isolation=session.isolation_name
        )
        [(beat_ms, isolation, *place)] = _read(driver, statement)
        trouble = session.is_at(_text(isolation), place)
        since = self._moment(beat_ms)
        if session.isolation == _ONE_SNAPSHOT:
            return since
        if trouble is not None:
            return _unknown(trouble)
        # Each statement has a snapshot of its own: what the transaction has read before
        # this one may be older. What was read when none was open is older than all.
        if is_idle:
            session.idle_since = since
        return session.idle_since

    def _moment(self, beat_ms: Any) -> float:
        if beat_ms is None:
            return _unknown(
                "there is no heartbeat: set HYDRACACHE_HEARTBEAT of workers"
            )
        since = int(beat_ms) / 1000
        ahead = since - self._clock()
        if ahead > self._clock_skew:
            return _unknown(
                "the heartbeat is ahead of this host's clock: let NTP set the clocks of"
                " all hosts",
                f"; {ahead:.1f} s",
            )
        return since


class _Session:
    """What is known of a connection to MySQL between two calls.

    :ivar isolation: the level, as the server had it at the last call.
    :ivar isolation_name: the variable that has it.
    :ivar idle_since: what the heartbeat said when no transaction was open.
    :ivar trouble: why nothing may be stored.
    """

    #: Not in the objects that users have: those come and go with each load.
    _all: weakref.WeakKeyDictionary[Any, _Session] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self.isolation = ""
        self.isolation_name = ""
        self.idle_since = NEVER
        self.trouble: str | None = None
        self._place: Any = None
        self._ask_at = 0.0

    @classmethod
    def of(cls, connection: Any) -> _Session:
        try:
            found = cls._all.get(connection)
            if found is None:
                found = cls._all[connection] = cls()
        except TypeError:  # it cannot be referred to weakly, or not be hashed
            return cls()
        return found

    def ask(self, driver: CallersConnection) -> None:
        """Ask what the server is, unless that was done a moment ago."""
        now = time.monotonic()
        if self._ask_at > now:
            return
        variables = _variables(driver)
        names = ("transaction_isolation", "tx_isolation")
        self.isolation_name = next(name for name in names if name in variables)
        self.isolation = variables[self.isolation_name]
        self.trouble = _of_level(self.isolation) or disorder(variables)
        self._ask_at = now + (0.0 if self.trouble else ASK_AGAIN)

    def is_at(self, isolation: str, place: Any) -> str | None:
        """Note the level and the session that a heartbeat was read at.

        :return: why nothing may be stored at this level.
        """
        if place != self._place:
            # The driver has connected again, perhaps to a server that lags more.
            self._place = place
            self.idle_since = NEVER
            self._ask_at = 0.0
        if isolation != self.isolation:
            self.isolation = isolation
            self.idle_since = NEVER
            self.trouble = _of_level(isolation)
            self._ask_at = 0.0
        return self.trouble


def _of_level(isolation: str) -> str | None:
    if isolation in (_ONE_SNAPSHOT, "READ-COMMITTED"):
        return None
    # At the one a heartbeat is seen before what was committed before it; at the other
    # reading it locks it, and the replica waits for the end of the transaction.
    return f"the connection reads at level {isolation}: use REPEATABLE READ"


def _is_idle(driver: CallersConnection) -> bool:
    if driver.tells_snapshots:
        return not driver.has_snapshot()
    return not driver.in_transaction()


def _variables(driver: CallersConnection) -> Mapping[str, str]:
    names = (*VARIABLES, "transaction_isolation", "tx_isolation")
    listed = ", ".join(f"'{name}'" for name in names)
    found = _read(driver, f"show variables where variable_name in ({listed})")
    return {_text(name).lower(): _text(value) for name, value in found}


def _read(driver: CallersConnection, statement: str) -> list[Any]:
    cursor = driver.cursor()
    try:
        cursor.execute(statement)
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _text(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "replace")
    return str(value)


#: Until when each trouble is not said again.
_said: dict[str, float] = {}


def _unknown(why: str, detail: str = "") -> float:
    """Say why nothing that is loaded now is stored."""
    now = time.monotonic()
    if _said.get(why, 0.0) <= now:
        if len(_said) > 100:
            _said.clear()
        _said[why] = now + SAY_AGAIN
        logger.warning("nothing that a replica shows is stored: %s%s", why, detail)
    return NEVER

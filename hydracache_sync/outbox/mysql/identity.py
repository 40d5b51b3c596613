"""Whether a caller's connection is at the outbox's own server, or at a stranger.

Databases and tables of the same names are on many servers: staging, a shard. A row that
is written there is carried by nobody who is asked about it here. Each set of tables
holds an identity of its own, which replicas and the nodes of a cluster share.
"""

from __future__ import annotations

import weakref
from typing import Any, Callable

from hydracache_sync.drivers import CallersConnection
from hydracache_sync.drivers.mysql import error_number, only_value
from hydracache_sync.errors import NotInTransactionError, OutboxError
from hydracache_sync.outbox.mysql.inserts import literal
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Seconds that a producer waits, once, for the outbox's own server to be asked.
PATIENCE = 1.0

#: No right to look, or no such tables: nothing is known. What the INSERT needs of
#: them it tells itself.
_UNTOLD = frozenset((1044, 1049, 1054, 1142, 1143, 1146))


class ServerIdentity:
    """Learns the identity from own connections, and compares callers' with it.

    Thread-safe.

    :param where: host and port, or socket, of own connections.
    :param table: with its database.
    :param name: of the outbox, for errors.
    """

    def __init__(self, where: str, table: str, name: str) -> None:
        self._where = where
        self._table = table
        self._name = name
        self._own: bytes | None = None
        self._asked = False
        #: Which identity was looked for on a caller's connection, and not missed; and
        #: where that was connected to, and by which session.
        self._seen: weakref.WeakKeyDictionary[Any, tuple[object, ...]]
        self._seen = weakref.WeakKeyDictionary()

    def note(self, cursor: Any) -> None:
        """Read it on an own connection; warn if it is not that of the one before."""
        try:
            cursor.execute(f"select identity from {self._table}_schema where id = 1")
            found = cursor.fetchone()
        except Exception as exc:
            if error_number(exc) in _UNTOLD:
                return
            raise
        if found is None:
            return
        if self._own not in (None, found[0]):
            logger.warning(
                "%s: the server has other tables than the one before. They were made"
                " again, or the name leads to a server that does not replicate the"
                " first: what was committed there is not applied from here",
                self._name,
            )
        self._own = found[0]

    def require(self, driver: CallersConnection, ask: Callable[[], object]) -> None:
        """Refuse a caller's connection to tables that are not the outbox's own.

        One that was connected by the same address is not asked, any other once, and
        again after it has reconnected.

        :param ask: has :meth:`note` called; run once, while nothing is known.
        :raises NotInTransactionError: the tables there have another identity.
        """
        where = driver.server()
        if where == self._where:
            return
        if self._own is None and not self._asked:
            self._asked = True
            try:
                ask()
            except OutboxError:
                pass  # the row is written unlooked; own connections learn it later
        own = self._own
        if own is None:
            return
        session = driver.session()
        seen = own, where, session
        if session is not None and self._seen_on(driver.connection) == seen:
            return
        if not self._is_on(driver, own):
            raise NotInTransactionError(
                f"{self._name}: the connection is to {where or 'another server'}, whose"
                f" table {self._table} is not the outbox's but one of the same name:"
                " rows written there would never be applied. Connect to the outbox's"
                " server, or open an outbox there"
            )
        try:
            self._seen[driver.connection] = seen
        except TypeError:
            pass  # what stands before the connection is asked each time

    def _seen_on(self, connection: Any) -> object:
        try:
            return self._seen.get(connection)
        except TypeError:
            return None

    def _is_on(self, driver: CallersConnection, own: bytes) -> bool:
        """Ask by a locking read: a plain one would open the transaction's snapshot."""
        cursor = driver.cursor()
        try:
            cursor.execute(
                f"select count(*) from {self._table}_schema"
                f" where id = 1 and identity = {literal(own)} lock in share mode"
            )
            return only_value(cursor.fetchall()) > 0
        except driver.errors as exc:
            if error_number(exc) in _UNTOLD:
                return True
            raise
        finally:
            cursor.close()

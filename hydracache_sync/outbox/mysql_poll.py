"""Which namespaces have rows due, asked of MySQL again and again for little."""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple, Sequence

from hydracache_sync.drivers.pymysql_poll import encode_query, poll
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.due import NAMESPACES_PER_STATEMENT, Poll
from hydracache_sync.outbox.lent_connections import LentConnections, is_apart
from hydracache_sync.outbox.mysql_inserts import literal

#: Packets with queries for due rows that are kept; a pool has one.
MAX_QUERIES = 20

#: Seconds between two times that a poller's connection is lent with all checks: whether
#: it is old, and whether another has found out that its server takes no writes.
CHECK_EVERY = 1.0


class Checked(NamedTuple):
    """A connection that a thread may poll on without more checks.

    :ivar until: moment of ``time.monotonic()``.
    """

    thread: int
    connection: Any
    until: float


class MySQLPoll:
    """Asks at little cost, and in the usual way whenever there is more to it.

    An idle worker asks fifty times a second, on cold caches: what is not needed when
    nothing is due costs more than the query.

    :param usual: asks with an ordinary query.
    :param database: its sessions are used; the usual way has checked the tables.
    :param connections: of its sessions, for threads that carry rows.
    """

    def __init__(
        self, usual: Poll, database: Database, connections: LentConnections
    ) -> None:
        self._usual = usual
        self._database = database
        self._connections = connections
        self._checked: Checked | None = None
        #: Packets that ask which of some namespaces have rows due.
        self.queries: dict[tuple[str, ...], bytes] = {}

    def due(self, namespaces: Sequence[str]) -> list[str]:
        packet = self.queries.get(tuple(namespaces))
        if packet is not None:
            try:
                bits = self._ask(packet)
                if bits == 0:
                    return []
                if not bits >> len(namespaces):  # none is paused
                    return [name for n, name in enumerate(namespaces) if bits >> n & 1]
            except Exception:
                pass  # said by the usual way, if it lasts
        due = self._usual.due(namespaces)
        if packet is None:
            self._prepare(tuple(namespaces))
        return due

    def _ask(self, packet: bytes) -> int:
        checked = self._checked
        if checked is not None and checked.thread == threading.get_ident():
            if time.monotonic() < checked.until:
                place = self._connections.take_again(checked.connection)
                if place is not None:
                    try:
                        return poll(place.connection, packet)
                    finally:
                        # Closed by an error it is replaced when it is lent.
                        self._connections.put(place)
        with self._database.session() as connection:
            bits = poll(connection, packet)
        # Others may be in a block, or have little time: theirs are always checked.
        if is_apart():
            until = time.monotonic() + CHECK_EVERY
            self._checked = Checked(threading.get_ident(), connection, until)
        return bits

    def _prepare(self, namespaces: tuple[str, ...]) -> None:
        dialect = self._database.dialect
        distinct = len(set(namespaces)) == len(namespaces)
        if dialect.binds_clock or not distinct:
            return
        if not 0 < len(namespaces) <= NAMESPACES_PER_STATEMENT:
            return
        literals = [literal(dialect.encode(each)) for each in namespaces]
        text = self._database.statements.due(len(namespaces)) % tuple(literals)
        # Pools ask for the same ones; a caller that asks for others each time must
        # not fill the memory.
        kept = self.queries if len(self.queries) < MAX_QUERIES else {}
        self.queries = {**kept, namespaces: encode_query(text)}

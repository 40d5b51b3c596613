"""Which namespaces have rows due, asked of MySQL again and again for little."""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple, Sequence

from hydracache_sync.drivers.pymysql_poll import encode_query, poll, poll_again
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.due import NAMESPACES_PER_STATEMENT, Poll, QuietLook
from hydracache_sync.outbox.lent_connections import LentConnections, is_apart
from hydracache_sync.outbox.mysql.errors import is_unknown_index
from hydracache_sync.outbox.mysql.inserts import literal
from hydracache_sync.outbox.statements import DUE_ROWS

#: Packets with queries for due rows that are kept; a pool has one.
MAX_QUERIES = 20

#: Rows in an answer. One of so many may be without those of the last namespaces; more
#: would be read for each burst of writes.
MAX_ROWS = 32

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


class Found(NamedTuple):
    """What a thread was answered.

    :ivar rows: as ``DUE_ROWS`` gives them.
    """

    thread: int
    packet: bytes
    rows: list[bytes]


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
        #: What a look for little has found due, for the call that follows it.
        self._found: Found | None = None
        #: Packets that ask for due rows of some namespaces.
        self.queries: dict[tuple[str, ...], bytes] = {}
        #: The hint of those packets: the index as the tables are installed with it.
        self._hint = f" force index ({database.table.rpartition('.')[2]}_state)"

    def due(self, namespaces: Sequence[str]) -> list[str]:
        found, self._found = self._found, None
        packet = self.queries.get(tuple(namespaces))
        if packet is not None:
            try:
                if found is not None and found[:2] == (threading.get_ident(), packet):
                    rows = found.rows
                else:
                    rows = self._ask(packet)
                if not rows:
                    return []
                # Of a pause and of many rows the usual way tells more.
                if len(rows) < MAX_ROWS and rows[0][:1] == b"0":
                    encode = self._database.dialect.encode
                    found_due = {row[1:] for row in rows}
                    return [name for name in namespaces if encode(name) in found_due]
            except Exception as exc:
                # Said by the usual way, if it lasts. Not so that an index of these
                # columns has another name, which is as good.
                if is_unknown_index(exc):
                    self._hint, self.queries, packet = "", {}, None
        due = self._usual.due(namespaces)
        if packet is None:
            self._prepare(tuple(namespaces))
        return due

    def quiet_look(self, namespaces: Sequence[str]) -> QuietLook | None:
        query = self.queries.get(tuple(namespaces))
        checked = self._checked
        if query is None or checked is None or not checked.connection.is_at_rest():
            return None
        # What is not here is not read on cold caches.
        packet, connections, get_ident = query, self._connections, threading.get_ident
        thread, connection, until = checked

        def is_quiet(now: float) -> bool:
            if thread != get_ident():
                return False
            place = connections.take_again(connection)
            if place is None:
                return False
            try:
                rows = poll_again(connection, packet, now)
                if rows:
                    self._found = Found(thread, packet, rows)
                return not rows
            except Exception:
                return False  # said by the usual way, if it lasts
            finally:
                # Closed by an error it is replaced when it is lent.
                connections.put(place)

        return QuietLook(is_quiet, until)

    def _ask(self, packet: bytes) -> list[bytes]:
        with self._database.session() as connection:
            rows = poll(connection, packet)
        # Others may be in a block, or have little time: theirs are always checked.
        if is_apart():
            until = time.monotonic() + CHECK_EVERY
            self._checked = Checked(threading.get_ident(), connection, until)
        return rows

    def _prepare(self, namespaces: tuple[str, ...]) -> None:
        dialect = self._database.dialect
        distinct = len(set(namespaces)) == len(namespaces)
        if dialect.binds_clock or not distinct:
            return
        if not 0 < len(namespaces) <= NAMESPACES_PER_STATEMENT:
            return
        text = DUE_ROWS.format(
            table=self._database.table,
            hint=self._hint,
            namespaces=", ".join(literal(dialect.encode(each)) for each in namespaces),
            now=dialect.now,
            limit=MAX_ROWS,
        )
        # Pools ask for the same ones; a caller that asks for others each time must
        # not fill the memory.
        kept = self.queries if len(self.queries) < MAX_QUERIES else {}
        self.queries = {**kept, namespaces: encode_query(text)}

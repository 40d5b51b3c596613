"""Which namespaces have rows due, asked of MySQL again and again for little."""

from __future__ import annotations

from typing import Sequence

from hydracache_sync.drivers.pymysql_poll import encode_query, poll
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.due import NAMESPACES_PER_STATEMENT, Poll
from hydracache_sync.outbox.mysql_inserts import literal

#: Packets with queries for due rows that are kept; a pool has one.
MAX_QUERIES = 20


class MySQLPoll:
    """Asks at little cost, and in the usual way whenever there is more to it.

    An idle worker asks fifty times a second, on cold caches: what is not needed when
    nothing is due costs more than the query.

    :param usual: asks with an ordinary query.
    :param database: its sessions are used; the usual way has checked the tables.
    """

    def __init__(self, usual: Poll, database: Database) -> None:
        self._usual = usual
        self._database = database
        #: Packets that ask which of some namespaces have rows due.
        self.queries: dict[tuple[str, ...], bytes] = {}

    def due(self, namespaces: Sequence[str]) -> list[str]:
        packet = self.queries.get(tuple(namespaces))
        if packet is not None:
            try:
                with self._database.session() as connection:
                    bits = poll(connection, packet)
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

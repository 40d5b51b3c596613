"""INSERTs of new rows on MySQL and MariaDB."""

from __future__ import annotations

from typing import Any, Sequence

from hydracache_sync.drivers.mysql import only_value
from hydracache_sync.intents import KINDS
from hydracache_sync.outbox.dialect import Dialect, Statements
from hydracache_sync.outbox.enqueue import NewRow, Shared
from hydracache_sync.outbox.statements import Present

#: Bytes of one INSERT. The smallest default of max_allowed_packet is 1 MB.
STATEMENT_BYTES = 512 * 1024

#: Rows that stay below that whatever they hold: two texts of 4096 bytes, three shorter
#: ones, in hex.
SURE_ROWS = 28

#: Bytes of one INSERT below which the server is not asked for its limit.
SURE_BYTES = 60_000

#: Bytes of a row beside its values: the moments, and a trace context of 113.
ROW_BYTES = 250

#: Bytes of a packet that are not the statement's.
PACKET_MARGIN = 1024


class MySQLInserts:
    """Inserts rows as literals. Thread-safe."""

    def __init__(self, dialect: Dialect, statements: Statements) -> None:
        self._dialect = dialect
        self._statements = statements
        # What the rows of an enqueue share and end in, by how many values that takes:
        # due at once, with a delay, or with moments of another clock. Not
        # "created_at_ms + %s": a producer's user may have the right to insert alone.
        now = dialect.now
        self._row_ends = {
            3: f"%s, %s, %s, {now}, {now}, 0)",
            4: f"%s, %s, %s, {now}, {now} + %s, 0)",
            5: "%s, %s, %s, %s, %s, 0)",
        }

    def is_one_statement(
        self, rows: Sequence[NewRow], shared: Shared, present: Present
    ) -> bool:
        return len(_split(rows, shared, STATEMENT_BYTES)) == 1

    def insert(
        self,
        cursor: Any,
        rows: Sequence[NewRow],
        shared: Shared,
        present: Present,
        traceparent: str | None = None,
    ) -> int:
        if len(rows) > SURE_ROWS:
            parts = _split(rows, shared, STATEMENT_BYTES)
            if len(parts) > 1:
                return sum(
                    self.insert(cursor, part, shared, present, traceparent)
                    for part in parts
                )
        # Literals in hex, no parameters: what a driver, its converters, the character
        # set of the connection and the sql_mode make of text does not matter then.
        # What the rows have in common is written once.
        end = self._row_ends[len(shared)] % tuple(map(literal, shared))
        context = None if traceparent is None else literal(traceparent)
        if context is not None:
            end = f"{end[:-1]}, {context})"
        texts = [
            f"(x'{digest.hex()}', {_KINDS[kind]}, {literal(value)}, {literal(name)},"
            f" {end}"
            for digest, kind, value, name in rows
        ]
        now = literal(shared[3]) if self._dialect.binds_clock else self._dialect.now
        statement = self._statements.insert(
            ", ".join(texts), present, now=now, traceparent=context
        )
        if len(statement) > SURE_BYTES and len(rows) > 1:
            cursor.execute("select @@max_allowed_packet")
            if len(statement) + PACKET_MARGIN > only_value(cursor.fetchall()):
                middle = len(rows) // 2
                return sum(
                    self.insert(cursor, half, shared, present, traceparent)
                    for half in (rows[:middle], rows[middle:])
                )
        cursor.execute(statement)
        if present is Present.CARRIED_AGAIN:
            # The server counts a row that was changed twice, and each is changed.
            return 2 * len(rows) - int(cursor.rowcount)
        return len(rows) if present is Present.IMPOSSIBLE else int(cursor.rowcount)


def literal(value: str | bytes | int | None) -> str:
    """Return ``value`` as SQL: text in hex, whatever the connection makes of text."""
    if isinstance(value, str):
        return f"x'{value.encode('utf-8').hex()}'"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return "null" if value is None else str(value)


_KINDS = {kind: literal(kind) for kind in KINDS}


def _split(rows: Sequence[NewRow], shared: Shared, size: int) -> list[Sequence[NewRow]]:
    """Split rows so that the literals of each part stay below ``size`` bytes."""
    if len(rows) <= SURE_ROWS:
        return [rows]
    parts: list[list[NewRow]] = [[]]
    total = 0
    for row in rows:
        length = ROW_BYTES + sum(len(literal(value)) for value in (*row, *shared))
        if parts[-1] and total + length > size:
            parts.append([])
            total = 0
        parts[-1].append(row)
        total += length
    return list(parts)

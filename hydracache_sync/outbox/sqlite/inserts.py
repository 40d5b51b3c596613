"""INSERTs of new rows on SQLite."""

from __future__ import annotations

import sqlite3
from typing import Sequence

from hydracache_sync.outbox.database import IDS_PER_STATEMENT, parts_of
from hydracache_sync.outbox.dialect import Statements
from hydracache_sync.outbox.enqueue import NewRow, Shared
from hydracache_sync.outbox.statements import CARRY_AGAIN, LAST_BEFORE, Present

#: Rows of one INSERT with four parameters each, and six that they share; SQLite takes
#: 32766, or 999 before 3.32.
_ROWS_PER_INSERT = 3600 if sqlite3.sqlite_version_info >= (3, 32) else 110

#: The highest that an id can be.
MAX_ID = 2**63 - 1


class SQLiteInserts:
    """Inserts rows with parameters. Thread-safe."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        #: Texts of INSERTs by their rows, and what they do about those that are there.
        self._texts: dict[tuple[int, Present, bool], str] = {}

    def is_one_statement(
        self, rows: Sequence[NewRow], shared: Shared, present: Present
    ) -> bool:
        return len(rows) <= _ROWS_PER_INSERT and present is not Present.CARRIED_AGAIN

    def insert(
        self,
        cursor: sqlite3.Cursor,
        rows: Sequence[NewRow],
        shared: Shared,
        present: Present,
        traceparent: str | None = None,
    ) -> int:
        if len(rows) > _ROWS_PER_INSERT:
            return sum(
                self.insert(cursor, part, shared, present, traceparent)
                for part in parts_of(rows, _ROWS_PER_INSERT)
            )
        traced = traceparent is not None
        text = self._texts.get((len(rows), present, traced))
        if text is None:
            marks = _marks(len(shared), len(rows), len(rows[0]), traced=traced)
            text = self._statements.insert(
                marks, present, traceparent="" if traced else None
            )
            self._texts[len(rows), present, traced] = text
        values = list(shared)
        if traced:
            values.append(traceparent)
        for row in rows:
            values += row
        cursor.execute(text, values)
        inserted = cursor.rowcount
        if present is Present.CARRIED_AGAIN and inserted < len(rows):
            self._carry_again(cursor, rows, shared, inserted, traceparent)
        return inserted

    def _carry_again(
        self,
        cursor: sqlite3.Cursor,
        rows: Sequence[NewRow],
        shared: Shared,
        inserted: int,
        traceparent: str | None,
    ) -> None:
        """Change those of ``rows`` that were there, and not the ``inserted`` ones.

        In a transaction: the INSERT took the write lock, also if it added nothing, so
        that no purge comes between.
        """
        namespace, position, _, now_ms, _ = shared
        commit = {"namespace": namespace, "position": position}
        last = MAX_ID
        if inserted:
            params = {**commit, "inserted": inserted}
            self._statements.run(cursor, LAST_BEFORE, params)
            [(last,)] = cursor.fetchall()
        params = {**commit, "now": now_ms, "last": last, "traceparent": traceparent}
        for part in parts_of([row[0] for row in rows], IDS_PER_STATEMENT):
            self._statements.run(cursor, CARRY_AGAIN, params, part)


def _marks(shared: int, rows: int, own: int, *, traced: bool) -> str:
    """Return rows of parameters: ``own`` ones in each, then the ``shared`` ones.

    The shared ones come first in the list, and are bound once for all rows.

    :param traced: the trace context comes behind them.
    """
    end = ", ".join([f"?{n + 1}" for n in range(shared)]) + ", 0"
    if traced:
        shared += 1
        end += f", ?{shared}"
    return ",\n".join(
        f"({', '.join([f'?{first + n}' for n in range(own)])}, {end})"
        for first in range(shared + 1, shared + 1 + rows * own, own)
    )

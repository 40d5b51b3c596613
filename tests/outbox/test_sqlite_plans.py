"""What every statement reads in a SQLite file of many rows: no more than it has to."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Callable

import pytest

from hydracache_sync.outbox import SQLiteOutbox
from support.statement_cases import (
    DEAD,
    FEW,
    KEPT,
    MADE,
    runs,
    test_every_statement_has_a_case,
)

__all__ = ["test_every_statement_has_a_case"]

#: What operators list: without statistics the planner sorts all rows of the namespace
#: for the first of them, and looks at all for the names of the namespaces.
LISTINGS = "ROWS", "ALL_NAMESPACES"

#: Steps of SQLite's machine for a row that is read, compared, sorted and given.
STEPS = 60


def fill(path: Path, due: int) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.create_function("hash_of", 1, lambda n: n.to_bytes(32, "big"))
        connection.execute(
            "insert into hydracache_outbox (target_hash, kind, value, namespace,"
            " commit_position, reason, created_at_ms, at_ms, state)"
            " with recursive numbers (n) as"
            f" (select 0 union all select n + 1 from numbers where n < {KEPT - 1})"
            " select hash_of(n), 'key', 'key:' || n, 'shop',"
            f" 'tx:' || case when n < {KEPT - DEAD} then n else 'dead' end, '',"
            f" {MADE} + n, {MADE} + n,"
            f" case when n < {due} then 0 when n < {KEPT - DEAD} then 1 else 2 end"
            " from numbers"
        )


@pytest.mark.parametrize("analyzed", [False, True], ids=["", "analyzed"])
@pytest.mark.parametrize("due", [0, 30_000, KEPT - DEAD])
def test_no_statement_reads_more_than_it_has_to(
    tmp_path: Path, due: int, analyzed: bool
) -> None:
    path = tmp_path / "outbox.db"
    excess: dict[str, tuple[int, int]] = {}
    with contextlib.closing(SQLiteOutbox(path)) as outbox:
        outbox.install_schema()
        fill(path, due)
        if analyzed:
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("analyze")
        entries = {0: due, 1: KEPT - DEAD - due, 2: DEAD}
        with outbox._database.session() as connection:
            steps = [0]

            def step() -> int:
                steps[0] += 1
                return 0

            def reading(name: str, at_most: int, run: Callable[[], object]) -> None:
                steps[0] = 0
                run()
                if steps[0] > at_most * STEPS:
                    excess[name] = steps[0], at_most * STEPS

            connection.set_progress_handler(step, 1)
            cursor = connection.cursor()
            text, values = outbox._database.statements.due(1), [
                "shop",
                MADE * 2,
                MADE * 2,
            ]
            reading("DUE", FEW, lambda: cursor.execute(text, values).fetchall())
            for name, run, at_most in runs(outbox, entries):
                connection.execute("begin")
                if name in LISTINGS:
                    at_most += KEPT
                reading(name, at_most, lambda: run(cursor))
                connection.execute("rollback")
            connection.set_progress_handler(None, 1)

    assert excess == {}

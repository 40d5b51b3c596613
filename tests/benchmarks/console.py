"""How long each page of the console takes with a million rows of each state.

    PYTHONPATH=tests python tests/benchmarks/console.py [--only sqlite] [--rows N]
    ... console.py --rows 10000 --rounds 3        (in seconds)

One outbox with one namespace, and as many rows pending, dead and published in the last
hour. The pages are asked for in turn, by Flask's test client: no network, but the whole
of the request. Goal: no median above 100 ms. Data as for ``growth.py``, which fills it.
"""

from __future__ import annotations

import argparse
import re
import secrets
import statistics
import sys
import time
from typing import Any, Iterator

from flask import Flask
from growth import NAMESPACE, Sizes, Table, position, server_tables, sqlite_tables

from hydracache_sync.console import console_blueprint
from hydracache_sync.outbox import OutboxState
from support.servers import SQL_SERVERS
from support.statement_cases import MADE

GOAL_MS = 100.0

#: Milliseconds in which all rows of a state follow each other.
WITHIN = 3_000_000


#: Rows that one statement changes.
PART = 50_000


def pages(table: Table, client: Any) -> Iterator[tuple[str, str]]:
    """What is asked for, by name: the usual pages, and the dear ones."""
    place = f"outbox=outbox&namespace={NAMESPACE}"
    rows = f"/rows?{place}"
    yield "overview", "/"
    for state in ("pending", "due", "claimed", "backoff", "dead", "published"):
        yield state, f"{rows}&state={state}"
    for state in ("pending", "dead", "published"):
        middle = table.outbox.find_rows(
            NAMESPACE, OutboxState(state), limit=table.pending // 2
        )
        after = ".".join(map(str, middle.after))
        yield f"{state}, the middle", f"{rows}&state={state}&order=oldest&after={after}"
    yield "key that is there not", f"{rows}&q=nothing"
    yield "reason that is there not", f"{rows}&by=reason&q=nothing"
    yield "error that is there not", f"{rows}&state=dead&by=error&q=nothing"
    yield "commit", f"{rows}&by=position&q={position(7)}"
    [id, *_] = middle.ids
    yield "row", f"/row?{place}&id={id}"
    yield "actions", f"/act?{place}"
    every = f"/confirm?{place}&all=1&state=dead"
    yield "question, retry all", f"{every}&action=retry"
    yield "question, retry by error", f"{every}&action=retry&by=error&q=nothing"
    yield "health", "/healthz"


def move_into_the_last_hour(table: Table) -> None:
    """The rows are of long ago: bring those that are published up to now."""
    now_ms = table.outbox.now_ms()
    moment = f"{now_ms - WITHIN} + (at_ms - {MADE}) * {WITHIN} / {table.finished}"
    # By their numbers, published rows are the first.
    for first in range(0, 2 * table.finished, PART):
        with table.outbox.transaction() as connection:
            connection.cursor().execute(
                f"update {table.outbox.table} set at_ms = round({moment})"
                f" where state = 1 and id > {first} and id <= {first + PART}"
            )


def measure(table: Table, rounds: int) -> bool:
    """Print the medians; return whether all are as good as they are to be."""
    app = Flask("console")
    app.secret_key = secrets.token_bytes(16)
    app.register_blueprint(
        console_blueprint(table.outbox, authenticate=lambda: "ada", writable=True)
    )
    client = app.test_client()
    asked = list(pages(table, client))
    took: dict[str, list[float]] = {name: [] for name, _ in asked}
    # The first round warms up.
    for round_ in range(rounds + 1):
        for name, path in asked:
            started = time.perf_counter()
            answer = client.get(path)
            seconds = time.perf_counter() - started
            assert answer.status_code == 200, (name, answer.status)
            if round_:
                took[name].append(seconds * 1000)
    bars = re.findall(r'<rect class="bar', client.get("/").get_data(as_text=True))
    assert len(bars) == 30
    for name, found in took.items():
        print(f"  {name:28} {statistics.median(found):8.1f} {max(found):8.1f}")
    return all(statistics.median(found) <= GOAL_MS for found in took.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=["sqlite", *SQL_SERVERS])
    parser.add_argument("--disk", metavar="DIRECTORY")
    options = parser.parse_args()
    sizes = Sizes([options.rows], options.rows, options.rows)
    good = True
    for place in [options.only] if options.only else ["sqlite", "mariadb"]:
        tables = (
            sqlite_tables(sizes, options.disk)
            if place == "sqlite"
            else server_tables(place, sizes, options.disk)
        )
        with tables as [table]:
            move_into_the_last_hour(table)
            print(
                f"{place}: {options.rows} rows of each state; milliseconds, median and"
                f" longest of {options.rounds}"
            )
            good &= measure(table, options.rounds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

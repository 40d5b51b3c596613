"""How long each page of the console takes with a million rows that wait.

    PYTHONPATH=tests python tests/benchmarks/console.py [--only sqlite]
    ... console.py --pending 10000 --dead 1000 --published 1000 --rounds 3  (in seconds)
    ... console.py --namespaces 100 --commits 2 --processes 1000   (the dear shapes)
    ... console.py --statements         (what each page's statements take, too)

One outbox, and rows pending, dead and published in the last hour. The pages are asked
for in turn, by Flask's test client: no network, but the whole of the request. Goal: no
median above 100 ms. Data as for ``growth.py``, which fills it.
"""

from __future__ import annotations

import argparse
import collections
import re
import secrets
import statistics
import sys
import time
from typing import Any, Iterator, Mapping

from _results import Results, add_save, versions
from flask import Flask
from growth import NAMESPACE, Sizes, Table, position, server_tables, sqlite_tables

from hydracache_sync import WorkerBeat
from hydracache_sync.console import console_blueprint
from hydracache_sync.outbox import OutboxState, PendingPhase, statements
from hydracache_sync.outbox.database import Database
from support.servers import SQL_SERVERS
from support.statement_cases import MADE

GOAL_MS = 100.0

#: Milliseconds in which all rows of a state follow each other.
WITHIN = 3_000_000


#: Rows that one statement changes.
PART = 10_000

#: Names of the statements, by their text.
NAMES = {
    spelled: name
    for name, text in vars(statements).items()
    if name.isupper() and isinstance(text, str)
    for spelled in (statements.backwards(text), text)
}


def pages(table: Table, counts: Mapping[OutboxState, int]) -> Iterator[tuple[str, str]]:
    """What is asked for, by name: the usual pages, and the dear ones."""
    place = f"outbox=outbox&namespace={NAMESPACE}"
    rows = f"/rows?{place}"
    yield "overview", "/"
    for phase in PendingPhase:
        yield phase.value, f"{rows}&state={phase.value}"
    for state, count in counts.items():
        middle = table.outbox.find_rows(NAMESPACE, state, limit=count // 2)
        assert middle.after is not None
        after = f"after={'.'.join(map(str, middle.after))}"
        for order in ("oldest", "newest"):
            part = f"{rows}&state={state.value}&order={order}"
            yield f"{state.value}, {order}", part
            yield f"{state.value}, {order}, the middle", f"{part}&{after}"
    yield "key that is there not", f"{rows}&q=nothing"
    yield "reason that is there not", f"{rows}&by=reason&q=nothing"
    yield "error that is there not", f"{rows}&state=dead&by=error&q=nothing"
    yield "commit", f"{rows}&by=position&q={position(1)}"
    [id, *_] = middle.ids
    yield "row", f"/row?{place}&id={id}"
    yield "actions", f"/act?{place}"
    every = f"/confirm?{place}&all=1&state=dead"
    yield "question, retry all", f"{every}&action=retry"
    yield "question, retry by error", f"{every}&action=retry&by=error&q=nothing"
    yield "health", "/healthz"


def move_into_the_last_hour(table: Table, finished: int) -> None:
    """The rows are of long ago: bring those that are published up to now."""
    now_ms = table.outbox.now_ms()
    moment = f"{now_ms - WITHIN} + (at_ms - {MADE}) * {WITHIN} / {finished}"
    # By their numbers, published rows are the first.
    for first in range(0, finished, PART):
        with table.outbox.transaction() as connection:
            connection.cursor().execute(
                f"update {table.outbox.table} set at_ms = round({moment})"
                f" where state = 1 and id > {first} and id <= {first + PART}"
            )


class Watched:
    """Milliseconds of each statement that is read, by its name, since ``clear``."""

    def __init__(self) -> None:
        self.took: dict[str, float] = collections.defaultdict(float)
        read = Database.read

        def watched(database: Any, statement: str, *args: Any, **more: Any) -> Any:
            started = time.perf_counter()
            try:
                return read(database, statement, *args, **more)
            finally:
                name = NAMES.get(statement, "FIND")  # of a phase
                self.took[name] += (time.perf_counter() - started) * 1000

        setattr(Database, "read", watched)


def measure(
    table: Table,
    counts: Mapping[OutboxState, int],
    options: Any,
    saved: dict[str, list[str]],
) -> bool:
    """Print the medians, and add them to ``saved``; return whether all are good.

    :param saved: cells of the table of results, by page.
    """
    app = Flask("console")
    app.secret_key = secrets.token_bytes(16)
    app.register_blueprint(
        console_blueprint(table.outbox, authenticate=lambda: "ada", writable=True)
    )
    client = app.test_client()
    asked = list(pages(table, counts))
    took: dict[str, list[float]] = {name: [] for name, _ in asked}
    parts: dict[str, dict[str, list[float]]] = {
        name: collections.defaultdict(list) for name in took
    }
    watched = Watched()
    # The first round warms up.
    for round_ in range(options.rounds + 1):
        for name, path in asked:
            watched.took.clear()
            started = time.perf_counter()
            answer = client.get(path)
            seconds = time.perf_counter() - started
            assert answer.status_code == 200, (name, answer.status)
            if round_:
                took[name].append(seconds * 1000)
                for part, milliseconds in watched.took.items():
                    parts[name][part].append(milliseconds)
    bars = re.findall(r'<rect class="bar', client.get("/").get_data(as_text=True))
    assert len(bars) == 30
    for name, found in took.items():
        median, longest = f"{statistics.median(found):.1f}", f"{max(found):.1f}"
        print(f"  {name:28} {median:>8} {longest:>8}")
        saved.setdefault(name, [name]).append(f"{median} ({longest})")
        if options.statements:
            medians = {each: statistics.median(ms) for each, ms in parts[name].items()}
            said = [f"{each} {ms:.1f}" for each, ms in sorted(medians.items())]
            print(f"    {', '.join(said)}")
    return all(statistics.median(found) <= GOAL_MS for found in took.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pending", type=int, default=1_000_000)
    parser.add_argument("--dead", type=int, default=100_000)
    parser.add_argument("--published", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=["sqlite", *SQL_SERVERS])
    parser.add_argument("--disk", metavar="DIRECTORY")
    parser.add_argument("--statements", action="store_true")
    parser.add_argument("--namespaces", type=int, default=1)
    parser.add_argument("--commits", type=int, default=10**12)
    parser.add_argument("--processes", type=int, default=3)
    add_save(parser)
    options = parser.parse_args()
    counts = {
        state: getattr(options, state.value) // options.namespaces
        for state in OutboxState
    }
    sizes = Sizes(
        [options.published],
        options.pending,
        options.dead,
        options.namespaces,
        options.commits,
    )
    good = True
    results = Results()
    databases: dict[str, str] = {}
    cells: dict[str, list[str]] = {}
    places = [options.only] if options.only else ["sqlite", "mariadb"]
    for place in places:
        tables = (
            sqlite_tables(sizes, options.disk)
            if place == "sqlite"
            else server_tables(place, sizes, options.disk)
        )
        with tables as [table]:
            move_into_the_last_hour(table, options.published)
            for pid in range(options.processes):
                table.outbox.beat(
                    WorkerBeat(
                        *(f"host:{pid}", "worker", "host", pid, "1", (NAMESPACE,)),
                        *(60.0, 10.0, 1),
                    )
                )
            said = ", ".join(
                f"{count:,} {state.value}" for state, count in counts.items()
            )
            databases.update(table.outbox.versions())
            print(
                f"{place}: {said}; milliseconds, median and longest of"
                f" {options.rounds}"
            )
            good &= measure(table, counts, options, cells)
    if options.save:
        saved = results.table(
            f"Milliseconds, the median of {options.rounds} and the longest:",
            ["page", *places],
        )
        saved += cells.values()
        results.save(options.save, **databases, **versions("Flask"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

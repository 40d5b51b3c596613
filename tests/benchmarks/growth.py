"""Whether claim, status, wait and purge cost the same however many rows are finished.

    PYTHONPATH=tests python tests/benchmarks/growth.py [--only sqlite] [--seed N]
    ... growth.py --finished 1000 100000 10000000
    ... growth.py --finished 1000 10000 --pending 10000 --dead 1000     (in seconds)

A table for each number of finished rows, with the same pending rows, all due, and dead
letters beside them, in one namespace. What workers, waiters and the purge call is timed
in rounds, in each round on every table in a random order; the ratio to the smallest
table is taken round by round. Goal: no median above 1.5. Then the plan of each query,
as the database explains it, and in which of the tables it is another one.

SQLite's data is on disk, MariaDB's in memory where there is room: with 10,000,000 rows
some 5 GB each. ``--disk`` puts both in that directory.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

from _plans import show_plans
from _results import Results, add_save
from latency import on_disk

from hydracache_sync import SQLiteOutbox, open_outbox
from support.servers import SQL_SERVERS
from support.statement_cases import MADE

NAMESPACE = "shop"

#: Rows of one claim, as a worker asks for them, and of one bite of a purge.
CLAIMED = 256
PURGED = 50

#: Rows that one statement fills in.
BULK = 1_000_000

#: Finished rows come first by their numbers, then pending ones, then dead ones.
ROWS = f"""
insert into hydracache_outbox (target_hash, kind, value, namespace, commit_position,
  reason, created_at_ms, at_ms, state)
select {{hash}}, 'key', {{key}}, {{namespace}}, {{position}}, '',
  {MADE} + n, {MADE} + n,
  case
    when n < {{finished}} then 1
    when n < {{finished}} + {{pending}} then 0
    else 2
  end
from {{numbers}}
"""


class Table(NamedTuple):
    """An outbox with so many finished rows."""

    outbox: Any
    finished: int
    pending: int


class Sizes(NamedTuple):
    """Rows of each state.

    :ivar namespaces: that the rows are spread over; the first is ``NAMESPACE``.
    :ivar commits: that they are spread over; by default each has its own.
    """

    finished: list[int]
    pending: int
    dead: int
    namespaces: int = 1
    commits: int = 10**12


def position(number: int) -> str:
    return f"tx:{number:012}"


# The databases


@contextlib.contextmanager
def sqlite_tables(sizes: Sizes, disk: str | None) -> Iterator[list[Table]]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=disk))
        tables = []
        for finished in sizes.finished:
            path = Path(folder) / f"{finished}.db"
            outbox = stack.enter_context(contextlib.closing(SQLiteOutbox(path)))
            outbox.install_schema()
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("pragma journal_mode = off")
                connection.execute("pragma synchronous = off")
                fill_sqlite(connection, finished, sizes)
                connection.execute("pragma journal_mode = wal")
            tables.append(Table(outbox, finished, sizes.pending))
        yield tables


def fill_sqlite(connection: sqlite3.Connection, finished: int, sizes: Sizes) -> None:
    rows = finished + sizes.pending + sizes.dead
    statement = ROWS.format(
        hash="randomblob(32)",
        key="'key:' || n",
        position=f"printf('tx:%012d', n % {sizes.commits})",
        namespace=f"'{NAMESPACE}' || coalesce(nullif(n % {sizes.namespaces}, 0), '')",
        finished=finished,
        pending=sizes.pending,
        numbers="numbers",
    )
    connection.execute(
        "with recursive numbers (n) as"
        f" (select 0 union all select n + 1 from numbers where n < {rows - 1})"
        + statement
    )
    connection.commit()


@contextlib.contextmanager
def server_tables(kind: str, sizes: Sizes, disk: str | None) -> Iterator[list[Table]]:
    with contextlib.ExitStack() as stack:
        arguments = [
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-buffer-pool-size=1G",
        ]
        server_class = SQL_SERVERS[kind]
        server = stack.enter_context(
            server_class(arguments=arguments)
            if disk is None
            else on_disk(server_class, disk)
        )
        tables = []
        for finished in sizes.finished:
            fill_server(server, f"growth{finished}", finished, sizes)
            outbox = open_outbox(server.url(f"growth{finished}"))
            stack.enter_context(contextlib.closing(outbox))
            tables.append(Table(outbox, finished, sizes.pending))
        yield tables


def fill_server(server: Any, database: str, finished: int, sizes: Sizes) -> None:
    import pymysql

    with contextlib.closing(
        pymysql.connect(
            host=server.host, port=server.port, user=server.user, autocommit=True
        )
    ) as connection:
        connection.query(f"create database {database}")
        with contextlib.closing(open_outbox(server.url(database))) as outbox:
            outbox.install_schema()
        connection.select_db(database)
        rows = finished + sizes.pending + sizes.dead
        digits = " union all ".join(f"select {n} as d" for n in range(10))
        tens = " cross join ".join(f"({digits}) as d{n}" for n in range(6))
        number = " + ".join(f"{10 ** n} * d{n}.d" for n in range(6))
        for start in range(0, rows, BULK):
            count = min(BULK, rows - start)
            numbers = (
                f"(select {start} + n as n from (select {number} as n from {tens})"
                f" as numbers where n < {count}) as numbers order by n"
            )
            connection.query(
                ROWS.format(
                    hash="unhex(sha2(n, 256))",
                    key="concat('key:', n)",
                    position=f"concat('tx:', lpad(n % {sizes.commits}, 12, '0'))",
                    namespace=f"concat('{NAMESPACE}',"
                    f" coalesce(nullif(n % {sizes.namespaces}, 0), ''))",
                    finished=finished,
                    pending=sizes.pending,
                    numbers=numbers,
                )
            )
        connection.query("analyze table hydracache_outbox")


# What is timed; each call checks that it did its work


def claim(table: Table, rng: random.Random) -> Callable[[], None]:
    rows = table.outbox.claim(NAMESPACE, "growth", limit=CLAIMED, claim_ttl=600.0)
    assert len(rows) == CLAIMED, len(rows)
    return lambda: table.outbox.release(rows)


def status(table: Table, rng: random.Random) -> None:
    assert table.outbox.status(NAMESPACE).pending


def wait(table: Table, rng: random.Random) -> None:
    """The question that a wait asks: of a commit that is finished, or is not."""
    # The purge comes to the older half only.
    number = rng.randrange(table.finished // 2, table.finished + table.pending)
    state = table.outbox.status_for_commit(NAMESPACE, position(number))
    assert (state.pending == 0) == (number < table.finished), state


def purge(table: Table, rng: random.Random) -> None:
    gone = table.outbox.purge_published(NAMESPACE, older_than=60.0, limit=PURGED)
    assert gone == PURGED, gone


#: How often each is called in a round.
CALLS: dict[Callable[[Table, random.Random], Any], int] = {
    claim: 3,
    status: 5,
    wait: 50,
    purge: 1,
}


def measure(
    tables: list[Table], rounds: int, rng: random.Random, saved: list[list[str]]
) -> bool:
    """Print the medians, and add them to ``saved``; return whether all are good."""
    good = True
    for call, times in CALLS.items():
        took: dict[int, list[float]] = {table.finished: [] for table in tables}
        # The first round warms up.
        for round_ in range(rounds + 1):
            for table in rng.sample(tables, len(tables)):
                seconds = 0.0
                for _ in range(times):
                    started = time.perf_counter()
                    afterwards = call(table, rng)
                    seconds += time.perf_counter() - started
                    if afterwards is not None:
                        afterwards()
                if round_:
                    took[table.finished].append(seconds / times)
        smallest = took[tables[0].finished]
        cells = []
        saved.append([call.__name__])
        for seconds_of in took.values():
            ratio = statistics.median(b / a for a, b in zip(smallest, seconds_of))
            milliseconds = statistics.median(seconds_of) * 1000
            cells.append(f"{milliseconds:9.3f} x{ratio:.2f}")
            saved[-1].append(f"{milliseconds:.3f} ms, {ratio:.2f}")
            good &= ratio <= 1.5
        print(f"  {call.__name__:8}" + "  ".join(cells), flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--finished", type=int, nargs="+", default=[1_000, 100_000, 1_000_000]
    )
    parser.add_argument("--pending", type=int, default=1_000_000)
    parser.add_argument("--dead", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--only", choices=["sqlite", *SQL_SERVERS])
    parser.add_argument("--disk", metavar="DIRECTORY")
    add_save(parser)
    options = parser.parse_args()
    sizes = Sizes(sorted(options.finished), options.pending, options.dead)
    if sizes.finished[0] // 2 < (options.rounds + 1) * PURGED:
        parser.error(f"--finished: {sizes.finished[0]} rows are too few for the purges")
    if sizes.pending < CLAIMED:
        parser.error(f"--pending: a claim takes {CLAIMED} rows")
    rng = random.Random(options.seed)
    print(
        f"growth.py --seed {options.seed}: {sizes.pending} pending and {sizes.dead}"
        f" dead rows; finished {', '.join(map(str, sizes.finished))}; milliseconds and"
        f" ratio to the smallest, {options.rounds} rounds"
    )
    good = True
    results = Results()
    versions: dict[str, str] = {}
    for place in [options.only] if options.only else ["sqlite", "mariadb"]:
        sqlite = place == "sqlite"
        made = (
            sqlite_tables(sizes, options.disk)
            if sqlite
            else server_tables(place, sizes, options.disk)
        )
        with made as tables:
            print(f"{place}{' ' + sqlite3.sqlite_version if sqlite else ''}")
            versions.update(tables[0].outbox.versions())
            saved = results.table(
                f"{place}, {sizes.pending:,} pending and {sizes.dead:,} dead rows:",
                ["call", *(f"{count:,} finished" for count in sizes.finished)],
            )
            good &= measure(tables, options.rounds, rng, saved)
            show_plans(
                {table.finished: table.outbox for table in tables},
                "explain query plan " if sqlite else "explain ",
            )
    if options.save:
        results.save(options.save, **versions)
    print("goal <= 1.5: " + ("met" if good else "missed"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

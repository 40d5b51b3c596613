"""What tracing costs an enqueue, a drain and a cached hit, on SQLite and in memory.

    python tests/benchmarks/tracing.py [--rounds 9] [--rows 20000] [--transactions 300]
                                       [--cpu] [--disk DIR] [--save FILE]

Three sides run in turn in one process: not traced, not traced once more, which shows
the noise, and traced by OpenTelemetry's SDK, which keeps each span and exports none.
Each ratio is to the first side, taken round by round: quote their medians. Each row of
a drain is of another traced request where it is traced. ``--cpu`` compares the CPU time
of the thread, for a machine that does other things as well.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, List, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _in_turn import Side, compare, timed  # noqa: E402
from _results import Results, add_save, versions  # noqa: E402
from _side_by_side import NAMESPACE, library_worker  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from sqlite_outbox import database, fill, library_enqueue  # noqa: E402

from hydracache_sync import MemcachedStore, SQLiteOutbox, TaggedCache  # noqa: E402
from hydracache_sync.tracing import instrument  # noqa: E402
from support.servers import Memcached  # noqa: E402

#: Cached reads of a round.
READS = 3000

#: Times a call, by one clock for all sides.
Timed = Callable[[Callable[[], object]], float]

#: Rows of the table of results.
Rows = List[List[str]]


def switched(sides: Sequence[Side]) -> dict[str, Side]:
    """Not traced, not traced again, traced."""
    return dict(zip(("first", "off (noise)", "on"), sides))


def enqueues(
    folder: Path,
    provider: TracerProvider,
    options: argparse.Namespace,
    timed: Timed,
    saved: Rows,
) -> None:
    path = folder / "enqueue.db"
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(database(path)))
        outboxes = [
            stack.enter_context(contextlib.closing(SQLiteOutbox(path)))
            for _ in range(3)
        ]
        instrument(outboxes[2], tracer_provider=provider)

        def side(outbox: SQLiteOutbox) -> Side:
            def work() -> None:
                for number in range(options.transactions):
                    library_enqueue(outbox, connection, number)

            return lambda: timed(work)

        compare(
            "a transaction of one UPDATE and 3 intents",
            switched(list(map(side, outboxes))),
            options.rounds,
            calls=options.transactions,
            saved=saved,
        )


def trace_rows(connection: sqlite3.Connection) -> None:
    """Have each row be of a request of its own."""
    connection.execute(
        "update hydracache_outbox set traceparent ="
        " printf('00-%032x-%016x-01', id, id)"
    )


def drains(
    folder: Path,
    provider: TracerProvider,
    options: argparse.Namespace,
    timed: Timed,
    saved: Rows,
) -> None:
    path = folder / "drain.db"
    with contextlib.ExitStack() as stack:
        filler = stack.enter_context(contextlib.closing(database(path)))
        server = stack.enter_context(Memcached())
        store = stack.enter_context(
            contextlib.closing(MemcachedStore([server.address]))
        )
        outboxes = [
            stack.enter_context(contextlib.closing(SQLiteOutbox(path)))
            for _ in range(3)
        ]
        workers = [library_worker(outbox, store, 256) for outbox in outboxes]
        instrument(workers[2], tracer_provider=provider)

        def side(number: int) -> Side:
            def run() -> float:
                fill(filler, options.rows)
                if number == 2:
                    trace_rows(filler)
                return timed(workers[number].drain)

            return run

        compare(
            f"a row of a drain of {options.rows:,}",
            switched([side(number) for number in range(3)]),
            options.rounds,
            calls=options.rows,
            saved=saved,
        )


def hits(
    provider: TracerProvider, options: argparse.Namespace, timed: Timed, saved: Rows
) -> None:
    with Memcached() as server:
        with contextlib.closing(MemcachedStore([server.address])) as store:
            caches = [TaggedCache(store, NAMESPACE) for _ in range(3)]
            instrument(caches[2], tracer_provider=provider)

            def side(cache: TaggedCache) -> Side:
                def work() -> None:
                    for _ in range(READS):
                        cache.get_or_load("a", lambda: "value", tags=["b", "c"])

                return lambda: timed(work)

            compare(
                "a cached hit with two tags",
                switched(list(map(side, caches))),
                options.rounds,
                calls=READS,
                saved=saved,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--transactions", type=int, default=300)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--disk", metavar="DIR", help="where the database is")
    add_save(parser)
    options = parser.parse_args()
    clock = time.thread_time if options.cpu else time.perf_counter
    by_clock = functools.partial(timed, clock=clock)
    results = Results()
    saved = results.table(
        f"{'CPU time' if options.cpu else 'Time'} without traces, and the ratios to it"
        f" of {options.rounds} rounds, the median and its 95 % interval:",
        ["what", "not traced", "again", "traced"],
    )
    print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
    provider = TracerProvider(shutdown_on_exit=False)
    with tempfile.TemporaryDirectory(dir=options.disk) as folder:
        enqueues(Path(folder), provider, options, by_clock, saved)
        drains(Path(folder), provider, options, by_clock, saved)
    hits(provider, options, by_clock, saved)
    if options.save:
        results.save(
            options.save,
            SQLite=sqlite3.sqlite_version,
            **versions("opentelemetry-sdk", "pymemcache"),
        )


if __name__ == "__main__":
    main()

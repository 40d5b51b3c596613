"""What tracing costs an enqueue, a drain and a cached hit, on SQLite and in memory.

    python tests/benchmarks/tracing.py [--rounds 9] [--rows 20000] [--transactions 300]

Three sides run in turn in one process: not traced, not traced once more, which shows
the noise, and traced by OpenTelemetry's SDK, which keeps each span and exports none.
Each ratio is to the first side, taken round by round: quote their medians. Each row of
a drain is of another traced request where it is traced.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _in_turn import Side, compare, timed  # noqa: E402
from _side_by_side import NAMESPACE, library_worker  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from sqlite_outbox import database, fill, library_enqueue  # noqa: E402

from hydracache_sync import MemcachedStore, SQLiteOutbox, TaggedCache  # noqa: E402
from hydracache_sync.tracing import instrument  # noqa: E402
from support.servers import Memcached  # noqa: E402

#: Cached reads of a round.
READS = 3000


def switched(sides: Sequence[Side]) -> dict[str, Side]:
    """Not traced, not traced again, traced."""
    return dict(zip(("first", "off (noise)", "on"), sides))


def enqueues(
    folder: Path, provider: TracerProvider, options: argparse.Namespace
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

        sides = switched(list(map(side, outboxes)))
        compare("enqueue, 3 intents", sides, options.rounds)


def trace_rows(connection: sqlite3.Connection) -> None:
    """Have each row be of a request of its own."""
    connection.execute(
        "update hydracache_outbox set traceparent ="
        " printf('00-%032x-%016x-01', id, id)"
    )


def drains(folder: Path, provider: TracerProvider, options: argparse.Namespace) -> None:
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

        what = f"drain of {options.rows} rows"
        compare(what, switched([side(number) for number in range(3)]), options.rounds)


def hits(provider: TracerProvider, options: argparse.Namespace) -> None:
    with Memcached() as server:
        with contextlib.closing(MemcachedStore([server.address])) as store:
            caches = [TaggedCache(store, NAMESPACE) for _ in range(3)]
            instrument(caches[2], tracer_provider=provider)

            def side(cache: TaggedCache) -> Side:
                def work() -> None:
                    for _ in range(READS):
                        cache.get_or_load("a", lambda: "value", tags=["b", "c"])

                return lambda: timed(work)

            compare("cached hit", switched(list(map(side, caches))), options.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--transactions", type=int, default=300)
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
    provider = TracerProvider(shutdown_on_exit=False)
    with tempfile.TemporaryDirectory() as folder:
        enqueues(Path(folder), provider, options)
        drains(Path(folder), provider, options)
    hits(provider, options)


if __name__ == "__main__":
    main()

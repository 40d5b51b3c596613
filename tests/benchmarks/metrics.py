"""What metrics cost a drain and a cached hit: for Prometheus, and for StatsD.

    python tests/benchmarks/metrics.py [--rounds 9] [--rows 20000] [--cpu]

Four sides run in turn in one process: without metrics, without once more, which shows
the noise, scraped by Prometheus at the end of each round, and sent to a StatsD there.
Ratios are to the first side, taken round by round: quote their medians. ``--cpu``
compares the process's CPU time, for a machine that does other things as well. Goals: a
cached hit <= 1.03, a drain <= 1.02.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _in_turn import Side, compare, timed  # noqa: E402
from _side_by_side import NAMESPACE, library_worker  # noqa: E402
from sqlite_outbox import database, fill  # noqa: E402

from hydracache_sync import (  # noqa: E402
    MemcachedStore,
    SQLiteOutbox,
    TaggedCache,
)
from hydracache_sync.metrics import Metrics, StatsD  # noqa: E402
from support.servers import Memcached  # noqa: E402
from support.statsd import StatsDServer  # noqa: E402

#: Cached reads of a round.
READS = 5000

#: Seconds that never come: each round sends once, and no thread beside the others.
NEVER = 10_000.0

SIDES = ("first", "off (noise)", "Prometheus", "StatsD")


class Watched:
    """The sides of one comparison.

    :param part: makes what is watched, a worker or a cache.
    :param work: runs it for a round.
    :param prepare: called before each round, and not timed.
    """

    def __init__(
        self,
        outbox: SQLiteOutbox,
        server: StatsDServer,
        kind: str,
        part: Callable[[], Any],
        work: Callable[[Any], object],
        prepare: Callable[[], object] = lambda: None,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._work = work
        self._clock = clock
        self._prepare = prepare
        parts = [part() for _ in SIDES]
        self._metrics = Metrics(outbox, [NAMESPACE], **{kind: [parts[2]]})
        self.statsd = StatsD(
            "127.0.0.1",
            server.port,
            outbox,
            [NAMESPACE],
            send_every=NEVER,
            **{kind: [parts[3]]},
        )
        ends = (lambda: None, lambda: None, self._metrics.scrape, self.statsd.flush)
        self.sides = dict(zip(SIDES, map(self._side, parts, ends)))

    def _side(self, part: Any, after: Callable[[], object]) -> Side:
        def work() -> None:
            self._work(part)
            after()

        def run() -> float:
            self._prepare()
            return timed(work, self._clock)

        return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "shop.db"
        filler = stack.enter_context(contextlib.closing(database(path)))
        outbox = stack.enter_context(contextlib.closing(SQLiteOutbox(path)))
        memcached = stack.enter_context(Memcached())
        store = MemcachedStore([memcached.address])
        stack.enter_context(contextlib.closing(store))
        server = stack.enter_context(StatsDServer())

        def read(cache: TaggedCache) -> None:
            for _ in range(READS):
                cache.get_or_load("a", lambda: "value", tags=["b", "c"])

        reads = Watched(
            outbox,
            server,
            "caches",
            lambda: TaggedCache(store, NAMESPACE),
            read,
            clock=clock,
        )
        drains = Watched(
            outbox,
            server,
            "workers",
            lambda: library_worker(outbox, store, 256),
            lambda worker: worker.drain(),
            lambda: fill(filler, options.rows),
            clock=clock,
        )
        for what, watched in (
            ("cached hit", reads),
            (f"drain of {options.rows} rows", drains),
        ):
            compare(what, watched.sides, options.rounds)
            watched.statsd.close()


if __name__ == "__main__":
    main()

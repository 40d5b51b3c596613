"""What metrics cost a drain and a cached hit: for Prometheus, and for StatsD.

    python tests/benchmarks/metrics.py [--rounds 9] [--rows 20000] [--cpu] [--save FILE]

Four sides run in turn in one process, a slice of each: without metrics, without once
more, which shows the noise, with those for Prometheus, and for StatsD. Ratios are to
the first side, taken round by round: quote their medians. ``--cpu`` compares the CPU
time of the thread, for a machine that does other things as well. Goals: a cached hit
<= 1.03, a drain <= 1.02.

Beside them is what scatters less, and decides on a machine under load. Of a drain: the
share of the metrics' own callbacks. Of a hit: what metrics add to the fastest slice of
one in memory, where no socket is waited for, to the fastest of memcached.

A scrape or a send comes each 15 or 10 seconds, however much was done in these: it is
timed by itself. So that lags are read once in a second of each side's own time, and not
of all sides', they are read less often by that.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _in_turn import compare, timed  # noqa: E402
from _results import Results, add_save, versions  # noqa: E402
from _side_by_side import NAMESPACE, library_worker  # noqa: E402
from sqlite_outbox import database, fill  # noqa: E402

from hydracache_sync import (  # noqa: E402
    MemcachedStore,
    MemoryStore,
    SQLiteOutbox,
    TaggedCache,
)
from hydracache_sync.metrics import Metrics, StatsD, readings  # noqa: E402
from support.servers import Memcached  # noqa: E402
from support.statsd import StatsDServer  # noqa: E402

#: Cached reads of a slice, and slices of a round.
READS = 250
READ_SLICES = 20
DRAIN_SLICES = 2
READS_OF = READ_SLICES, READS

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
        #: CPU seconds in what the sides were told, and in their work.
        self.told = [0.0] * len(SIDES)
        self.worked = [0.0] * len(SIDES)
        #: Seconds of the fastest slice.
        self.least = [math.inf] * len(SIDES)
        if kind == "workers":
            for side, worker in enumerate(parts):
                worker.subscribe = functools.partial(
                    self._subscribe, side, worker.subscribe
                )
        self._metrics = Metrics(outbox, [NAMESPACE], **{kind: [parts[2]]})
        self.statsd = StatsD(
            "127.0.0.1",
            server.port,
            outbox,
            [NAMESPACE],
            send_every=NEVER,
            **{kind: [parts[3]]},
        )
        self.ends = {"scrape": self._metrics.scrape, "send": self.statsd.flush}
        self.sides = {
            name: functools.partial(self._run, side, parts[side])
            for side, name in enumerate(SIDES)
        }

    def _subscribe(
        self, side: int, subscribe: Callable[..., Any], callback: Any, **options: Any
    ) -> Any:
        def told(event: Any) -> None:
            began = time.thread_time()
            callback(event)
            self.told[side] += time.thread_time() - began

        return subscribe(told, **options)

    def _run(self, side: int, part: Any) -> float:
        self._prepare()
        began = time.thread_time()
        took = timed(lambda: self._work(part), self._clock)
        self.worked[side] += time.thread_time() - began
        self.least[side] = min(self.least[side], took)
        return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--cpu", action="store_true")
    add_save(parser)
    options = parser.parse_args()
    clock = time.thread_time if options.cpu else time.perf_counter
    readings.LAG_EVERY *= len(SIDES)
    results = Results()
    ratios = results.table(
        f"{'CPU time' if options.cpu else 'Time'} without metrics, and the ratios to it"
        f" of {options.rounds} rounds, the median and its 95 % interval:",
        ["what", "off", "off again", "Prometheus", "StatsD"],
    )
    ends = results.table(
        "At each scrape of Prometheus, and at each send to StatsD:",
        ["metrics of", "one scrape", "one send"],
    )
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

        reads, reads_in_memory = (
            Watched(
                outbox,
                server,
                "caches",
                functools.partial(TaggedCache, each, NAMESPACE),
                read,
                clock=clock,
            )
            for each in (store, MemoryStore())
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
        for what, kind, watched, slices, calls in (
            ("a hit in memory", "a cache in memory", reads_in_memory, *READS_OF),
            ("a cached hit", "a cache", reads, *READS_OF),
            (
                f"a row of a drain of {options.rows:,}",
                "a worker",
                drains,
                DRAIN_SLICES,
                options.rows,
            ),
        ):
            compare(
                what,
                watched.sides,
                options.rounds,
                slices,
                calls=calls,
                saved=ratios,
            )
            if watched is reads:
                hit, *_ = reads.least
                memory, *others = reads_in_memory.least
                for name, least in zip(SIDES[1:], others):
                    added = least - memory
                    print(
                        f"  {name}, by the fastest: {added / READS * 1e6:.2f} us of"
                        f" {hit / READS * 1e6:.1f}, 1 + {added / hit:.4f}"
                    )
            for side, told in enumerate(watched.told):
                if told:
                    part = told / (watched.worked[side] - told)
                    print(f"  {SIDES[side]}, in callbacks: 1 + {part:.4f}")
            ends.append([kind])
            for name, end in watched.ends.items():
                took = statistics.median(timed(end, clock) for _ in range(9))
                ends[-1].append(f"{took * 1000:.2f} ms")
                print(f"  one {name}: {ends[-1][-1]}")
            watched.statsd.close()
    if options.save:
        results.save(
            options.save,
            SQLite=sqlite3.sqlite_version,
            **versions("prometheus-client", "pymemcache"),
        )


if __name__ == "__main__":
    main()

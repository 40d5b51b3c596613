"""Instructions of a transaction, a page and a drained row, by hand and by the library.

    python tests/benchmarks/instructions.py [--only drain] [--rows 4000]
                                            [--save FILE]

Also of a drained row and of a cached hit with metrics. Times scatter by more than
metrics may cost, on a machine that does other things; counts of instructions do not.
valgrind's cachegrind counts those of this process, SQLite's with them, so without those
of memcached and of the kernel. Each side runs with so many transactions, rows or reads,
and with twice as many: the difference is theirs, without the start. Goals with metrics:
a hit <= 1.03, a drain <= 1.02. A hit by hand is a ``get`` of ``PooledClient``, which
compares no tokens.

Not in it are what comes by the clock: a scrape, a send, and a look at the lag of a
batch, once in a second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _results import Results, add_save, tell, versions  # noqa: E402
from _side_by_side import NAMESPACE, HandTokens, library_worker  # noqa: E402
from pymemcache.client.base import PooledClient  # noqa: E402
from sqlite_outbox import (  # noqa: E402
    connect,
    database,
    fill,
    hand_drain,
    hand_enqueue,
    library_enqueue,
)

from hydracache_sync import MemcachedStore, SQLiteOutbox, TaggedCache  # noqa: E402
from hydracache_sync.metrics import Metrics, StatsD, readings  # noqa: E402
from support.servers import Memcached  # noqa: E402

BATCH = 256

#: Seconds that do not end before the run does.
NEVER = 10_000.0

#: By what is measured; each is compared with "off".
SIDES = {
    "transaction": ("by hand", "off"),
    "page": ("by hand", "off"),
    "drain": ("by hand", "off", "Prometheus", "StatsD"),
    "hit": ("by hand", "off", "Prometheus", "StatsD"),
}

NAMED = {
    "transaction": "a transaction of one UPDATE and 3 intents",
    "page": "a Flask page that writes 3 intents, with its test client",
    "drain": "a drained row",
    "hit": "a cached hit with two tags",
}
SAID = {
    "by hand": "by hand",
    "off": "without metrics",
    "Prometheus": "with metrics for Prometheus",
    "StatsD": "with metrics for StatsD",
}


def work(what: str, side: str, count: int, path: Path, address: str) -> None:
    """Do it once, in the process whose instructions are counted."""
    readings.LAG_EVERY = NEVER
    if what == "page":
        ask_for_pages(side, count, path, address)
        return
    with contextlib.ExitStack() as stack:
        if side == "by hand" and what == "hit":
            client = PooledClient(address, timeout=0.5, no_delay=True)
            client.set("a", "value", noreply=False)
            for _ in range(count):
                client.get("a")
            return
        if side == "by hand":
            connection = stack.enter_context(contextlib.closing(connect(path)))
            if what == "transaction":
                for number in range(count):
                    hand_enqueue(connection, number)
                return
            tokens = stack.enter_context(contextlib.closing(HandTokens(address)))
            hand_drain(connection, tokens, BATCH)
            return
        outbox = stack.enter_context(contextlib.closing(SQLiteOutbox(path)))
        store = MemcachedStore([address])
        stack.enter_context(contextlib.closing(store))
        cache = TaggedCache(store, NAMESPACE)
        worker = library_worker(outbox, store, BATCH)
        if side == "Prometheus":
            metrics = Metrics(outbox, [NAMESPACE], workers=[worker], caches=[cache])
            # They live as long as in an app, and are not only made.
            stack.callback(metrics.scrape)
        elif side == "StatsD":
            statsd = StatsD(
                "127.0.0.1",
                9,  # nobody listens, and nothing is sent
                outbox,
                [NAMESPACE],
                workers=[worker],
                caches=[cache],
                send_every=NEVER,
            )
            stack.enter_context(contextlib.closing(statsd))
        if what == "transaction":
            connection = stack.enter_context(contextlib.closing(connect(path)))
            for number in range(count):
                library_enqueue(outbox, connection, number)
        elif what == "drain":
            assert worker.drain().published == count
        else:
            for _ in range(count):
                cache.get_or_load("a", lambda: "value", tags=["b", "c"])


def ask_for_pages(side: str, count: int, path: Path, address: str) -> None:
    # Here, so that Flask's start is not in the other measurements.
    from flask_request import make_app

    kind = "bare-eventual" if side == "by hand" else "extended-eventual"
    # No cookies: what the test client does with them a browser does elsewhere.
    client = make_app(str(path), address, kind).test_client(use_cookies=False)
    with contextlib.closing(connect(path)) as other:
        # As other workers have: the page's is not the last one to be closed, which
        # would write the WAL back.
        other.execute("select * from item").fetchall()
        for number in range(count):
            assert client.post(f"/{number % 100}").status_code == 200


def counted(what: str, side: str, count: int) -> int:
    """Return the instructions of a process that does it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        memcached = stack.enter_context(Memcached())
        path = folder / "shop.db"
        if what == "page":
            from flask_request import make_database

            make_database(str(path))
        else:
            with contextlib.closing(database(path)) as filler:
                if what == "drain":
                    fill(filler, count)
        return instructions_of(
            __file__, "--run", what, side, str(count), str(path), memcached.address
        )


def instructions_of(*command: str) -> int:
    """Return the instructions of a Python process, without those of the kernel."""
    told = subprocess.run(
        [
            "valgrind",
            "--tool=cachegrind",
            "--cache-sim=no",
            "--cachegrind-out-file=/dev/null",
            sys.executable,
            *command,
        ],
        check=True,
        stderr=subprocess.PIPE,
        text=True,
        # The same order in sets and dicts of text, each time.
        env={**os.environ, "PYTHONHASHSEED": "0"},
    ).stderr
    [found] = re.findall(r"I\s+refs:\s+([\d,]+)", told)
    return int(found.replace(",", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SIDES, action="append")
    parser.add_argument("--transactions", type=int, default=2000)
    parser.add_argument("--pages", type=int, default=300)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--run", nargs=5, help=argparse.SUPPRESS)
    add_save(parser)
    options = parser.parse_args()
    if options.run:
        what, side, count, path, address = options.run
        work(what, side, int(count), Path(path), address)
        return
    if shutil.which("valgrind") is None:
        # `make bench` goes on with the next program.
        print("valgrind is missing: nothing is counted")
        return
    print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
    results = Results()
    saved = results.table(
        "Instructions of the process, without those of the kernel:",
        ["what", "instructions", "of those without metrics"],
    )
    counts = dict(
        zip(
            SIDES,
            (options.transactions, options.pages, options.rows, options.reads),
        )
    )
    for what in options.only or SIDES:
        count = counts[what]
        of_side = {
            side: (counted(what, side, 2 * count) - counted(what, side, count)) / count
            for side in SIDES[what]
        }
        for side, each in of_side.items():
            ratio = f"{each / of_side['off']:.3f}"
            tell(saved, f"{NAMED[what]}, {SAID[side]}", f"{each:,.0f}", ratio)
    if options.save:
        results.save(
            options.save,
            SQLite=sqlite3.sqlite_version,
            **versions("prometheus-client", "pymemcache"),
        )


if __name__ == "__main__":
    main()

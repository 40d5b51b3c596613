"""How late after its commit an invalidation reaches memcached, and what waiting costs.

    PYTHONPATH=tests python tests/benchmarks/latency.py [--samples 100] [--rounds 5]
                                                [--seed N] [--disk DIRECTORY]

Each way from the moment before COMMIT to the moment when memcached has acknowledged the
token: by hand (COMMIT, then one acknowledged set on an open connection; the floor) and
published inline by the writer, in turn; by a pool in the same process that is idle; and
by a pool in another process, which waits for its poll. Then that other process is left
alone with 8 namespaces, and its CPU time is read.

Samples are spread at random over the poll interval. What is printed are medians of the
rounds' percentiles: a burst of another program spoils one round.

Starts a memcached and a MariaDB of its own; ``--only sqlite`` needs no MariaDB, and
``--only mysql9`` takes another server. ``--disk`` puts the data of both there, and has
the server write each commit through to it; otherwise its data is in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

from _results import Results, add_save

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    WorkerPool,
    open_outbox,
)
from support.servers import SQL_SERVERS, Memcached, SQLServer

NAMESPACES = [f"namespace{n}" for n in range(8)]

#: Columns of the table for each database; "beyond" is more than the median by hand.
WAYS = ["way", "p10", "median", "p90", "p99", "median to by hand", "p99 beyond by hand"]

#: Seconds over which the CPU time of an idle process is read.
IDLE = 10.0


class TimedApplier(MemcachedApplier):
    """Notes when each invalidation was acknowledged."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.done: dict[str | None, float] = {}
        self.changed = threading.Condition()

    def apply_batch(
        self, intents: Sequence[InvalidationIntent]
    ) -> list[Exception | None]:
        failures = super().apply_batch(intents)
        now = time.monotonic()
        with self.changed:
            self.done.update((intent.value, now) for intent in intents)
            self.changed.notify_all()
        return failures

    def moment_of(self, key: str) -> float:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.done, 60), key
            return self.done.pop(key)


def carry(url: str, memcached: str) -> None:
    """The other process: say when each key was acknowledged, until stdin ends."""
    store = MemcachedStore([memcached])

    class Telling(MemcachedApplier):
        def apply_batch(
            self, intents: Sequence[InvalidationIntent]
        ) -> list[Exception | None]:
            failures = super().apply_batch(intents)
            now = time.monotonic()
            for intent in intents:
                print(intent.value, now, flush=True)
            return failures

    outbox = open_outbox(url)
    workers = [OutboxWorker(outbox, Telling(store, name)) for name in NAMESPACES]
    with WorkerPool(*workers):
        sys.stdin.read()


def cpu_seconds(pid: int) -> float:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


class Database:
    """A database with a table of an app, and connections to it by hand."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.outbox: Any = open_outbox(url)
        self.outbox.install_schema()
        self.connection = self.connect()
        cursor = self.connection.cursor()
        if url.startswith("sqlite"):
            cursor.execute("pragma journal_mode = wal")
        cursor.execute("create table app (id integer primary key, n integer)")
        cursor.execute("insert into app values (1, 0)")
        self.connection.commit()

    def connect(self) -> Any:
        if self.url.startswith("sqlite"):
            connection = sqlite3.connect(self.outbox.path)
            connection.execute("pragma synchronous = full")
            return connection
        import pymysql

        options = dict(self.outbox._sessions._connector.options)
        return pymysql.connect(**options)

    def write(self, namespace: str, key: str) -> tuple[Any, float]:
        """A transaction with one update and one invalidation; when COMMIT was sent."""
        self.connection.cursor().execute("update app set n = n + 1 where id = 1")
        receipt = self.outbox.enqueue_in(
            self.connection, namespace, InvalidationIntentBatch().invalidate_key(key)
        )
        before = time.monotonic()
        self.connection.commit()
        return receipt, before


def drained(database: Database) -> None:
    for name in NAMESPACES:
        while database.outbox.status(name).pending:
            time.sleep(0.001)


def measure(
    database: Database,
    memcached: Memcached,
    samples: int,
    rng: random.Random,
) -> tuple[dict[str, list[float]], float]:
    """What each way took, and what a core's part is that the idle process took."""
    name = NAMESPACES[0]
    store = MemcachedStore([memcached.address])
    applier = TimedApplier(store, name)
    worker = OutboxWorker(database.outbox, applier)
    pool = WorkerPool(worker)
    by_hand = MemcachedStore([memcached.address])
    hand = MemcachedApplier(by_hand, name)
    took: dict[str, list[float]] = {}

    def note(way: str, seconds: float) -> None:
        took.setdefault(way, []).append(seconds)

    def pause() -> None:
        time.sleep(rng.uniform(0.01, 0.05))

    for n in range(samples):
        pause()
        # By hand: no worker is told, the row is settled afterwards.
        receipt, before = database.write(name, key := f"hand:{n}")
        hand.apply_invalidation(InvalidationIntent.key(key))
        note("by hand", time.monotonic() - before)
        database.outbox.publish_commit(receipt)
        pause()
        receipt, before = database.write(name, key := f"inline:{n}")
        report = worker.publish(receipt)
        note("inline, publish() returned", time.monotonic() - before)
        note("inline", applier.moment_of(key) - before)
        assert report.complete

    with pool:
        for n in range(samples):
            pause()
            _, before = database.write(name, key := f"pool:{n}")
            note("pool, same process", applier.moment_of(key) - before)
            pause()
            with database.outbox.transaction() as connection:
                connection.cursor().execute("update app set n = n + 1 where id = 1")
                batch = InvalidationIntentBatch().invalidate_key(key := f"own:{n}")
                database.outbox.enqueue_in(connection, name, batch)
                before = time.monotonic()
            note("pool, same process, told", applier.moment_of(key) - before)
            drained(database)

    program = [sys.executable, __file__, "--carry", database.url, memcached.address]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        for n in range(samples + 5):
            pause()
            _, before = database.write(NAMESPACES[n % 8], f"other:{n}")
            key, moment = other.stdout.readline().split()
            assert key == f"other:{n}"
            if n >= 5:  # it had to start first
                note("pool, other process", float(moment) - before)
        time.sleep(1.0)
        used = cpu_seconds(other.pid)
        time.sleep(IDLE)
        idle = (cpu_seconds(other.pid) - used) / IDLE
        other.stdin.close()

    return took, idle


def percentiles(seconds: Sequence[float]) -> list[float]:
    """Those of :data:`WAYS`, in milliseconds."""
    ordered = sorted(seconds)
    return [
        ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000
        for part in (0.10, 0.50, 0.90, 0.99)
    ]


def tell(rounds: Sequence[dict[str, list[float]]], saved: list[list[str]]) -> None:
    """Print the medians of the rounds' percentiles, and add them to ``saved``."""
    floor: list[float] = []
    print(f"  {'':28}" + "".join(f"{name:>10}" for name in WAYS[1:5]))
    for way in rounds[0]:
        found = [percentiles(took[way]) for took in rounds]
        figures = [statistics.median(each) for each in zip(*found)]
        floor = floor or figures
        cells = [f"{each:.2f}" for each in figures]
        beyond = f"{figures[1] / floor[1]:.2f}", f"{figures[3] - floor[1]:.2f}"
        print(
            f"  {way:28}{''.join(f'{cell:>10}' for cell in cells)}"
            f"   x{beyond[0]}, p99 beyond the floor {beyond[1]}",
            flush=True,
        )
        saved.append([way, *cells, *beyond])


def on_disk(kind: type[SQLServer], directory: str) -> SQLServer:
    """A server whose data is where it is told, and as safe as it can be."""

    class OnDisk(kind):  # type: ignore[valid-type, misc]
        def _place(self) -> str:
            return directory

    return OnDisk(arguments=["--innodb-flush-log-at-trx-commit=1"])


@contextlib.contextmanager
def sqlite_url(disk: str | None = None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=disk) as directory:
        yield f"sqlite:///{directory}/app.db"


@contextlib.contextmanager
def server_url(kind: str, disk: str | None = None) -> Iterator[str]:
    import pymysql

    server_class = SQL_SERVERS[kind]
    with server_class() if disk is None else on_disk(server_class, disk) as server:
        name = "t" + secrets.token_hex(4)
        connection = pymysql.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            password=server.password,
        )
        connection.cursor().execute(f"create database {name}")
        connection.close()
        yield server.url(name)


def main() -> None:
    if sys.argv[1:2] == ["--carry"]:
        carry(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--only", choices=["sqlite", *SQL_SERVERS])
    parser.add_argument("--disk", metavar="DIRECTORY")
    add_save(parser)
    options = parser.parse_args()
    print(
        f"latency.py --seed {options.seed}, milliseconds, medians of {options.rounds}"
        f" rounds of {options.samples} samples"
    )
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    rng = random.Random(options.seed)
    results = Results()
    idle: list[list[str]] = []
    versions: dict[str, str] = {}
    for place in [options.only] if options.only else ["sqlite", "mariadb"]:
        sqlite = place == "sqlite"
        database = (
            sqlite_url(options.disk) if sqlite else server_url(place, options.disk)
        )
        with database as url, Memcached() as memcached:
            print(place)
            data = Database(url)
            versions.update(data.outbox.versions())
            rounds = [
                measure(data, memcached, options.samples, rng)
                for _ in range(options.rounds)
            ]
            saved = results.table(f"{place}, milliseconds:", WAYS)
            tell([took for took, _ in rounds], saved)
            part = statistics.median(cost for _, cost in rounds)
            print(f"  idle process, 8 namespaces: {part * 100:.2f} % of a core")
            idle.append([place, f"{part * 100:.2f} %"])
    table = results.table("An idle process with 8 namespaces:", ["", "of a core"])
    table.extend(idle)
    if options.save:
        results.save(options.save, **versions)


if __name__ == "__main__":
    main()

"""The same job by this library and by its peers, as they are shipped.

    pip install -e '.[peers]'           (Python 3.12 or newer)
    PYTHONPATH=tests python tests/benchmarks/peers.py [--only sqlite] [--seed N]
    ... peers.py --rounds 1 --transactions 20 --rows 200 --samples 10     (a minute)

An app's transaction that enqueues 1, 10 and 100 keys; rows a second of one process that
drains what is there; and from the moment before COMMIT to the moment when memcached has
acknowledged, by a worker in another process. On SQLite txoutbox, huey and litequeue, on
MariaDB pactix and dj-queue; a peer that is not installed is said and left out. Ratios
are to this library in the same round, in which each takes its turn in a random order.

What is not the same: huey and litequeue enqueue after the app's commit, and so lose
what a crash leaves out in between; huey loses a task whose worker crashes; all but
txoutbox finish each row in a transaction of its own; this library replaces tokens in
two round trips for a batch, where the others are handed one row, and set its key.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import platform
import random
import secrets
import statistics
import tempfile
import time
from importlib import metadata
from typing import Any, Iterator

import pymysql
from _peers import ON_MYSQL, ON_SQLITE, Peer, Place
from _results import Results, add_save, tell, versions

from support.servers import SQL_SERVERS, Memcached

#: Keys in one transaction.
SIZES = (1, 10, 100)

#: Seconds until a key that no worker has applied is a failure.
PATIENCE = 120.0

#: Samples that are not counted: a worker has to start first.
WARM_UP = 5

numbers = itertools.count()


class Places:
    """Makes empty places of one kind."""

    def __init__(self, folder: str, server: Any, memcached: str) -> None:
        self._folder = folder
        self._server = server
        self._memcached = memcached

    def new(self) -> Place:
        number = next(numbers)
        if self._server is None:
            return Place(self._memcached, f"{self._folder}/{number}.db")
        place = Place(
            self._memcached,
            "",
            self._server.host,
            self._server.port,
            self._server.user,
            f"peers{number}",
        )
        with contextlib.closing(
            pymysql.connect(host=place.host, port=place.port, user=place.user)
        ) as connection:
            connection.query(f"create database {place.database}")
        return place


@contextlib.contextmanager
def opened(kinds: list[type[Peer]], places: Places) -> Iterator[list[Peer]]:
    with contextlib.ExitStack() as stack:
        peers = [kind(places.new(), new=True) for kind in kinds]
        for peer in peers:
            stack.callback(peer.close)
        yield peers


def keys(count: int) -> list[str]:
    return [f"user:{next(numbers)}" for _ in range(count)]


def tell_ratios(
    table: list[list[str]], what: str, took: dict[str, list[float]], unit: float = 1.0
) -> None:
    """Tell the median of each, and of the ratios to the first."""
    library = next(iter(took.values()))
    cells = []
    for found in took.values():
        ratio = statistics.median(b / a for a, b in zip(library, found))
        cells.append(f"{statistics.median(found) * unit:,.0f}, {ratio:.2f}")
    tell(table, what, *cells)


def enqueue(
    kinds: list[type[Peer]],
    places: Places,
    rounds: int,
    transactions: int,
    rng: random.Random,
    table: list[list[str]],
) -> None:
    for size in SIZES:
        count = max(1, transactions // (10 if size == max(SIZES) else 1))
        with opened(kinds, places) as peers:
            took: dict[str, list[float]] = {peer.name: [] for peer in peers}
            for round_ in range(rounds + 1):
                for peer in rng.sample(peers, len(peers)):
                    batches = [keys(size) for _ in range(count)]
                    started = time.perf_counter()
                    for batch in batches:
                        peer.enqueue(batch)
                    if round_:
                        seconds = (time.perf_counter() - started) / count
                        took[peer.name].append(seconds)
        tell_ratios(table, f"transaction of {size}, us", took, 1e6)


def drain(
    kinds: list[type[Peer]],
    places: Places,
    rounds: int,
    rows: int,
    rng: random.Random,
    table: list[list[str]],
) -> None:
    with opened(kinds, places) as peers:
        rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for _ in range(rounds):
            for peer in rng.sample(peers, len(peers)):
                for start in range(0, rows, max(SIZES)):
                    peer.enqueue(keys(min(max(SIZES), rows - start)))
                started = time.perf_counter()
                done = peer.drain()
                rates[peer.name].append(done / (time.perf_counter() - started))
                if done != rows:
                    raise RuntimeError(f"{peer.name}: {done} of {rows} were carried")
    tell_ratios(table, f"drain of {rows:,}, rows/s", rates)


def serve(kind: type[Peer], place: Place, told: Any) -> None:
    """In the other process: say when each key was acknowledged."""
    peer = kind(place, new=False)
    peer.serve(lambda key: told.send((key, time.monotonic())))


def latency(
    kinds: list[type[Peer]],
    places: Places,
    samples: int,
    rng: random.Random,
    table: list[list[str]],
) -> None:
    cells = []
    for kind in kinds:
        if not kind.has_worker:
            cells.append("no worker")
            continue
        took = sorted(latencies(kind, places, samples, rng))
        cells.append(
            f"{statistics.median(took):.1f}, {took[int(0.95 * len(took))]:.1f}"
        )
    tell(table, "commit to applied, ms, median and p95", *cells)


def latencies(
    kind: type[Peer], places: Places, samples: int, rng: random.Random
) -> list[float]:
    context = multiprocessing.get_context("spawn")
    took = []
    with opened([kind], places) as [peer]:
        heard, told = context.Pipe(duplex=False)
        process = context.Process(
            target=serve, args=(kind, peer.place, told), daemon=True
        )
        process.start()
        try:
            for n in range(WARM_UP + samples):
                time.sleep(rng.uniform(0.02, 0.08))
                [key] = keys(1)
                sent = peer.enqueue([key])
                if not heard.poll(PATIENCE):
                    raise RuntimeError(f"{kind.name}: {key} was not applied")
                applied, moment = heard.recv()
                if applied != key:
                    raise RuntimeError(f"{kind.name}: {applied} instead of {key}")
                if n >= WARM_UP:
                    took.append((moment - sent) * 1000)
        finally:
            process.kill()
            process.join()
    return took


def installed(kinds: list[type[Peer]]) -> list[type[Peer]]:
    """Those that are here, after saying which."""
    here = []
    for kind in kinds:
        try:
            print(f"  {kind.name} {metadata.version(kind.name)}")
        except metadata.PackageNotFoundError:
            print(f"  {kind.name} is not installed: left out")
        else:
            here.append(kind)
    return here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--transactions", type=int, default=200)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--only", choices=["sqlite", *SQL_SERVERS])
    add_save(parser)
    options = parser.parse_args()
    print(
        f"peers.py --seed {options.seed}: Python {platform.python_version()},"
        f" {options.rounds} rounds"
    )
    rng = random.Random(options.seed)
    results = Results()
    for name in [options.only] if options.only else ["sqlite", "mariadb"]:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            memcached = stack.enter_context(Memcached()).address
            server = None
            if name != "sqlite":
                arguments = ["--innodb-flush-log-at-trx-commit=1"]
                server = stack.enter_context(SQL_SERVERS[name](arguments=arguments))
            print(name)
            kinds = installed(ON_SQLITE if server is None else ON_MYSQL)
            places = Places(folder, server, memcached)
            table = results.table(
                f"On {name}, each with its ratio to this library:",
                ["what", *(kind.name for kind in kinds)],
            )
            enqueue(kinds, places, options.rounds, options.transactions, rng, table)
            drain(kinds, places, options.rounds, options.rows, rng, table)
            latency(kinds, places, options.samples, rng, table)
    if options.save:
        names = {kind.name for kind in [*ON_SQLITE, *ON_MYSQL]}
        results.save(options.save, **versions(*sorted(names)))


if __name__ == "__main__":
    main()

"""Let pools carry rows through random outages, and see that nothing is lost and flat.

    python tests/soak/soak.py                 an hour
    python tests/soak/soak.py --seconds 120

An app writes to a private MariaDB and reads through three memcached nodes; two
processes of two threads each carry its invalidations. Nodes and the database are
killed, hung and flapping, alone and all at once, processes are stopped for longer than
their claims last. At the end every committed invalidation must have been published,
none may be dead, no read may have got a value older than one that had been published
before, and threads, descriptors and memory of the carriers must be where they were
after the warm-up.

Exit code: 0 all of that held, 1 something did not, 2 wrong arguments. The seed repeats
what is drawn, not the scheduling.

To see that it can see: --drop-intents 0.2
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Sequence

if __name__ == "__main__":
    # Run as a file: what it consists of is the package around it.
    tests = Path(__file__).resolve().parent.parent
    sys.path[:1] = [str(tests), str(tests.parent)]

import pymysql

from hydracache_sync import MemcachedStore, MySQLOutbox
from soak.carrier import Job
from soak.gauges import Reading, growth, read, rising
from soak.shop import ANSWER, INTENTS, Shop, cached, namespace_of, tags_of, version_of
from soak.weather import Outage, Weather, flapping, hung, killed, stopped
from support.servers import MariaDB, Memcached

#: Name of the database that the soak makes for itself.
DATABASE = "soak"

#: Seconds of a claim: shorter than most outages.
CLAIM_TTL = 3.0

#: Seconds after the last outage until everything must have been published.
CATCH_UP = 60.0

#: Readings of each carrier in the whole soak.
READINGS = 120

#: Seconds between two lines about the progress.
TOLD_EVERY = 30.0

#: Seconds until a carrier that was told to end must have.
END_TIMEOUT = 40.0

TESTS = Path(__file__).resolve().parent.parent


class Carriers:
    """The processes that carry, their logs and their readings."""

    def __init__(self, job: Job, count: int, folder: Path) -> None:
        path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        self.logs = [folder / f"carrier-{number}.log" for number in range(count)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "soak.carrier", job.to_json()],
                stdin=subprocess.DEVNULL,
                stdout=log.with_suffix(".dead").open("w"),
                stderr=log.open("w"),
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
            for log in self.logs
        ]
        self.readings: list[list[Reading]] = [[] for _ in range(count)]

    def look(self) -> None:
        """Note what each takes. :raises RuntimeError: one has ended."""
        for process, log, readings in zip(self.processes, self.logs, self.readings):
            if process.poll() is not None:
                last = log.read_text()[-2000:]
                raise RuntimeError(f"a carrier ended with {process.returncode}: {last}")
            readings.append(read(process.pid))

    def end(self) -> list[str]:
        """Have them finish; say of each what was not as it should be."""
        wrong = []
        for process in self.processes:
            process.terminate()
        for number, process in enumerate(self.processes):
            try:
                code = process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                code = None
            if code != 0:
                wrong.append(f"carrier {number} did not finish its batches: {code}")
        for log in self.logs:
            dead = log.with_suffix(".dead").read_text()
            if dead:
                wrong.append(f"dead letters:\n{dead}")
        return wrong

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def soak(options: argparse.Namespace, folder: Path) -> list[str]:
    """Run it; return what was wrong."""
    with ExitStack() as stack:
        mariadb = stack.enter_context(MariaDB())
        nodes = [stack.enter_context(Memcached()) for _ in range(options.nodes)]
        addresses = tuple(node.address for node in nodes)
        url = mariadb.url(DATABASE)

        def connect(answer: float = ANSWER) -> Any:
            return pymysql.connect(
                host="127.0.0.1",
                port=mariadb.port,
                user="root",
                database=DATABASE,
                connect_timeout=answer,
                read_timeout=answer,
                write_timeout=answer,
            )

        with closing(
            pymysql.connect(host="127.0.0.1", port=mariadb.port, user="root")
        ) as connection:
            connection.cursor().execute(f"create database {DATABASE}")
        outbox = MySQLOutbox(
            host="127.0.0.1", port=mariadb.port, user="root", database=DATABASE
        )
        stack.callback(outbox.close)
        outbox.install_schema()
        store = stack.enter_context(MemcachedStore(list(addresses)))
        shop = Shop(connect, outbox, store)
        shop.prepare(options.items)
        carriers = Carriers(
            Job(
                parent=os.getpid(),
                database=url,
                nodes=addresses,
                namespaces=shop.namespaces,
                threads=options.threads,
                claim_ttl=CLAIM_TTL,
                drop_intents=options.drop_intents,
            ),
            options.processes,
            folder,
        )
        stack.callback(carriers.kill)
        weather = Weather(
            *outages_of(mariadb, nodes, carriers), random.Random(options.seed)
        )
        shop.open(options.rate, options.seed)
        weather.start()
        began = time.monotonic()
        try:
            watch(options.seconds, carriers, weather, shop)
        finally:
            weather.clear_up()
        shop.close()
        calm_at = time.monotonic()
        wrong = settle(shop, outbox)
        caught_up = time.monotonic() - calm_at
        # No request of the app asks about all writes of an hour.
        wrong += check(partial(connect, CATCH_UP), shop, options.items)
        carriers.look()
        wrong += carriers.end()
        for number, readings in enumerate(carriers.readings):
            wrong += [f"carrier {number}: {each}" for each in rising(readings)]
        print_figures(shop, weather, carriers, caught_up, time.monotonic() - began)
        return wrong


def outages_of(
    mariadb: MariaDB, nodes: Sequence[Memcached], carriers: Carriers
) -> tuple[list[Outage], list[Outage]]:
    """All outages, and those that come together."""
    outages = [killed("database", mariadb), hung("database", mariadb)]
    together = [killed("database", mariadb)]
    for number, node in enumerate(nodes):
        name = f"node {number}"
        outages += [killed(name, node), hung(name, node), flapping(name, node)]
        together.append(hung(name, node) if number % 2 else killed(name, node))
    outages += [
        stopped(f"carrier {number}", process)
        for number, process in enumerate(carriers.processes)
    ]
    return outages, together


def watch(seconds: float, carriers: Carriers, weather: Weather, shop: Shop) -> None:
    began = time.monotonic()
    told_at = began
    while time.monotonic() < began + seconds:
        time.sleep(seconds / READINGS)
        carriers.look()
        for failure in (weather.failure, shop.failure):
            if failure is not None:
                raise failure
        if time.monotonic() - told_at >= TOLD_EVERY:
            told_at = time.monotonic()
            print(
                f"{told_at - began:.0f} s: {shop.counts['writes']} writes,"
                f" {sum(weather.seen.values())} outages",
                file=sys.stderr,
                flush=True,
            )


def settle(shop: Shop, outbox: MySQLOutbox) -> list[str]:
    """Wait until nothing is pending."""
    deadline = time.monotonic() + CATCH_UP
    while True:
        found = {name: outbox.status(name) for name in shop.namespaces}
        pending = sum(status.pending for status in found.values())
        if not pending or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    wrong = []
    if pending:
        wrong.append(f"{pending} rows are pending {CATCH_UP:g} s after the last outage")
    dead = sum(status.dead_lettered for status in found.values())
    if dead:
        wrong.append(f"{dead} rows are dead")
    return wrong


def check(connect: Any, shop: Shop, items: int) -> list[str]:
    """Compare what was committed with what was published, and the cache with both."""
    wrong = []
    with closing(connect()) as connection:
        with connection.cursor() as cursor:
            # Compared here: joined by the server, an hour's writes take it minutes.
            published: Counter[bytes] = Counter()
            for namespace in shop.namespaces:
                cursor.execute(
                    "select commit_position, count(*) from hydracache_outbox"
                    " where namespace = %s and state = 1 group by commit_position",
                    (namespace,),
                )
                published.update(dict(cursor.fetchall()))
            cursor.execute("select position from written")
            positions = [position for (position,) in cursor.fetchall()]
        committed = len(positions)
        lost = sum(published[position] != INTENTS for position in positions)
        connection.commit()
        shop.counts["writes committed"] = committed
        if lost:
            wrong.append(f"{lost} of {committed} writes are not published")
        if not committed:
            wrong.append("nothing was written")
        for item in range(items):
            served = shop.caches[namespace_of(item)].get(str(item), tags=tags_of(item))
            there = cached(version_of(connection, item))
            if served is None:
                shop.counts["entries gone at the end"] += 1
                continue
            shop.counts["entries served at the end"] += 1
            if served != there:
                wrong.append(f"item {item}: {served} is served, {there} is true")
    stale = shop.counts["stale reads"]
    if stale:
        wrong.append(f"{stale} reads got what was older than something published")
    if not shop.counts["entries served at the end"]:
        wrong.append("the cache was empty at the end: nothing was shown of it")
    return wrong


def print_figures(
    shop: Shop, weather: Weather, carriers: Carriers, caught_up: float, took: float
) -> None:
    print(f"{took:9.1f} s in all")
    print(f"{caught_up:9.2f} s until all was published after the last outage")
    for name, number in sorted(shop.counts.items()):
        print(f"{number:>9} {name}")
    for name, number in sorted(weather.seen.items()):
        print(f"{number:>9} x {name}")
    for number, readings in enumerate(carriers.readings):
        for name, (early, late) in growth(readings).items():
            print(f"carrier {number}: {name} {early:g} after warm-up, {late:g} at end")
        used = readings[-1].cpu_seconds - readings[0].cpu_seconds
        share = used / (readings[-1].at - readings[0].at)
        print(f"carrier {number}: {100 * share:.1f} % of a core")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="hydracache-soak-") as folder:
        logging.basicConfig(
            filename=Path(folder, "shop.log"),
            level=logging.INFO,
            format="%(asctime)s %(threadName)s %(message)s",
        )
        wrong = soak(options, Path(folder))
        if wrong and options.keep:
            shutil.copytree(folder, options.keep)
    for each in wrong:
        print(f"WRONG: {each}")
    if not wrong:
        print("nothing lost, nothing dead, nothing stale, nothing grown")
    return 1 if wrong else 0


def parser() -> argparse.ArgumentParser:
    description, _, notes = (__doc__ or "").partition("\n\n")
    options = argparse.ArgumentParser(
        description=description,
        epilog=notes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("--seconds", type=float, default=3600.0, help="of outages; default an hour")
    add("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    add("--rate", type=float, default=20.0, help="writes a second; default 20")
    add("--items", type=int, default=200, help="that are written and read; default 200")
    add("--nodes", type=int, default=3, help="memcached servers; default 3")
    add("--processes", type=int, default=2, help="that carry; default 2")
    add("--threads", type=int, default=2, help="of each of them; default 2")
    add("--drop-intents", type=float, default=0.0, metavar="SHARE", help="must fail")
    add("--keep", metavar="FOLDER", help="keep the logs if it fails")
    return options


if __name__ == "__main__":
    sys.exit(main())

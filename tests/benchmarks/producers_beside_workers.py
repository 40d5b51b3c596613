"""Whether workers and a purge harm producers: errors, deadlocks, and the median.

    python tests/benchmarks/producers_beside_workers.py [--server mysql56]

Three producers, in REPEATABLE READ as a server has it by default, commit transactions
of an update and three intents; every second one names its position, which is random and
so lands anywhere in the index. Three workers carry the rows to memcached, a purge
removes what they have published. Workers and purge are let go on and stopped in turn,
for slices of 3 s, so that what else the machine does hits both alike; the first second
of a slice, with the backlog of the one before, is not measured.

Producers are processes that think between two transactions, 50 a second each in the
mean: together with the rest that leaves the machine idle for more than half of the
time. At full speed the two cores of a small machine would be shared by whatever runs,
and the median would tell of the scheduler. The share that was busy is printed.

Goals: 0 errors and 0 deadlocks in producers, a median slower by at most 1.2. Exit code
1 if an error or a deadlock came to pass.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pymysql  # noqa: E402
from _side_by_side import NAMESPACE, library_batch, library_worker  # noqa: E402
from mysql_outbox import DATABASE, Place, prepare  # noqa: E402

from hydracache_sync import MemcachedStore, OutboxError  # noqa: E402
from hydracache_sync.drivers.mysql import error_number  # noqa: E402
from hydracache_sync.outbox import MySQLOutbox  # noqa: E402
from support.servers import SQL_SERVERS, Memcached  # noqa: E402

#: Seconds of a slice, and of its beginning that is not measured.
SLICE = 3.0
SETTLING = 1.0

#: Seconds that an idle worker waits, and the purge; and that published rows are kept.
IDLE = 0.02
PURGE_EVERY = 0.5
KEPT = 1.0

PRODUCERS = WORKERS = 3


class CountingOutbox(MySQLOutbox):
    """Counts the server's errors by number, those that are retried within, too."""

    def __init__(self, place: Place) -> None:
        super().__init__(
            host=place.host, port=place.port, user=place.user, database=DATABASE
        )
        self.errors: Counter[str] = Counter()
        meaning = self._sessions.error_of

        def counted(exc: Exception) -> OutboxError | None:
            self.errors[str(error_number(exc))] += 1
            return meaning(exc)

        self._sessions.error_of = counted  # type: ignore[method-assign]


def produce(
    place: Place, rate: float, seed: int, working: Any, stop: Any, tell: Any
) -> None:
    """Commit until told to stop; tell when each transaction began and what it took."""
    rng = random.Random(seed)
    outbox = CountingOutbox(place)
    errors: Counter[str] = Counter()
    times = []
    row = rng.randrange(1000, 10**6)
    with closing(place.connect(database=DATABASE)) as connection, closing(
        connection.cursor()
    ) as cursor:
        cursor.execute("insert into users values (%s, 0)", (row,))
        connection.commit()
        number = 0
        while not stop.wait(rng.uniform(0.0, 2.0 / rate)):
            number += 1
            position = f"{rng.getrandbits(64):016x}" if number % 2 else None
            began = time.monotonic()
            try:
                connection.begin()
                cursor.execute(
                    "update users set version = version + 1 where id = %s", (row,)
                )
                outbox.enqueue_in(
                    connection,
                    NAMESPACE,
                    library_batch(rng.randrange(10**6)),
                    commit_position=position,
                )
                connection.commit()
            except (OutboxError, pymysql.Error) as exc:
                cause = exc.__cause__ if isinstance(exc, OutboxError) else exc
                errors[str(error_number(cause or exc))] += 1
                connection.rollback()
            else:
                times.append((began, time.monotonic() - began))
    tell.send((times, errors))


def work(
    place: Place, rate: float, seed: int, working: Any, stop: Any, tell: Any
) -> None:
    outbox = CountingOutbox(place)
    worker = library_worker(outbox, MemcachedStore([place.memcached]), 256)
    while not stop.is_set():
        if not working.wait(0.1):
            continue
        try:
            if worker.run_once().published == 0:
                stop.wait(IDLE)
        except OutboxError:
            pass  # counted; what was claimed is taken over when the claim ends
    tell.send((worker.diagnostics().published, outbox.errors))


def purge(
    place: Place, rate: float, seed: int, working: Any, stop: Any, tell: Any
) -> None:
    outbox = CountingOutbox(place)
    purged = 0
    while not stop.wait(PURGE_EVERY):
        if not working.is_set():
            continue
        try:
            purged += outbox.purge_published(NAMESPACE, older_than=KEPT)
        except OutboxError:
            pass  # counted; the next one comes
    tell.send((purged, outbox.errors))


def busy() -> tuple[float, float]:
    """Time that the processors were busy, and in all, since the machine started."""
    with open("/proc/stat") as stat:
        times = [int(word) for word in stat.readline().split()[1:9]]
    return sum(times) - times[3] - times[4], sum(times)


def deadlocks(connection: Any) -> int:
    """Deadlocks that the server has met, whoever's they were."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(
            "select count from information_schema.innodb_metrics"
            " where name = 'lock_deadlocks'"
        )
        [[count]] = cursor.fetchall()
    return int(count)


def lock_waits(connection: Any) -> tuple[int, int]:
    """How often a row lock was waited for, by whomever, and how many ms in all."""
    with closing(connection.cursor()) as cursor:
        cursor.execute("show global status like 'innodb_row_lock_%'")
        status = dict(cursor.fetchall())
    return int(status["Innodb_row_lock_waits"]), int(status["Innodb_row_lock_time"])


def measure(place: Place, options: argparse.Namespace) -> bool:
    context = multiprocessing.get_context("spawn")
    working, stop = context.Event(), context.Event()
    roles: list[Callable[..., None]] = [produce] * PRODUCERS + [work] * WORKERS
    processes = []
    for slot, role in enumerate([*roles, purge]):
        mine, theirs = context.Pipe()
        arguments = (place, options.rate, options.seed + slot, working, stop, theirs)
        process = context.Process(target=role, args=arguments, daemon=True)
        process.start()
        processes.append((role, process, mine))
    time.sleep(2.0)  # they start

    slices: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    used: dict[bool, list[float]] = {True: [], False: []}
    count = round(2 * options.seconds / (SLICE - SETTLING))
    for number in range(count):
        on = number % 2 == 0
        working.set() if on else working.clear()
        time.sleep(SETTLING)
        before, began = busy(), time.monotonic()
        time.sleep(SLICE - SETTLING)
        after = busy()
        slices[on].append((began, time.monotonic()))
        used[on].append((after[0] - before[0]) / (after[1] - before[1]))
    stop.set()
    working.set()

    times: list[tuple[float, float]] = []
    errors: dict[str, Counter[str]] = {}
    done: Counter[str] = Counter()
    for role, process, pipe in processes:
        result, met = pipe.recv()
        process.join()
        if role is produce:
            times += result
        else:
            done[role.__name__] += result
        errors.setdefault(role.__name__, Counter()).update(met)
    medians = {}
    for on, spans in slices.items():
        taken = [
            [took for began, took in times if start <= began < end]
            for start, end in spans
        ]
        # A machine that stood still for a whole slice has begun none in it.
        medians[on] = [each and statistics.median(each) for each in taken]
        every = sorted(took for each in taken for took in each)
        print(
            f"{'with' if on else 'without'} workers: {len(every)} transactions, median"
            f" {statistics.median(every) * 1000:.2f} ms, p99"
            f" {every[int(len(every) * 0.99)] * 1000:.2f} ms, processors"
            f" {statistics.median(used[on]):.0%} busy"
        )
    pairs = [(a, b) for a, b in zip(medians[True], medians[False]) if a and b]
    ratio = statistics.median(a / b for a, b in pairs)
    with closing(place.connect()) as connection:
        met_by_server = deadlocks(connection)
        waits, waited_ms = lock_waits(connection)
    print(
        f"producers' median with workers against without, in {len(pairs)} of"
        f" {count // 2} pairs of slices: {ratio:.2f} (goal <= 1.20)\n"
        f"producers: {sum(errors['produce'].values())} errors,"
        f" {errors['produce']['1213']} deadlocks (goals 0 and 0)\n"
        f"workers: {done['work']} rows published, run again after"
        f" {dict(errors['work']) or 'nothing'}; purge: {done['purge']} rows,"
        f" {dict(errors['purge']) or 'nothing'} run again;"
        f" deadlocks met by the server: {met_by_server}, row locks waited for:"
        f" {waits}, {waited_ms} ms in all",
        flush=True,
    )
    return not errors["produce"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", choices=SQL_SERVERS, default="mariadb")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="measured with, and without"
    )
    parser.add_argument("--rate", type=float, default=50.0, help="of one producer")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    arguments = ("--innodb-flush-log-at-trx-commit=1",)
    kind = SQL_SERVERS[options.server]
    with kind(arguments=arguments) as server, Memcached() as cache:
        place = Place(server, cache)
        prepare(place, 1)
        print(place.versions(), flush=True)
        return 0 if measure(place, options) else 1


if __name__ == "__main__":
    sys.exit(main())

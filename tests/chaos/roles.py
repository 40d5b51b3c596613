"""The processes of a run: ``python -m chaos.roles ROLE SLOT LIFE SETTINGS``."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from typing import Any, Callable

import pymysql

from chaos.app import CLAIM_TTL, Settings, key_of
from chaos.records import CACHED, LOADED, LOADED_IN_OLD_SNAPSHOT, Log
from faults.caches import plain_key
from faults.process import die_with
from hydracache_sync import (
    HydraCacheError,
    InvalidationWait,
    OutboxWorker,
    QuarantineError,
    WorkerPool,
    open_outbox,
)
from hydracache_sync.cache import Keyspace, app_address

#: Threads of a reader process; one more reads in old snapshots.
READERS = 3

#: Transactions a second of a writer process.
RATE = 10.0

#: Part of the writes that go to the strict namespace, where each costs the item's cache
#: for seconds.
STRICT_SHARE = 0.03

#: Seconds that a loader takes beside its query: the window of the races. Mostly short,
#: and sometimes longer than it takes to publish.
LOAD_TIMES = (0.0,) * 20 + (0.001, 0.002, 0.004, 0.004) * 4 + (0.03, 0.03, 0.1)

#: Part of the reads that are of the strict namespace, which mostly load.
STRICT_READS = 0.15

#: Evictions of a token or an entry a second, and ballast sets a second to each node.
EVICTIONS = 20.0
BALLAST = 400


class Process:
    """What every role has."""

    def __init__(self, settings: Settings, role: str, slot: int, life: int) -> None:
        self.settings = settings
        self.slot = slot
        self.stop = threading.Event()
        self.random = random.Random(f"{settings.seed} {role} {slot} {life}")
        self.log = Log(settings.folder, f"{role}-{slot}-{life}")

    def some_item(self, dice: random.Random) -> int:
        # A few are asked for more often than others.
        items = self.settings.items
        item = min(dice.randrange(items), dice.randrange(items))
        if self.settings.strict and dice.random() < STRICT_READS:
            item += items
        return item


def write(process: Process) -> None:
    """Change items, publish some inline, wait for some, leave most to the workers."""
    settings, dice, log = process.settings, process.random, process.log
    outbox = open_outbox(settings.database)
    store = settings.store()
    workers = {
        namespace: OutboxWorker(
            outbox, settings.applier(store, namespace), claim_ttl=CLAIM_TTL
        )
        for namespace in settings.namespaces()
    }
    strict_cache = settings.cache(store, settings.items) if settings.strict else None
    connection = settings.connect()
    while not process.stop.wait(dice.expovariate(RATE)):
        item = dice.randrange(settings.items)
        if settings.strict and dice.random() < STRICT_SHARE:
            item += settings.items
        try:
            written = _write_one(settings, outbox, connection, strict_cache, item)
        except QuarantineError:
            connection.rollback()
            log.count("writes refused by the quarantine")
            continue
        except pymysql.err.OperationalError:
            # A deadlock, or a wait for who was killed with the row locked.
            connection.rollback()
            log.count("transactions rolled back")
            continue
        version, receipt, strictly = written
        now = time.monotonic_ns()
        log.fact("committed", item, version, now)
        if strictly:
            log.fact("strict", item, version, now)
        choice = dice.random()
        try:
            if choice < 0.3:
                report = workers[settings.namespace(item)].publish(receipt)
                if report.complete:
                    log.fact("inline", item, version, time.monotonic_ns())
            elif choice < 0.6:
                outcome = InvalidationWait.local(3.0).wait(outbox, receipt)
                if outcome.satisfied:
                    log.fact("waited", item, version, time.monotonic_ns())
                else:
                    log.count("waits not satisfied")
        except HydraCacheError:
            # It is in the outbox, and not our business any more.
            log.count("publishes and waits that failed")


def _write_one(
    settings: Settings, outbox: Any, connection: Any, cache: Any, item: int
) -> tuple[int, Any, bool]:
    batch = settings.batch(item)
    with connection.cursor() as cursor:
        cursor.execute("update item set version = version + 1 where id = %s", (item,))
        cursor.execute("select version from item where id = %s", (item,))
        [version] = cursor.fetchone()
        receipt = outbox.enqueue_in(connection, settings.namespace(item), batch)
        cursor.execute(
            "insert into history (item, version, position) values (%s, %s, %s)",
            (item, version, receipt.commit_position.value),
        )
    if not settings.is_strict(item) or settings.plain_delete:
        connection.commit()
        # Without the protocol nothing is strict, and is judged as if it were.
        return version, receipt, settings.is_strict(item)
    with cache.quarantine(batch) as quarantine:
        connection.commit()
    return version, receipt, bool(quarantine.strict)


def carry(process: Process) -> None:
    """Drain both namespaces."""
    settings = process.settings
    outbox = open_outbox(settings.database)
    store = settings.store()
    workers = [
        OutboxWorker(outbox, settings.applier(store, namespace), claim_ttl=CLAIM_TTL)
        for namespace in settings.namespaces()
    ]
    with WorkerPool(*workers, poll_interval=0.05):
        process.stop.wait()


def read(process: Process) -> None:
    """Read items, in several threads, one of them in long transactions."""
    settings = process.settings
    store = settings.store()
    # Some processes refresh early.
    early: dict[str, Any] = {}
    if process.slot % 2 and not settings.plain_delete:
        early = {"soft_ttl": 0.3}
    caches = {
        namespace: settings.cache(store, item, **early)
        for namespace, item in zip(settings.namespaces(), (0, settings.items))
    }
    threads = [
        threading.Thread(target=_read_fresh, args=(process, caches, number))
        for number in range(READERS)
    ]
    threads.append(threading.Thread(target=_read_old, args=(process, caches)))
    for thread in threads:
        thread.start()
    while not process.stop.wait(process.random.expovariate(1 / 3)):
        # The connections that are in use are dropped when they come back.
        store.close()
        process.log.count("stores closed under their readers")
    for thread in threads:
        thread.join()
    process.log.flush()


def _read_fresh(process: Process, caches: dict[str, Any], number: int) -> None:
    settings = process.settings
    dice = random.Random(f"{process.random.random()} {number}")
    connection = settings.connect(autocommit=True)
    while not process.stop.is_set():
        item = process.some_item(dice)
        _read_one(process, caches, item, connection, dice, LOADED, None)


def _read_old(process: Process, caches: dict[str, Any]) -> None:
    """Read in transactions that are older than what others commit meanwhile."""
    settings = process.settings
    dice = random.Random(f"{process.random.random()} old")
    connection = settings.connect()
    while not process.stop.is_set():
        since = time.time()
        with connection.cursor() as cursor:
            cursor.execute("start transaction with consistent snapshot")
        for _ in range(dice.randrange(5, 80)):
            item = process.some_item(dice)
            _read_one(
                process, caches, item, connection, dice, LOADED_IN_OLD_SNAPSHOT, since
            )
            process.stop.wait(dice.uniform(0, 0.06))
        connection.rollback()


def _read_one(
    process: Process,
    caches: dict[str, Any],
    item: int,
    connection: Any,
    dice: random.Random,
    loads: int,
    since: float | None,
) -> None:
    settings = process.settings
    how = CACHED

    def load() -> int:
        nonlocal how
        how = loads
        with connection.cursor() as cursor:
            cursor.execute("select version from item where id = %s", (item,))
            [version] = cursor.fetchone()
        time.sleep(dice.choice(LOAD_TIMES))
        return int(version)

    cache = caches[settings.namespace(item)]
    began = time.monotonic_ns()
    version = cache.get_or_load(
        key_of(item), load, tags=settings.tags(item), since=since
    )
    process.log.read(item, version, began, time.monotonic_ns(), how)


def observe(process: Process) -> None:
    """Write down what is published, as the database says it."""
    settings, log = process.settings, process.log
    connection = settings.connect(autocommit=True)
    seen: set[int] = set()
    open_rows: dict[int, tuple[int, int, bytes]] = {}
    last = 0
    while not process.stop.wait(0.01):
        with connection.cursor() as cursor:
            # Numbers are given before the commit: lower ones may come later.
            cursor.execute(
                "select seq, item, version, position from history where seq > %s",
                (last - 500,),
            )
            for seq, item, version, position in cursor.fetchall():
                last = max(last, seq)
                if seq not in seen:
                    seen.add(seq)
                    open_rows[seq] = (item, version, position)
            # After it, in a later snapshot: what is not there was published.
            cursor.execute(
                "select distinct commit_position from hydracache_outbox"
                " where state <> 1"
            )
            pending = {position for [position] in cursor.fetchall()}
        now = time.monotonic_ns()
        for seq, (item, version, position) in list(open_rows.items()):
            if position not in pending:
                log.fact("published", item, version, now)
                del open_rows[seq]


def evict(process: Process) -> None:
    """Lose tokens and entries, and fill the nodes with things that nobody reads."""
    settings, dice, log = process.settings, process.random, process.log
    store = settings.store()
    number = 0
    while not process.stop.wait(1 / EVICTIONS):
        item = process.some_item(dice)
        keyspace = Keyspace(store.ring, settings.namespace(item))
        victims = [*keyspace.of_key(key_of(item))]
        victims += [keyspace.tag_token(tag) for tag in settings.tags(item)]
        if settings.plain_delete:
            victims = [app_address(plain_key(key_of(item)))]
        # The namespace's token is on every node; the others have one address.
        if not store.delete_many([dice.choice(victims)]):
            log.count("tokens and entries evicted by hand")
        ballast = []
        for _ in range(int(BALLAST / EVICTIONS) * len(settings.nodes)):
            number += 1
            size = dice.choice((17, 120, 200))
            ballast.append((app_address(f"ballast:{number}"), bytes(size), None))
        store.set_many(ballast)


ROLES: dict[str, Callable[[Process], None]] = {
    "writer": write,
    "worker": carry,
    "reader": read,
    "observer": observe,
    "evictor": evict,
}


def main() -> None:
    role, slot, life, settings = sys.argv[1:]
    process = Process(Settings.from_json(settings), role, int(slot), int(life))
    die_with(process.settings.parent)
    signal.signal(signal.SIGTERM, lambda number, frame: process.stop.set())
    ROLES[role](process)


if __name__ == "__main__":
    main()

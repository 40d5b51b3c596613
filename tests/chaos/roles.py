"""The processes of a run: ``python -m chaos.roles ROLE SLOT LIFE SETTINGS``."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any, Callable

import pymysql

from chaos.app import (
    CLAIM_TTL,
    HOLD_OFF,
    HOSTS,
    SCENES_ITEMS,
    Settings,
    key_of,
    ring_nodes,
)
from chaos.records import CACHED, LOADED, LOADED_IN_OLD_SNAPSHOT, Log
from chaos.saboteur import cut_at_random
from chaos.scenes import Scenes
from chaos.transactions import Connection, write_one
from chaos.weather import Weather
from faults.caches import plain_key
from faults.process import die_with
from hydracache_sync import (
    ApplyError,
    HydraCacheError,
    InvalidationWait,
    MemcachedStore,
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
STRICT_SHARE = 0.15

#: Seconds between a quarantine and its commit.
HESITATIONS = (0.0,) * 6 + (0.02, 0.05, 0.1, 0.2)

#: Seconds that a loader takes beside its query: the window of the races. Mostly short,
#: and sometimes longer than it takes to publish.
LOAD_TIMES = (0.0,) * 20 + (0.001, 0.002, 0.004, 0.004) * 4 + (0.03, 0.03, 0.1)

#: Part of the reads that are of the strict namespace, which mostly load.
STRICT_READS = 0.15

#: Evictions of a token or an entry a second, and the part of them that is of the strict
#: namespace, where a token that is lost costs the cache of seconds.
EVICTIONS = 20.0
STRICT_EVICTIONS = 0.03

#: Seconds between two floods of a node with items as large as ours, and how many: more
#: than its memory takes of any size.
FLOOD_EVERY = 3.0
FLOOD = 16_000

#: Invalidations a second that come once more, long after they were published, and the
#: part of them that is of the strict namespace.
LATE = 5.0
STRICT_LATE = 0.02

#: Seconds between two cuts of a connection of a process.
CUT_EVERY = 2.0


class Process:
    """What every role has."""

    def __init__(self, settings: Settings, role: str, slot: int, life: int) -> None:
        self.settings = settings
        self.slot = slot
        self.host = slot % HOSTS
        self.stop = threading.Event()
        self.random = random.Random(f"{settings.seed} {role} {slot} {life}")
        self.log = Log(settings.folder, f"{role}-{slot}-{life}")

    def some_item(self, dice: random.Random, strict: float) -> int:
        """Choose one, of the strict namespace with a chance of ``strict``."""
        # A few are asked for more often than others.
        items = self.settings.items
        item = min(dice.randrange(items), dice.randrange(items))
        if dice.random() < strict:
            item += items
        return item

    def be_cut_off(self) -> None:
        """Lose a connection now and then, in a thread."""
        if self.settings.calm:
            return
        thread = threading.Thread(
            target=cut_at_random,
            args=(
                self.settings.ports(self.host),
                CUT_EVERY,
                random.Random(f"{self.random.random()} cuts"),
                lambda: self.log.count("connections cut"),
                self.stop,
            ),
            daemon=True,
        )
        thread.start()


def write(process: Process) -> None:
    """Change items, publish some inline, wait for some, leave most to the workers."""
    settings, dice, log = process.settings, process.random, process.log
    outbox = open_outbox(settings.database)
    stores = settings.on_host(process.host)
    workers = {
        namespace: OutboxWorker(
            outbox, settings.applier(stores, namespace), claim_ttl=CLAIM_TTL
        )
        for namespace in settings.namespaces()
    }
    strict_cache = settings.cache(stores, settings.items)
    connection = Connection(settings)
    process.be_cut_off()
    while not process.stop.wait(dice.expovariate(RATE)):
        item = dice.randrange(settings.items - SCENES_ITEMS)
        if dice.random() < STRICT_SHARE:
            item += settings.items
        hesitation = dice.choice(HESITATIONS)
        try:
            written = write_one(
                settings,
                outbox,
                connection.current,
                strict_cache,
                item,
                lambda: time.sleep(hesitation),
            )
        except QuarantineError:
            connection.renew()
            log.count("writes refused by the quarantine")
            continue
        except (HydraCacheError, pymysql.err.Error):
            # A deadlock, a wait for who was killed with the row locked, or a connection
            # that was cut. It may have been committed: the observer sees that.
            connection.renew()
            log.count("transactions that failed")
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


def carry(process: Process) -> None:
    """Drain both namespaces."""
    settings = process.settings
    outbox = open_outbox(settings.database)
    stores = settings.on_host(process.host)
    workers = [
        OutboxWorker(outbox, settings.applier(stores, namespace), claim_ttl=CLAIM_TTL)
        for namespace in settings.namespaces()
    ]
    process.be_cut_off()
    with WorkerPool(*workers, poll_interval=0.05):
        process.stop.wait()


def read(process: Process) -> None:
    """Read items, in several threads, one of them in long transactions."""
    settings = process.settings
    stores = settings.on_host(process.host)
    # Some processes refresh early.
    early: dict[str, Any] = {}
    if process.slot % 2 and not settings.plain_delete:
        early = {"soft_ttl": 0.3}
    caches = {
        namespace: settings.cache(stores, item, **early)
        for namespace, item in zip(settings.namespaces(), (0, settings.items))
    }
    threads = [
        threading.Thread(target=_read_fresh, args=(process, caches, number))
        for number in range(READERS)
    ]
    threads.append(threading.Thread(target=_read_old, args=(process, caches)))
    for thread in threads:
        thread.start()
    process.be_cut_off()
    while not process.stop.wait(process.random.expovariate(1 / 3)):
        for store in stores:
            store.close()
        process.log.count("stores closed under their readers")
    for thread in threads:
        thread.join()
    process.log.flush()


def _read_fresh(process: Process, caches: dict[str, Any], number: int) -> None:
    settings = process.settings
    dice = random.Random(f"{process.random.random()} {number}")
    connection = Connection(settings, autocommit=True)
    while not process.stop.is_set():
        item = process.some_item(dice, STRICT_READS)
        try:
            _read_one(process, caches, item, connection.current, dice, LOADED, None)
        except pymysql.err.Error:
            connection.renew()
            process.log.count("reads that lost their database")


def _read_old(process: Process, caches: dict[str, Any]) -> None:
    """Read in transactions that are older than what others commit meanwhile."""
    settings = process.settings
    dice = random.Random(f"{process.random.random()} old")
    connection = Connection(settings)
    while not process.stop.is_set():
        try:
            _read_in_one_snapshot(process, caches, connection.current, dice)
        except pymysql.err.Error:
            connection.renew()
            process.log.count("reads that lost their database")


def _read_in_one_snapshot(
    process: Process, caches: dict[str, Any], connection: Any, dice: random.Random
) -> None:
    since = time.time() if process.settings.guard else None
    with connection.cursor() as cursor:
        cursor.execute("start transaction with consistent snapshot")
    for _ in range(dice.randrange(5, 80)):
        item = process.some_item(dice, STRICT_READS)
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
    """Write down what is committed and what is published, as the database says it.

    Of a writer that was killed between its COMMIT and its log nobody else knows.
    """
    settings, log = process.settings, process.log
    connection = settings.connect(autocommit=True)
    seen: set[int] = set()
    open_rows: dict[int, tuple[int, int, bytes]] = {}
    in_time = int(HOLD_OFF * 1e9)
    last = 0
    while not process.stop.wait(0.01):
        with connection.cursor() as cursor:
            # Numbers are given before the commit: lower ones may come later.
            cursor.execute(
                "select seq, item, version, position, written_at"
                " from history where seq > %s",
                (last - 500,),
            )
            rows = cursor.fetchall()
            now = time.monotonic_ns()
            for seq, item, version, position, written_at in rows:
                last = max(last, seq)
                if seq in seen:
                    continue
                seen.add(seq)
                open_rows[seq] = (item, version, position)
                log.fact("seen committed", item, version, now)
                # Written before the quarantine: the COMMIT has ended within it.
                if settings.is_strict(item) and now - written_at < in_time:
                    log.fact("seen strict", item, version, now)
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
    stores = settings.stores()
    next_flood = time.monotonic() + FLOOD_EVERY
    while not process.stop.wait(1 / EVICTIONS):
        item = process.some_item(dice, STRICT_EVICTIONS)
        store = dice.choice(stores)
        keyspace = Keyspace(store.ring, settings.namespace(item))
        victims = [*keyspace.of_key(key_of(item))]
        victims += [keyspace.tag_token(tag) for tag in settings.tags(item)]
        if settings.plain_delete:
            victims = [app_address(plain_key(key_of(item)))]
        # The namespace's token is on every node; the others have one address.
        if not store.delete_many([dice.choice(victims)]):
            log.count("tokens and entries evicted by hand")
        if time.monotonic() >= next_flood:
            next_flood = time.monotonic() + FLOOD_EVERY
            node = dice.choice(ring_nodes(settings.nodes, store.ring))
            if _flood(node, store, dice.choice(victims)):
                log.count("floods of a node")


def _flood(node: str, store: MemcachedStore, example: Any) -> bool:
    """Fill ``node`` with items of the size of ``example``: memcached keeps each size
    apart, and evicts a size for its own kind."""
    try:
        [found] = store.get_many([example])
    except ApplyError:
        return False
    if found is None:
        return False
    host, _, port = node.rpartition(":")
    value = b"." * max(1, len(found) + len(example[1]) - len(b"ballast:00000"))
    wanted = b"".join(
        b"set ballast:%05d 0 0 %d noreply\r\n%s\r\n" % (number, len(value), value)
        for number in range(FLOOD)
    )
    try:
        with socket.create_connection((host, int(port)), 1.0) as connection:
            connection.sendall(wanted)
            connection.sendall(b"version\r\n")
            return bool(connection.recv(100))
    except OSError:
        # It is stopped, or was killed meanwhile.
        return False


def come_late(process: Process) -> None:
    """Apply once more what was published long ago, as a worker that hung would."""
    settings, dice, log = process.settings, process.random, process.log
    stores = settings.on_host(process.host)
    appliers = {
        namespace: settings.applier(stores, namespace)
        for namespace in settings.namespaces()
    }
    while not process.stop.wait(1 / LATE):
        # Which of its versions it was makes no difference to an apply.
        item = process.some_item(dice, STRICT_LATE)
        applier = appliers[settings.namespace(item)]
        if not any(applier.apply_batch(settings.batch(item).distinct())):
            log.count("late duplicates of an apply")


def blow(process: Process) -> None:
    """Be the links of a host, which deliver late."""
    settings = process.settings
    Weather(
        settings.nodes,
        settings.links[process.slot],
        process.random,
        process.log,
        calm=settings.calm,
    ).run(process.stop)


def play(process: Process) -> None:
    """Play scenes in which a token is late, on items that nobody else writes."""
    Scenes(process.settings, process.random, process.log).run(process.stop)


ROLES: dict[str, Callable[[Process], None]] = {
    "writer": write,
    "worker": carry,
    "reader": read,
    "observer": observe,
    "evictor": evict,
    "latecomer": come_late,
    "link": blow,
    "scenes": play,
}


def _wait_for_the_end(process: Process) -> None:
    signal.sigwait({signal.SIGTERM})
    process.stop.set()


def _end_with(failure: threading.ExceptHookArgs) -> None:
    """A run that went on without one of its threads would show less than it says."""
    traceback.print_exception(
        failure.exc_type, failure.exc_value, failure.exc_traceback
    )
    sys.stderr.flush()
    os._exit(1)


def main() -> None:
    role, slot, life, settings = sys.argv[1:]
    process = Process(Settings.from_json(settings), role, int(slot), int(life))
    die_with(process.settings.parent)
    # A handler would interrupt the main thread while it holds the event's lock.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_the_end, args=(process,), daemon=True).start()
    threading.excepthook = _end_with
    faulthandler.register(signal.SIGUSR1)
    ROLES[role](process)


if __name__ == "__main__":
    main()

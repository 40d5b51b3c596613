"""Kill the primary of a cluster under producers, a pool and crons: is anything lost?

    python tests/faults/failover.py galera --seconds 20
    python tests/faults/failover.py group --seconds 20 --seed 7
    python tests/faults/failover.py replica --seconds 20
    python tests/faults/failover.py replica-mysql9 --lose 1

Three producers commit rows of an app with their invalidations, on one name, behind
which is the primary; a pool and drains, as cron would run them, carry them. In the
middle the primary is killed with SIGKILL, and the name leads to the next one as soon as
the cluster has it. At the end every commit that was acknowledged must be there, each
row of the app with its invalidation and none without, and each invalidation must have
been applied.

A primary with an asynchronous replica takes no more writes first, and is killed when
the replica has all. With --lose the replica receives nothing any more for so many
seconds before the kill, and takes over without waiting: the commits of that time are
lost, with their invalidations and no others. That is not the library's doing, and the
exit code does not count them.

Exit code: 0 that is so, 1 it is not. The seed repeats the choices, not the scheduling.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, ContextManager, Iterator, NamedTuple

if __name__ == "__main__":
    here = Path(__file__).resolve().parents[1]
    sys.path[:1] = [str(here), str(here / "on_mysql"), str(here.parent)]

import pymysql
from mysql_proxy import Proxy

from hydracache_sync import (
    InvalidationIntentBatch,
    MySQLOutbox,
    OutboxError,
    OutboxWorker,
    RecordingApplier,
    WorkerPool,
)
from support.clusters import (
    PATIENCE,
    catch_up,
    galera,
    group,
    group_primary,
    promote,
    replication,
    sql,
)
from support.servers import SQLServer

#: Producers, each with a connection of its own.
PRODUCERS = 3

#: Seconds between two drains.
CRON = 1.0

NAMESPACE = "shop"

TIMEOUTS = {"connect_timeout": 2.0, "read_timeout": 3.0, "write_timeout": 3.0}


class Result(NamedTuple):
    committed: int
    lost: set[str]
    without_data: set[str]
    without_invalidation: set[str]
    not_applied: set[str]
    pending: int
    #: Seconds from the kill, or what is done before it, to the name's move, and from
    #: there to the first commit and the first row that was carried.
    moved: float
    committed_again: float
    carried_again: float

    @property
    def good(self) -> bool:
        return not self.lost and self.consistent

    @property
    def consistent(self) -> bool:
        """Whether what is there is whole, whatever was lost."""
        return not any(self[2:6])


def next_of_galera(nodes: list[SQLServer]) -> SQLServer | None:
    return nodes[0] if _says(nodes[0], "wsrep_ready", "ON") else None


def _says(node: SQLServer, name: str, value: str) -> bool:
    return sql(node, f"show global status like '{name}'") == ((name, value),)


def next_of_group(nodes: list[SQLServer]) -> SQLServer | None:
    port = group_primary(nodes[0])
    for node in nodes:
        # It takes writes only when it has applied what the old one had committed.
        if node.port == port and sql(node, "select @@global.super_read_only") == (
            (0,),
        ):
            return node
    return None


def next_of_replication(nodes: list[SQLServer]) -> SQLServer | None:
    promote(nodes[0])
    return nodes[0]


CLUSTERS: dict[str, tuple[Any, Callable[[list[SQLServer]], SQLServer | None]]] = {
    "galera": (lambda: galera(3), next_of_galera),
    "group": (lambda: group(3), next_of_group),
    "replica": (lambda: replication("mariadb"), next_of_replication),
    "replica-mysql9": (lambda: replication("mysql9"), next_of_replication),
}


@contextlib.contextmanager
def hand_over(primary: SQLServer, replica: SQLServer, lose: float) -> Iterator[None]:
    """Do what whoever changes an asynchronous primary has to do before, or not."""
    if lose:
        what = "slave" if replica.is_mariadb else "replica"
        sql(replica, f"stop {what} io_thread")
        time.sleep(lose)
        yield
        return
    with pymysql.connect(
        host=primary.host, port=primary.port, user=primary.user
    ) as connection:
        # Until the kill. "Read only" does not bind all users of MariaDB.
        connection.cursor().execute("flush tables with read lock")
        catch_up(replica, primary)
        yield


class Run:
    """One run on the cluster whose nodes are given; the first is the primary."""

    def __init__(self, nodes: list[SQLServer], name: Proxy, seed: int) -> None:
        self.nodes = nodes
        self.name = name
        self.random = random.Random(seed)
        self.committed: dict[str, float] = {}
        self.applier = RecordingApplier(NAMESPACE)
        self.ended = threading.Event()

    def outbox(self) -> MySQLOutbox:
        options: Any = {"host": "127.0.0.1", "port": self.name.port, **TIMEOUTS}
        return MySQLOutbox(database="shop", user="root", ssl=False, **options)

    def produce(self, slot: int) -> None:
        choose = random.Random(self.random.random())
        number = 0
        with contextlib.closing(self.outbox()) as outbox:
            while not self.ended.is_set():
                try:
                    with outbox.transaction() as connection:
                        keys = []
                        for _ in range(choose.randint(1, 3)):
                            number += 1
                            keys.append(f"{slot}:{number}")
                        self.write(outbox, connection, keys)
                    moment = time.monotonic()
                    self.committed.update(dict.fromkeys(keys, moment))
                except (OutboxError, pymysql.Error):
                    # What became of the commit is not known; the keys are not used
                    # again, so whichever it is will be found at the end.
                    self.ended.wait(0.05)
                self.ended.wait(choose.uniform(0, 0.01))

    def write(self, outbox: MySQLOutbox, connection: Any, keys: list[str]) -> None:
        batch = InvalidationIntentBatch("failover")
        with connection.cursor() as cursor:
            for key in keys:
                cursor.execute("insert into notes values (%s)", (key,))
                batch.invalidate_key(key)
        outbox.enqueue_in(connection, NAMESPACE, batch)

    def drain(self) -> None:
        while not self.ended.wait(CRON):
            with contextlib.closing(self.outbox()) as outbox:
                worker = OutboxWorker(outbox, self.applier, claim_ttl=5)
                with contextlib.suppress(OutboxError):  # the next one comes
                    worker.drain()

    def go(
        self,
        seconds: float,
        find: Callable[[list[SQLServer]], SQLServer | None],
        hand_over: ContextManager[None] = contextlib.nullcontext(),
    ) -> Result:
        sql(self.nodes[0], "create database shop")
        sql(self.nodes[0], "create table shop.notes (note varchar(20) primary key)")
        with contextlib.closing(self.outbox()) as outbox:
            outbox.install_schema()
        threads = [
            threading.Thread(target=self.produce, args=(slot,), daemon=True)
            for slot in range(PRODUCERS)
        ]
        threads.append(threading.Thread(target=self.drain, daemon=True))
        outbox = self.outbox()
        # What the old primary's last claims hold is free again in five seconds.
        pool = WorkerPool(OutboxWorker(outbox, self.applier, claim_ttl=5), threads=2)
        pool.start()
        for thread in threads:
            thread.start()
        time.sleep(seconds / 2 * self.random.uniform(0.8, 1.2))
        killed = time.monotonic()
        old, *others = self.nodes
        with hand_over:
            old.kill()
        primary = None
        while primary is None:
            assert time.monotonic() < killed + PATIENCE, "no primary after the kill"
            with contextlib.suppress(pymysql.Error):
                primary = find(others)
            time.sleep(0.05)
        self.name.target = ("127.0.0.1", primary.port)
        moved = time.monotonic()
        applied = len(self.applier.applied)
        carried = None
        until = moved + max(seconds / 2, 1)
        while time.monotonic() < until or carried is None:
            assert time.monotonic() < moved + PATIENCE, "nothing is carried any more"
            if carried is None and len(self.applier.applied) > applied:
                carried = time.monotonic()
            time.sleep(0.02)
        self.ended.set()
        for thread in threads:
            thread.join(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        with contextlib.closing(self.outbox()) as looking:
            while looking.status(NAMESPACE).pending and time.monotonic() < deadline:
                time.sleep(0.05)
            pending = looking.status(NAMESPACE).pending
        pool.stop(timeout=PATIENCE)
        outbox.close()
        notes = {note for (note,) in sql(primary, "select note from shop.notes")}
        rows = {
            value.decode()
            for (value,) in sql(primary, "select value from shop.hydracache_outbox")
        }
        again = min(m for m in self.committed.values() if m > moved)
        return Result(
            committed=len(self.committed),
            lost=self.committed.keys() - notes,
            without_data=rows - notes,
            without_invalidation=notes - rows,
            not_applied=notes - {intent.value for intent in self.applier.applied},
            pending=pending,
            moved=moved - killed,
            committed_again=again - moved,
            carried_again=carried - moved,
        )


def failover(
    cluster: str,
    *,
    seconds: float,
    seed: int,
    lose: float = 0.0,
    before: Callable[[list[SQLServer]], None] = lambda nodes: None,
    after: Callable[[list[SQLServer]], None] = lambda nodes: None,
) -> Result:
    """Make a cluster, run on it, end it.

    :param lose: seconds of commits that an asynchronous replica does not get.
    :param before: called with the nodes, the primary first.
    :param after: called with those that were not killed.
    """
    make, find = CLUSTERS[cluster]
    with make() as nodes, Proxy("127.0.0.1", nodes[0].port) as name:
        before(nodes)
        run = Run(nodes, name, seed)
        if find is next_of_replication:
            one, other = nodes
            result = run.go(seconds, find, hand_over(one, other, lose))
        else:
            result = run.go(seconds, find)
        after(nodes[1:])
        return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cluster", choices=CLUSTERS)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--lose", type=float, default=0.0, help="seconds of commits")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    result = failover(
        options.cluster, seconds=options.seconds, seed=options.seed, lose=options.lose
    )
    for name, value in result._asdict().items():
        shown = f"{value:.2f}" if isinstance(value, float) else value
        print(f"{name}: {len(value) if isinstance(value, set) else shown}")
    return 0 if result.good or options.lose and result.consistent else 1


if __name__ == "__main__":
    sys.exit(main())

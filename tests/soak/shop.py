"""The app of the soak: it writes at a steady rate and reads through the cache.

Both go on by themselves, whatever is away. A write whose connection died may have been
committed or not: the row that it leaves beside its data tells at the end.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from contextlib import closing
from typing import Any, Callable

import pymysql

from hydracache_sync import (
    CommitPosition,
    CommitStatus,
    InvalidationIntentBatch,
    InvalidationReceipt,
    MemcachedStore,
    MySQLOutbox,
    OutboxError,
    TaggedCache,
)

#: Seconds that a connection of the app waits for an answer.
ANSWER = 5

#: Seconds between two tries of what has failed.
AGAIN = 0.2

TABLES = (
    "create table item (id int primary key, version bigint not null) engine = InnoDB",
    "create table written (position varbinary(128) primary key, item int not null)"
    " engine = InnoDB",
)

#: Intents of one write: the item's key, and the tag of all items that end alike.
INTENTS = 2


def namespace_of(item: int) -> str:
    return f"soak-{item % 2}"


def tags_of(item: int) -> tuple[str, ...]:
    return (f"digit:{item % 10}",)


def cached(version: int) -> dict[str, int]:
    return {"version": version}


class Shop:
    """:ivar counts: writes, reads and what failed of them, by name."""

    def __init__(
        self, connect: Callable[[], Any], outbox: MySQLOutbox, store: MemcachedStore
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.caches = {
            name: TaggedCache(store, name) for name in map(namespace_of, range(2))
        }
        self._connect = connect
        self._outbox = outbox
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failure: BaseException | None = None
        # What was committed and not yet seen published: item, version, receipt.
        self._under_way: deque[tuple[int, int, InvalidationReceipt]] = deque()
        # By item, the newest version that was seen published.
        self._published: dict[int, int] = {}

    @property
    def namespaces(self) -> tuple[str, ...]:
        return tuple(self.caches)

    def prepare(self, items: int) -> None:
        with closing(self._connect()) as connection:
            for table in TABLES:
                connection.cursor().execute(table)
            connection.cursor().executemany(
                "insert into item (id, version) values (%s, 0)",
                [(item,) for item in range(items)],
            )
            connection.commit()
        self._items = items

    def open(self, rate: float, seed: int) -> None:
        """Begin to write ``rate`` times a second, and to read."""
        for name, work in (
            ("write", lambda rng: self._write_at(rate, rng)),
            ("read", self._read),
            ("follow", self._follow),
        ):
            rng = random.Random(f"{seed}/{name}")
            thread = threading.Thread(
                target=self._guarded, args=(work, rng), name=name, daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60.0)
            if thread.is_alive():
                raise RuntimeError(f"the shop's thread {thread.name!r} does not end")
        if self.failure is not None:
            raise self.failure

    def _guarded(self, work: Callable[[random.Random], None], rng: Any) -> None:
        try:
            work(rng)
        except BaseException as exc:
            self.failure = exc

    def _write_at(self, rate: float, rng: random.Random) -> None:
        next_at = time.monotonic()
        connection: Any = None
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = self._connect()
                self._under_way.append(
                    self._write(connection, rng.randrange(self._items))
                )
                self.counts["writes"] += 1
            except (pymysql.Error, OutboxError, OSError):
                # Rolled back by the server, or committed without our knowing.
                self.counts["writes that failed"] += 1
                if connection is not None:
                    connection._force_close()
                connection = None
                self._stop.wait(AGAIN)
                next_at = time.monotonic()
            next_at += rng.expovariate(rate)
            self._stop.wait(max(0.0, next_at - time.monotonic()))
        if connection is not None:
            connection.close()

    def _write(
        self, connection: Any, item: int
    ) -> tuple[int, int, InvalidationReceipt]:
        position = CommitPosition.generate()
        [tag] = tags_of(item)
        batch = InvalidationIntentBatch().invalidate_key(str(item)).invalidate_tag(tag)
        connection.begin()
        with connection.cursor() as cursor:
            cursor.execute(
                "update item set version = version + 1 where id = %s", (item,)
            )
            cursor.execute("select version from item where id = %s", item)
            version = cursor.fetchone()[0]
            cursor.execute(
                "insert into written (position, item) values (%s, %s)",
                (position.value, item),
            )
        receipt = self._outbox.enqueue_in(
            connection, namespace_of(item), batch, commit_position=position
        )
        connection.commit()
        return item, version, receipt

    def _follow(self, rng: random.Random) -> None:
        """Note which versions have been published; nothing older may be read then."""
        while not self._stop.is_set():
            for _ in range(len(self._under_way)):
                item, version, receipt = self._under_way.popleft()
                try:
                    status = self._outbox.status_for_commit(
                        receipt.namespace, receipt.commit_position
                    )
                except OutboxError:
                    status = CommitStatus()
                if status.published < INTENTS:
                    self._under_way.append((item, version, receipt))
                    break
                self._published[item] = max(version, self._published.get(item, 0))
            self._stop.wait(0.01)

    def _read(self, rng: random.Random) -> None:
        connection: Any = None
        while not self._stop.is_set():
            item = rng.randrange(self._items)
            try:
                if connection is None:
                    connection = self._connect()
                cache = self.caches[namespace_of(item)]
                floor = self._published.get(item, 0)
                served = cache.get_or_load(
                    str(item),
                    lambda: cached(version_of(connection, item)),
                    tags=tags_of(item),
                )
                self.counts["reads"] += 1
                self.counts["stale reads"] += served["version"] < floor
            except (pymysql.Error, OSError):
                # Of the loader: the database is away, and the page would say so.
                self.counts["reads that failed"] += 1
                if connection is not None:
                    connection._force_close()
                connection = None
                self._stop.wait(AGAIN)
            self._stop.wait(0.005)
        if connection is not None:
            connection.close()


def version_of(connection: Any, item: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute("select version from item where id = %s", item)
        version: int = cursor.fetchone()[0]
    connection.commit()
    return version

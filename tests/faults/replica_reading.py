"""Read through a cache, from a server that is behind, while another one is written.

Writers commit a new version of a page with its invalidation, and publish it. Readers
read pages through a cache of their own process, whose loader asks the other server. A
read that the cache answers with less than what was published before it began is stale.
What the loader itself brings may be as old as its server: that is not stored.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import Any, Callable, NamedTuple

import pymysql

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryStore,
    MySQLOutbox,
    OutboxWorker,
    ReplicaSnapshot,
    TaggedCache,
)
from support.servers import SQLServer

#: Pages, so many that some are in the cache while others are written.
PAGES = 20

#: Seconds between two writes of a page, and between two heartbeats.
WRITE_EVERY = 0.05
BEAT_EVERY = 0.1

#: Seconds that a reader pauses between two reads, so that writers get their turn.
READ_EVERY = 0.0005


class Count(NamedTuple):
    """What readers have met.

    :ivar hits: reads that the cache has answered.
    :ivar stale: of these, with less than what was published before.
    """

    reads: int
    hits: int
    stale: int
    writes: int


class Reading:
    """Pages on ``primary``, and what readers of ``other`` leave cached.

    :param outbox: opens one on the primary.
    """

    def __init__(
        self,
        primary: SQLServer,
        other: SQLServer,
        outbox: Callable[[], MySQLOutbox],
        namespace: str,
        seed: int,
    ) -> None:
        self._primary, self._other = primary, other
        self._outbox = outbox
        self._namespace = namespace
        self._seed = seed
        #: Versions that were published, by page.
        self._published = [0] * PAGES
        self._wanted_reads = 0
        self._wanted_writes = 0
        self._ended = threading.Event()
        self._errors: list[BaseException] = []

    def count(
        self, way: str, reads: int, writes: int, *, readers: int = 4, late: float = 0.0
    ) -> Count:
        """Write and read until there were so many of both.

        :param way: "heartbeat", by a ``ReplicaSnapshot``; "since", less ``late``; or
            "other", without a word.
        """
        self._wanted_reads, self._wanted_writes = reads, writes
        self._ended.clear()
        store = MemoryStore()
        counts = [[0, 0, 0] for _ in range(readers)]
        written = [0]
        threads = [
            threading.Thread(target=self._kept, args=(work, *arguments))
            for work, arguments in [
                (self._write, (store, written)),
                (self._beat, ()),
                *(
                    (self._read, (store, way, late, n, counts[n]))
                    for n in range(readers)
                ),
            ]
        ]
        for thread in threads:
            thread.start()
        while not self._ended.wait(0.05):
            read = sum(each[0] for each in counts)
            if read >= reads and written[0] >= writes:
                self._ended.set()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return Count(*map(sum, zip(*counts)), written[0])

    def _kept(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as exc:
            self._errors.append(exc)
        finally:
            self._ended.set()

    def _write(self, store: MemoryStore, written: list[int]) -> None:
        choose = random.Random(self._seed)
        with contextlib.closing(self._outbox()) as outbox:
            worker = OutboxWorker(outbox, MemcachedApplier(store, self._namespace))
            while not self._ended.wait(WRITE_EVERY):
                page = choose.randrange(PAGES)
                version = self._published[page] + 1
                with outbox.transaction() as connection:
                    with connection.cursor() as cursor:
                        cursor.execute(
                            "update shop.read_pages set version = %s where id = %s",
                            (version, page),
                        )
                    batch = InvalidationIntentBatch().invalidate_key(f"page:{page}")
                    receipt = outbox.enqueue_in(connection, self._namespace, batch)
                report = worker.publish(receipt)
                assert report.complete, report
                self._published[page] = version
                written[0] += 1

    def _beat(self) -> None:
        with contextlib.closing(self._outbox()) as outbox:
            while not self._ended.wait(BEAT_EVERY):
                outbox.write_heartbeat()

    def _read(
        self, store: MemoryStore, way: str, late: float, number: int, count: list[int]
    ) -> None:
        choose = random.Random(self._seed + 1 + number)
        # Both clocks are of one host.
        cache = TaggedCache(store, self._namespace, clock_skew=0.01)
        node = self._other
        with pymysql.connect(host=node.host, port=node.port, user="root") as connection:
            snapshot = ReplicaSnapshot(
                connection, table="shop.hydracache_outbox", clock_skew=0.01
            )

            def load() -> int:
                loads.append(1)
                with connection.cursor() as cursor:
                    cursor.execute(
                        "select version from shop.read_pages where id = %s", (page,)
                    )
                    [(version,)] = cursor.fetchall()
                return int(version)

            while not self._ended.wait(READ_EVERY):
                page = choose.randrange(PAGES)
                loads: list[int] = []
                published = self._published[page]
                since = None
                value = cache.get(f"page:{page}")
                if value is None:
                    connection.rollback()
                    if way == "heartbeat":
                        since = snapshot()
                    elif way == "since":
                        since = time.time() - late
                    value = cache.get_or_load(f"page:{page}", load, since=since)
                count[0] += 1
                if not loads:
                    count[1] += 1
                    count[2] += value < published

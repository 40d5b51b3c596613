"""A node of three comes back while very many rows wait for it.

What the tests of pools on each database and the benchmark share. Knows nothing of
pytest.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import Callable, Iterator

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    InvalidationOutbox,
    MemcachedApplier,
    MemcachedStore,
    OutboxRow,
    OutboxWorker,
    WorkerPool,
)
from hydracache_sync.worker.node_outages import (
    DEFAULT_OUTAGE_TIMING,
    OutageTiming,
)
from hydracache_sync.worker.worker import BATCH_SIZE
from support.pool_processes import DEADLINE, SHOP
from support.servers import Memcached

#: Rows of one enqueue.
BATCH = 1000

#: As long as 150,000 rows make each other wait, and longer.
LONG_WAITS = OutageTiming(retries_per_second=1, longest_wait=200.0)

#: Rows of one batch, for these. Each batch draws its wait: of eighty batches one comes
#: round in the first seconds, of ten perhaps only after a minute.
FEW = 25


class Crowd:
    """Rows that wait for one node of ``servers``, the last, and pools that carry them.

    :param open_outbox: opens the outbox, as each process does for itself.
    :param pools: how many, each with an outbox and a store of its own: they learn of an
        outage and of its end from nobody else.
    """

    def __init__(
        self,
        open_outbox: Callable[[], InvalidationOutbox],
        servers: list[Memcached],
        *,
        pools: int,
        timing: OutageTiming = DEFAULT_OUTAGE_TIMING,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.servers = servers
        self.node = servers[-1]
        self.outbox = open_outbox()
        self._appliers = [self._applier() for _ in range(pools)]
        self._pools = [
            WorkerPool(
                OutboxWorker(
                    open_outbox(),
                    applier,
                    outage_timing=timing,
                    batch_size=batch_size,
                )
            )
            for applier in self._appliers
        ]

    def _applier(self) -> MemcachedApplier:
        addresses = [server.address for server in self.servers]
        return MemcachedApplier(MemcachedStore(addresses), SHOP)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for pool in self._pools:
                stack.enter_context(pool)
            yield

    def enqueue(self, rows: int) -> None:
        """Write ``rows`` for the node alone."""
        applier = self._appliers[0]
        keys = (
            key
            for key in map("key:{}".format, itertools.count())
            if applier.nodes_of(InvalidationIntent.key(key)) == [self.node.address]
        )
        for start in range(0, rows, BATCH):
            batch = InvalidationIntentBatch("test")
            for key in itertools.islice(keys, min(BATCH, rows - start)):
                batch.invalidate_key(key)
            self.outbox.enqueue(SHOP, batch)

    def rows(self) -> dict[int, OutboxRow]:
        return {row.id: row for row in self.outbox.rows(SHOP, limit=10**6)}

    def wait_until_put_off(self, rows: int, seconds: float) -> dict[int, OutboxRow]:
        """Wait until ``rows`` of them are to be due in ``seconds`` or later."""
        found: dict[int, OutboxRow] = {}

        def put_off() -> bool:
            found.update(self.rows())
            then = self.outbox.now_ms() + seconds * 1000
            return sum(row.available_at_ms > then for row in found.values()) >= rows

        _wait(put_off)
        return found

    def carried(self, first: int | None = None) -> float:
        """Wait until all are carried; return the seconds that it took.

        :param first: only so many, the first that were written.
        """
        started = time.monotonic()
        if first is None:
            _wait(lambda: not self.outbox.status(SHOP).pending)
        else:
            _wait(lambda: all(row.is_published for row in self._first(first)))
        return time.monotonic() - started

    def _first(self, rows: int) -> list[OutboxRow]:
        return self.outbox.rows(SHOP, limit=rows)


def _wait(condition: Callable[[], bool]) -> None:
    """Wait for it; asking takes from those who are to bring it about."""
    deadline = time.monotonic() + 2 * DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.1)

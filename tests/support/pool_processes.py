"""What the programs and children of the pool's process tests run.

Imported by them as a module, so that ``spawn`` finds its functions. Knows nothing of
pytest.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from typing import Any, Iterator, Sequence

from hydracache_sync import (
    InvalidationApplier,
    InvalidationIntent,
    InvalidationIntentBatch,
    OutboxWorker,
    RecordingApplier,
    SQLiteOutbox,
    WorkerPool,
)
from support.processes import DEADLINE
from support.waiting import eventually

SHOP = "shop"


class Shop:
    """A pool of two threads over an outbox, and what it applied in this process."""

    def __init__(self, outbox: Any, *, poll_interval: float = 3600.0) -> None:
        self.outbox = outbox
        self.looks = 0
        ask = outbox.due_namespaces

        def due_namespaces(namespaces: Sequence[str]) -> list[str]:
            due: list[str] = ask(namespaces)
            self.looks += 1
            return due

        outbox.due_namespaces = due_namespaces
        self.applier = RecordingApplier(SHOP)
        self.worker = OutboxWorker(outbox, self.applier)
        # It finds nothing by polling: what it carries it was told of, or looked for.
        self.pool = WorkerPool(self.worker, threads=2, poll_interval=poll_interval)

    def batch(self, key: str) -> InvalidationIntentBatch:
        return InvalidationIntentBatch("test").invalidate_key(key)

    def applied(self) -> list[str]:
        return [str(intent.value) for intent in list(self.applier.applied)]

    def pending(self) -> int:
        return int(self.outbox.status(SHOP).pending)

    def another_outbox(self) -> SQLiteOutbox:
        return SQLiteOutbox(self.outbox.path)

    def enqueue_in_own_transaction(self, key: str) -> None:
        with contextlib.closing(sqlite3.connect(self.outbox.path)) as connection:
            self.outbox.enqueue_in(connection, SHOP, self.batch(key))
            connection.commit()

    @contextlib.contextmanager
    def paused_parent(self) -> Iterator[None]:
        """Start the pool of this process, and keep it from taking anything by itself.

        Its threads sleep: what others commit nobody tells them of.
        """
        with self.pool:
            eventually(lambda: self.looks == 1)
            yield
            assert self.looks == 1


class OddApplier(InvalidationApplier):
    """Does what a key says: "slow", "hang" or "exit"; else nothing."""

    namespace = SHOP

    def __init__(self) -> None:
        self.in_flight = threading.Event()

    def apply_invalidation(self, intent: InvalidationIntent) -> None:
        self.in_flight.set()
        if intent.value == "slow":
            time.sleep(0.7)
        elif intent.value == "hang":
            time.sleep(DEADLINE)
        elif intent.value == "exit":
            os._exit(3)

    def apply_batch(
        self, intents: Sequence[InvalidationIntent]
    ) -> list[Exception | None]:
        return super().apply_batch(intents)


def pool_over(path: str, **options: Any) -> WorkerPool:
    """``options`` are the worker's."""
    return WorkerPool(OutboxWorker(SQLiteOutbox(path), OddApplier(), **options))


def carry_until_in_flight(path: str) -> None:
    """Start a pool and return, to the end of the process, in the midst of a batch."""
    applier = OddApplier()
    WorkerPool(OutboxWorker(SQLiteOutbox(path), applier)).start()
    assert applier.in_flight.wait(DEADLINE)

"""The calls that an app's own code makes, the same under every framework.

A framework's integration says where a request's collector is kept; the rest is here.
Atomic with the data are ``write``, ``enqueue`` and ``transaction`` only.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import time
from typing import Any, Callable, Iterable, Iterator, TypeVar, Union

from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.durations import duration_ms
from hydracache_sync.integrations import callers_transaction
from hydracache_sync.integrations.collected import Collected, Written
from hydracache_sync.integrations.runtime import Runtime
from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.pool import WorkerPool
from hydracache_sync.receipts import InvalidationReceipt
from hydracache_sync.wait import ConsistencyMode, InvalidationWait, WaitOutcome
from hydracache_sync.worker import PublishReport

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: What ``enqueue`` takes: intents, and batches of them.
Invalidations = Union[InvalidationIntent, InvalidationIntentBatch]


class AppCalls(abc.ABC):
    """What a view or a script can do. Keeps no state: the app and the request do.

    Everything here is for the request that is being served, in its thread.
    """

    # What an integration supplies

    @property
    @abc.abstractmethod
    def runtime(self) -> Runtime:
        """The parts of the app that is being served."""

    @abc.abstractmethod
    def collected(self) -> Collected:
        """The collector of the request that is being served."""

    @abc.abstractmethod
    def collected_if_any(self) -> Collected | None:
        """The same, or None if the request has not needed one yet."""

    # Parts

    @property
    def cache(self) -> TaggedCache:
        """The app's cache. Reads of it know nothing of this request's own writes; those
        of :meth:`get_or_load` do."""
        return self.runtime.cache

    @property
    def outbox(self) -> InvalidationOutbox:
        return self.runtime.outbox

    @property
    def pool(self) -> WorkerPool | None:
        """The pool of this process; None where it has none, or not yet."""
        return self.runtime.placement.pool

    @property
    def namespace(self) -> str:
        return self.runtime.namespace

    def start_pool(self) -> WorkerPool | None:
        """Start the pool of this process now and not at its first request.

        For a server's hook after its fork. Does what ``HYDRACACHE_POOL`` says, and
        nothing the second time.
        """
        return self.runtime.placement.start()

    def stop_pool(self, timeout: float = 5.0) -> bool:
        """Stop the pool of this process for good; tell whether it has ended in time.

        At the end of the process this is done anyway.
        """
        return self.runtime.placement.stop(timeout)

    # Collecting

    def invalidate(self, *intents: InvalidationIntent) -> None:
        """Collect intents, to be written by the next :meth:`write`."""
        batch = InvalidationIntentBatch()
        for intent in intents:
            batch.intent(intent)
        self.collected().add(*batch.intents)

    def invalidate_key(self, key: str) -> None:
        self.collected().add(InvalidationIntent.key(key))

    def invalidate_tag(self, tag: str) -> None:
        self.collected().add(InvalidationIntent.tag(tag))

    def invalidate_entity(self, entity: str, key: str) -> None:
        self.collected().add(InvalidationIntent.entity(entity, key))

    def invalidate_collection(self, name: str) -> None:
        self.collected().add(InvalidationIntent.collection(name))

    def flush(self) -> None:
        """Collect a flush of the whole namespace."""
        self.collected().add(InvalidationIntent.flush())

    def discard(self) -> None:
        """Forget what was collected and not written: it was all rolled back."""
        collected = self.collected_if_any()
        if collected is not None:
            collected.clear()

    # Writing

    def write(self, connection: Any) -> InvalidationReceipt | None:
        """Write what was collected in the open transaction of ``connection``.

        One INSERT; commits nothing. Call it before your commit. What an earlier
        ``write`` of this request wrote in a transaction that was rolled back is written
        again: tried again, it needs its invalidations again.

        :return: the receipt; None if there was nothing to write.
        :raises OutboxError: as ``outbox.enqueue_in``; the intents stay collected.
        """
        written = self._write(connection)
        return None if written is None else written.receipt

    def enqueue(
        self, connection: Any, *what: Invalidations, reason: str = ""
    ) -> InvalidationReceipt:
        """Write ``what`` at once in the open transaction of ``connection``.

        Collects nothing, and leaves alone what was collected.

        :param what: intents, and batches of them.
        :param reason: for operators; by default the view's name.
        """
        collected = self.collected()
        batch = InvalidationIntentBatch(reason or collected.batch().reason)
        for each in what:
            if not isinstance(each, InvalidationIntentBatch):
                batch.intent(each)
                continue
            for intent in each:
                batch.intent(intent)
        receipt = self.runtime.write(connection, batch)
        collected.written.append(Written(receipt, again=False))
        return receipt

    @contextlib.contextmanager
    def transaction(self, connection: Any) -> Iterator[Any]:
        """Begin, run the block, write what was collected, commit; or roll back.

        A transaction that is open already is joined, and committed with the block.
        An exception rolls back and forgets what the block has collected. Afterwards the
        rows are published at once in mode ``inline``, or the pool is woken.

        :param connection: a driver's connection; yielded.
        """
        runtime, collected = self.runtime, self.collected()
        before, earlier = collected.intents, len(collected.written)
        callers_transaction.begin(connection)
        try:
            yield connection
            self._write(connection)
            callers_transaction.commit(connection)
        except BaseException:
            collected.restore(before, earlier)
            callers_transaction.roll_back(connection)
            raise
        for written in collected.written[earlier:]:
            runtime.committed(written)

    def _write(self, connection: Any) -> Written | None:
        collected = self.collected_if_any()
        if collected is None:
            return None
        undone = [
            each
            for each in collected.written
            if each.again
            and not each.committed
            and not self.outbox.sees(connection, each.receipt)
        ]
        again = [intent for each in undone for intent in each.receipt.batch or ()]
        batch = collected.batch(again)
        if not batch:
            return None
        written = Written(self.runtime.write(connection, batch))
        collected.written = [
            *(each for each in collected.written if each not in undone),
            written,
        ]
        collected.clear()
        return written

    # Receipts

    @property
    def receipts(self) -> list[InvalidationReceipt]:
        """Receipts of what this request has written, in order."""
        collected = self.collected_if_any()
        return [] if collected is None else collected.receipts

    @property
    def receipt(self) -> InvalidationReceipt | None:
        """The last of :attr:`receipts`."""
        receipts = self.receipts
        return receipts[-1] if receipts else None

    def publish(self) -> PublishReport:
        """Publish this request's receipts now, after its commit.

        Done anyway in mode ``inline``. Never raises for an outage; what it does not
        manage stays for a worker.

        :return: ``complete`` if every later read, anywhere, sees the writes.
        """
        collected, report = self.collected_if_any(), PublishReport()
        if collected is not None:
            for written in collected.written:
                if not written.published:
                    report += self.runtime.publish(written)
            collected.past_cache = False
        return report

    def wait(self, timeout: float) -> WaitOutcome:
        """Wait until what this request has written is published, after its commit.

        :param timeout: seconds for all receipts together; 0 looks once.
        :raises OutboxError: the outbox could not be read; nothing is known.
        """
        duration_ms("timeout", timeout)
        collected = self.collected_if_any()
        started = time.monotonic()
        outcomes = []
        for written in [] if collected is None else collected.written:
            rest = max(0.0, timeout - (time.monotonic() - started))
            found = InvalidationWait.local(rest).wait(self.outbox, written.receipt)
            written.published |= found.satisfied
            written.committed |= found.satisfied
            outcomes.append(found)
        if collected is not None:
            collected.past_cache = False
        return WaitOutcome(
            ConsistencyMode.LOCAL,
            satisfied=all(each.satisfied for each in outcomes),
            degraded=any(each.degraded for each in outcomes),
            timed_out=any(each.timed_out for each in outcomes),
            pending=sum(each.pending for each in outcomes),
            dead_lettered=sum(each.dead_lettered for each in outcomes),
            elapsed_ms=int((time.monotonic() - started) * 1000),
        )

    # Reading

    def reads_own_writes(self) -> bool:
        """Whether a cached read now includes what this request has written.

        Not while it has written or collected something that is not yet published: the
        cache may hold the value from before, and a value loaded in an open transaction
        must not get into the cache. Then the database is to be asked.
        """
        collected = self.collected_if_any()
        if collected is None:
            return True
        if collected.past_cache or collected or collected.writing:
            return False
        look = self.runtime.look
        if all(written.published or look(written) for written in collected.written):
            return True
        # Not asked again at each read of the request: wait() and publish() mend it.
        collected.past_cache = True
        return False

    def get_or_load(
        self,
        key: str,
        loader: Callable[[], T],
        *,
        tags: Iterable[str] = (),
        ttl: float | None = None,
    ) -> T:
        """As ``cache.get_or_load``, and never older than this request's own writes.

        While those are not published the loader is called and nothing is stored. The
        snapshot that the loader reads in is known, see ``HYDRACACHE_SNAPSHOT``.
        """
        if not self.reads_own_writes():
            return loader()
        return self.cache.get_or_load(key, loader, tags=tags, ttl=ttl)

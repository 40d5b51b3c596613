"""The threads that run the workers of one outbox, in one process.

Each outbox has its own group, so that a database that hangs delays no other's rows. A
group is made, started and stopped once; after a fork the child makes another.
"""

from __future__ import annotations

import threading
import time
from typing import Callable, Iterable, Iterator, Sequence

from hydracache_sync.events import (
    Event,
    OutageBegan,
    ThreadReplaced,
    ThreadStuck,
    log_fields,
)
from hydracache_sync.pool.batches import Batches
from hydracache_sync.pool.database_outage import DatabaseOutage
from hydracache_sync.pool.health import ThreadHealth, ThreadState
from hydracache_sync.pool.poll_scheduler import PollScheduler
from hydracache_sync.pool.thread import Activity, PoolThread, ThreadSlot
from hydracache_sync.pool.timing import DEFAULT_TIMING, PoolTiming
from hydracache_sync.printable import described, printable_logger
from hydracache_sync.worker.worker import OutboxWorker

logger = printable_logger(__name__)


class ThreadGroup:
    """Threads for the workers of one outbox.

    :param threads: how many.
    :param names: gives each thread a name.
    :param poll_interval: seconds between two polls while nothing is due.
    :param stuck_after: seconds after which a thread that has not returned from an
        applier or the database counts as stuck.
    :param emit: called with each event that is not a worker's.
    """

    def __init__(
        self,
        workers: Sequence[OutboxWorker],
        *,
        threads: int,
        names: Iterator[str],
        poll_interval: float,
        stuck_after: float,
        emit: Callable[[Event], None],
        timing: PoolTiming = DEFAULT_TIMING,
    ) -> None:
        self.outbox = workers[0].outbox
        self._batches = Batches(workers, timing=timing, emit=emit)
        self._size = threads
        self._names = names
        self._stuck_after = stuck_after
        self._hanging_poll = timing.hanging_poll
        self._emit = emit
        self._scheduler = PollScheduler(poll_interval, timing.hanging_poll)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._slots: list[ThreadSlot] = []
        self.replaced = 0

    @property
    def namespaces(self) -> frozenset[str]:
        return self._batches.namespaces

    @property
    def outage(self) -> DatabaseOutage:
        return self._batches.outage

    # Threads

    def start(self) -> None:
        """Start the threads.

        :raises RuntimeError: the system gives no thread; those started are told to end.
        """
        try:
            for _ in range(self._size):
                self._spawn()
        except RuntimeError:
            self.stop()
            raise

    def _spawn(self) -> None:
        slot = ThreadSlot(next(self._names))
        slot.start(self._run)
        with self._lock:
            self._slots.append(slot)

    def stop(self) -> None:
        """Tell the threads to end; does not wait for them."""
        self._stop.set()
        self._scheduler.close()

    def threads(self) -> list[PoolThread]:
        with self._lock:
            return [each.thread for each in self._slots if each.thread is not None]

    def wake(self, namespaces: Iterable[str] = ()) -> None:
        """Have a thread poll at once.

        :param namespaces: in which rows have just been committed; unknown by default.
        """
        self._batches.announce(namespaces)
        self._scheduler.wake()

    def poll_soon(self) -> None:
        """Poll often for a short while: rows may be committed soon."""
        self._scheduler.poll_soon()

    def supervise(self) -> None:
        """Replace threads that died; report and replace those that are stuck.

        Also emits the end of cache outages where no batch does it.

        A stuck thread that returns ends then. There are never more stuck threads beside
        the group than it is large: an applier that always hangs must not fill the
        process with threads.

        :raises RuntimeError: the system gives no thread.
        """
        self._batches.end_outages()
        with self._lock:
            slots = list(self._slots)
        now = time.monotonic()
        for slot in slots:
            if self._stop.is_set():
                return
            if not slot.alive:
                if not slot.replaced:
                    self._replace(slot, slot.error or "ended without an error")
                with self._lock:
                    self._slots.remove(slot)
            elif slot.is_stuck(now, self._stuck_after):
                self._report_stuck(slot, now)
                surplus = sum(each.replaced and each.alive for each in slots)
                if not slot.replaced and surplus < self._size:
                    self._replace(slot, None)
            else:
                slot.reported = False

    def _replace(self, slot: ThreadSlot, error: str | None) -> None:
        """Start a thread in place of one that died of ``error`` or is stuck.

        :raises RuntimeError: the system gives no thread.
        """
        self._spawn()
        # Before the log and the event: if a filter of the log raises, the slot must not
        # be replaced once more at each check.
        slot.replaced = True
        self._scheduler.release(slot)
        self.replaced += 1
        event = ThreadReplaced(None, slot.name, error)
        logger.error(
            "thread %s of the pool %s; another has replaced it",
            slot.name,
            "is stuck" if error is None else f"died: {error}",
            extra=log_fields(event),
        )
        self._emit(event)

    def _report_stuck(self, slot: ThreadSlot, now: float) -> None:
        if slot.reported:
            return
        slot.reported = True
        namespace = slot.activity.namespace
        event = ThreadStuck(namespace, slot.name, slot.seconds(now))
        logger.error(
            "thread %s of the pool has not returned from %s for %.0f s",
            slot.name,
            "the database" if namespace is None else f"namespace {namespace}",
            event.seconds,
            extra=log_fields(event),
        )
        self._emit(event)

    # Health

    def outages(self) -> list[OutageBegan]:
        """How the outages began that last now."""
        return self._batches.outages()

    def health(self) -> list[ThreadHealth]:
        """Return the state of each thread. Asks no database."""
        with self._lock:
            slots = list(self._slots)
        now = time.monotonic()
        outages = self.outages()
        return [self._health_of(slot, now, outages) for slot in slots]

    def _health_of(
        self, slot: ThreadSlot, now: float, outages: Sequence[OutageBegan]
    ) -> ThreadHealth:
        working, since, namespace = slot.current()
        polling = working and namespace is None
        error: str | None = None
        if not slot.alive:
            state, error = ThreadState.DEAD, slot.error
        elif slot.is_stuck(now, self._stuck_after):
            state = ThreadState.STUCK
        elif working and not (polling or self._batches.is_blocked(namespace)):
            state = ThreadState.WORKING
        elif outages:
            state = ThreadState.WAITING
            namespace, error = outages[-1].namespace, outages[-1].error
        elif working and now - since > self._hanging_poll:
            # Nothing has failed yet: a driver's timeout takes longer.
            state = ThreadState.WAITING
            error = f"the database has not answered for {now - since:.0f} s"
        else:
            state = ThreadState.IDLE
        return ThreadHealth(
            slot.name, state, now - since, repr(self.outbox), namespace, error
        )

    # What a thread does

    def _run(self, slot: ThreadSlot) -> None:
        try:
            applied = False
            while not self._stop.is_set() and not slot.replaced:
                # After a batch it polls again at once: the next one may be due.
                if applied or self._scheduler.wait(slot, self._batches.is_quiet):
                    applied = self._poll_and_apply(slot, again=applied)
                else:
                    slot.polling_since = None
        except BaseException as exc:
            # A greenlet was killed, or user code raised what is no Exception. The
            # worker has released the rows, or their claims end; supervise() replaces
            # this thread.
            slot.error = described(exc)
            logger.critical("thread %s of the pool ends", slot.name, exc_info=exc)
        finally:
            self._scheduler.release(slot)

    def _poll_and_apply(self, slot: ThreadSlot, *, again: bool) -> bool:
        """Poll, and run a batch of each namespace that is due.

        :param again: the call before has applied rows.
        :return: whether any row got further, so that to poll at once is worth it.
        """
        applied = False
        # Since the poll for little that came before: it may be what hung and failed.
        started = slot.polling_since or time.monotonic()
        slot.activity = Activity(True, started)
        slot.polling_since = None
        try:
            due = self._batches.due(again=again)
            if not due:
                now = time.monotonic()
                slot.activity = Activity(False, now)
                self._scheduler.nothing_due(slot, now - started)
                return False
            self._scheduler.release(slot)
            for namespace in due:
                if self._stop.is_set() or slot.replaced:
                    # Nothing of the others is claimed yet.
                    return False
                slot.activity = Activity(True, time.monotonic(), namespace)
                applied |= self._batches.run(namespace, self._stop)
        except Exception as exc:
            # The database failed. No row is lost: what was claimed and not settled is
            # due again when its claim ends.
            _, since, applying = slot.activity
            # How long the failed call took is known of a poll alone.
            polled_at = since if applying is None else None
            self._scheduler.failed(self.outage.failed(exc, applying, polled_at))
            return False
        finally:
            if slot.activity.working:
                slot.activity = Activity(False, time.monotonic())
        return applied

"""Which namespaces of one outbox have due rows, and running a batch of one of them.

Called by the threads of a group. Starts no thread, and does not know when to poll.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import Callable, Iterable, Sequence

from hydracache_sync.errors import OutboxError
from hydracache_sync.events import Event, OutageBegan
from hydracache_sync.outbox.due import QuietLook
from hydracache_sync.pool.database_outage import DatabaseOutage
from hydracache_sync.pool.thread import ThreadSlot
from hydracache_sync.pool.timing import PoolTiming
from hydracache_sync.printable import printable_logger
from hydracache_sync.worker.worker import OutboxWorker

logger = printable_logger(__name__)


class Batches:
    """The workers of one outbox, and how each of their namespaces fares. Thread-safe.

    :param workers: one for each namespace, all of one outbox.
    :param emit: called with the events of the database's outage.
    """

    def __init__(
        self,
        workers: Sequence[OutboxWorker],
        *,
        timing: PoolTiming,
        emit: Callable[[Event], None],
    ) -> None:
        self.outbox = workers[0].outbox
        self.namespaces = frozenset(worker.namespace for worker in workers)
        self.outage = DatabaseOutage(
            repr(self.outbox),
            emit,
            backoff=timing.database_backoff,
            calm=timing.database_calm,
        )
        self._timing = timing
        self._workers = {worker.namespace: worker for worker in workers}
        self._polled = tuple(self._workers)
        self._lock = threading.Lock()
        #: Number of the batch that served a namespace last.
        self._served = dict.fromkeys(self._workers, 0)
        self._count = itertools.count(1)
        #: Failures in a row of a namespace, and until when it is left alone.
        self._failures: dict[str, tuple[int, float]] = {}
        #: Namespaces in which this process has committed rows since the last poll.
        self._announced: set[str] = set()
        self._next_writable_check = 0.0
        #: What says for little that nothing is due, since a poll that found nothing.
        self._quiet_look: QuietLook | None = None

    def announce(self, namespaces: Iterable[str]) -> None:
        """Note that rows of ``namespaces`` have just been committed."""
        with self._lock:
            self._announced.update(self.namespaces.intersection(namespaces))

    def outages(self) -> list[OutageBegan]:
        """How the outages began that last now: of caches, then of the database."""
        found = [worker.outage for worker in self._workers.values()]
        found.append(self.outage.current)
        return [outage for outage in found if outage is not None]

    def end_outages(self) -> None:
        """Emit the end of cache outages that are over, where no batch does it."""
        for worker in self._workers.values():
            worker.end_outages()

    def is_blocked(self, namespace: str | None) -> bool:
        """Whether an outage holds all rows of ``namespace``; a batch is only a try."""
        if namespace is None:
            return False
        worker = self._workers[namespace]
        return self.outage.blocks(namespace) or (
            worker.outage is not None and not worker.partly_away
        )

    def due(self, *, again: bool) -> Sequence[str]:
        """Return the namespaces that have due rows and are not left alone.

        The one served longest ago comes first. An announced namespace needs no query.

        :param again: the calling thread has just run a batch. It then queries, so that
            a process that goes on committing does not keep the rows of others waiting.
        :raises OutboxError: the database failed. An announcement that is lost with it
            is made up for by the next poll.
        """
        announced: set[str] = set()
        if self._announced:
            with self._lock:
                announced, self._announced = self._announced, set()
        if announced and not again:
            return self._in_turn(sorted(announced))
        due = self._poll()
        return self._in_turn(due) if due else ()

    def is_quiet(self, slot: ThreadSlot, now: float) -> bool:
        """Whether it is known, for little, that :meth:`due` would find nothing.

        Called fifty times a second by an idle process, whose caches are cold: a call
        more or less in here can be measured.

        :param slot: of the calling thread. That it polls stays noted there where this
            returns False.
        :param now: of ``time.monotonic()``.
        """
        look = self._quiet_look
        if look is None or self._announced or self.outage.active:
            return False
        is_quiet, until = look
        if now >= until:
            return False
        slot.polling_since = now  # it may hang
        if not is_quiet(now):
            return False
        slot.polling_since = None
        return True

    def _poll(self) -> Sequence[str]:
        self._quiet_look = None
        now = time.monotonic()
        if now >= self._next_writable_check or self.outage.active:
            self.outbox.check_writable()
            pause = self._timing.check_writable_every * random.uniform(0.8, 1.2)
            self._next_writable_check = now + pause
        due = self.outbox.due_namespaces(self._polled)
        if self.outage.active:
            self.outage.polled(due)
        elif not due:
            look = self.outbox.quiet_look(self._polled)
            if look is not None:
                until = min(look.until, self._next_writable_check)
                self._quiet_look = look._replace(until=until)
        return due

    def _in_turn(self, due: Sequence[str]) -> list[str]:
        now = time.monotonic()
        with self._lock:
            ready = [
                namespace
                for namespace in due
                if namespace not in self._failures
                or self._failures[namespace][1] <= now
            ]
            return sorted(ready, key=self._served.__getitem__)

    def run(self, namespace: str, stop: threading.Event) -> bool:
        """Run one batch of ``namespace``; return whether any row got further.

        :raises OutboxError: the database failed. Rows that were claimed and not settled
            stay claimed until their claim ends, and are then applied again.
        """
        with self._lock:
            self._served[namespace] = next(self._count)
        worker = self._workers[namespace]
        claimed: list[int] = []
        try:
            report = worker.run_once(stop=stop, on_claim=claimed.append)
        except OutboxError as exc:
            if any(claimed):
                self.outage.unsettled(exc, namespace, worker.claim_ttl)
            # Perhaps only this namespace fails: the others come first next time.
            self._leave_alone(namespace)
            raise
        except Exception:
            # A mistake in the code. The worker has released its rows, or their claims
            # end by themselves. Other namespaces must not wait for it.
            self._leave_alone(namespace)
            logger.exception("a batch of namespace %s failed", namespace)
            return False
        self.outage.settled(namespace)
        # While some nodes of the cache are away, their rows say nothing of the others.
        if report.claimed > report.released or (report.claimed and worker.partly_away):
            with self._lock:
                self._failures.pop(namespace, None)
            return True
        if report.claimed:
            self._leave_alone(namespace)
        return False

    def _leave_alone(self, namespace: str) -> None:
        with self._lock:
            failures = self._failures.get(namespace, (0, 0.0))[0] + 1
            pause = self._timing.namespace_backoff.pause(failures)
            self._failures[namespace] = failures, time.monotonic() + pause

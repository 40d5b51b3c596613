"""The threads that carry from one outbox, in one process.

An outbox has a crew of its own, so that a database that hangs holds up no other's rows.
A crew is made, started and stopped once; after a fork the child makes another.
"""

from __future__ import annotations

import functools
import itertools
import random
import threading
import time
from typing import Callable, Iterable, Iterator, Sequence

from hydracache_sync.errors import OutboxError
from hydracache_sync.events import (
    Event,
    OutageBegan,
    ThreadReplaced,
    ThreadStuck,
    log_fields,
)
from hydracache_sync.pool.database_outage import DatabaseOutage
from hydracache_sync.pool.health import ThreadHealth, ThreadState
from hydracache_sync.pool.thread import PoolThread
from hydracache_sync.pool.turns import HANGING_LOOK, Turns
from hydracache_sync.printable import printable_logger
from hydracache_sync.worker.worker import OutboxWorker, PublishReport

logger = printable_logger(__name__)

#: Seconds that a namespace of which no row could be applied is left alone: the first
#: time at most, and the longest. While its cache is away each batch would only be
#: claimed and given back.
FIRST_HOLD = 0.1
LONGEST_HOLD = 2.0

#: Seconds between two looks whether the database takes writes, about: a failover that
#: leaves a pool at what was the primary is noticed within that.
CHECK_WRITABLE = 5.0


class Member:
    """One thread, and what it is at."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.thread: PoolThread | None = None
        #: Replaced as a whole, so that it is read without a lock: working or not,
        #: since when, and on which namespace.
        self.doing: tuple[bool, float, str | None] = (False, time.monotonic(), None)
        self.looking = False
        self.error: str | None = None
        #: Told to end: another thread has its place.
        self.replaced = False
        self.reported = False

    def begin(self, namespace: str | None) -> None:
        self.looking = namespace is None
        self.doing = (True, time.monotonic(), namespace)

    def rest(self) -> None:
        self.doing = (False, time.monotonic(), None)

    @property
    def alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class Crew:
    """Threads for the workers of one outbox.

    :param names: gives each thread a name.
    :param stuck_after: seconds after which a thread that does not come back counts as
        stuck.
    :param tell: is handed the events that are not a worker's.
    """

    def __init__(
        self,
        workers: Sequence[OutboxWorker],
        *,
        threads: int,
        names: Iterator[str],
        poll_interval: float,
        stuck_after: float,
        tell: Callable[[Event], None],
    ) -> None:
        self.outbox = workers[0].outbox
        self.namespaces = frozenset(worker.namespace for worker in workers)
        self._workers = {worker.namespace: worker for worker in workers}
        self._asked = tuple(self._workers)
        self._size = threads
        self._names = names
        self._stuck_after = stuck_after
        self._tell = tell
        self._turns = Turns(poll_interval)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._members: list[Member] = []
        self.outage = DatabaseOutage(repr(self.outbox), tell)
        #: When each namespace was served last, as a count.
        self._served = dict.fromkeys(self._workers, 0)
        self._rounds = itertools.count(1)
        #: Failures in a row, and until when it is left alone.
        self._held: dict[str, tuple[int, float]] = {}
        #: Namespaces in which this process has committed rows since the last look.
        self._told: set[str] = set()
        self.replaced = 0
        #: When the database is asked next whether it takes writes.
        self._next_check = 0.0

    # Threads

    def start(self) -> None:
        """Start the threads.

        :raises RuntimeError: the system gives no thread; those started are told to end.
        """
        try:
            for _ in range(self._size):
                self._hire()
        except RuntimeError:
            self.stop()
            raise

    def _hire(self) -> None:
        member = Member(next(self._names))
        run = functools.partial(self._run, member)
        member.thread = PoolThread(run, member.name)
        member.thread.start()
        with self._lock:
            self._members.append(member)

    def stop(self) -> None:
        """Tell the threads to end; does not wait for them."""
        self._stop.set()
        self._turns.end()

    def threads(self) -> list[PoolThread]:
        with self._lock:
            return [each.thread for each in self._members if each.thread is not None]

    def wake(self, namespaces: Iterable[str] = ()) -> None:
        """Have a thread look at once.

        :param namespaces: in which rows have just been committed; unknown by default.
        """
        with self._lock:
            self._told.update(self.namespaces.intersection(namespaces))
        self._turns.wake()

    def expect(self) -> None:
        self._turns.expect()

    def look_after(self) -> None:
        """Replace threads that died, report those that are stuck and replace them.

        And tell of outages that have ended, if there is no batch to tell of it.

        A stuck one may come back and then ends. So that an applier that always hangs
        does not fill the process with threads, there are never more stuck ones beside
        the crew than it is large.
        """
        for worker in self._workers.values():
            worker.end_outages()
        with self._lock:
            members = list(self._members)
        now = time.monotonic()
        for member in members:
            if self._stop.is_set():
                return
            if not member.alive:
                if not member.replaced:
                    self._replace(member, member.error or "ended without a word")
                with self._lock:
                    self._members.remove(member)
            elif self._is_stuck(member, now):
                self._report_stuck(member, now)
                surplus = sum(each.replaced and each.alive for each in members)
                if not member.replaced and surplus < self._size:
                    self._replace(member, None)
            else:
                member.reported = False

    def _replace(self, member: Member, error: str | None) -> None:
        """Start a thread in place of ``member``, which died of ``error`` or is stuck.

        :raises RuntimeError: the system gives no thread.
        """
        self._hire()
        # Before anybody is told: a filter of the log or a subscriber that raises must
        # not have it replaced once more at each look.
        member.replaced = True
        self._turns.pass_on(member)
        self.replaced += 1
        event = ThreadReplaced(None, member.name, error)
        logger.error(
            "thread %s of the pool %s: another takes its place",
            member.name,
            "is stuck" if error is None else f"died, {error}",
            extra=log_fields(event),
        )
        self._tell(event)

    def _report_stuck(self, member: Member, now: float) -> None:
        if member.reported:
            return
        member.reported = True
        _, since, namespace = member.doing
        event = ThreadStuck(namespace, member.name, now - since)
        logger.error(
            "thread %s of the pool has not come back from %s for %.0f s",
            member.name,
            "the database" if namespace is None else f"namespace {namespace}",
            event.seconds,
            extra=log_fields(event),
        )
        self._tell(event)

    def _is_stuck(self, member: Member, now: float) -> bool:
        working, since, _ = member.doing
        return working and now - since > self._stuck_after

    # Health

    def outages(self) -> list[OutageBegan]:
        found = [worker.outage for worker in self._workers.values()]
        found.append(self.outage.now)
        return [outage for outage in found if outage is not None]

    def health(self) -> list[ThreadHealth]:
        with self._lock:
            members = list(self._members)
        now = time.monotonic()
        outages = self.outages()
        return [self._health_of(member, now, outages) for member in members]

    def _health_of(
        self, member: Member, now: float, outages: Sequence[OutageBegan]
    ) -> ThreadHealth:
        working, since, namespace = member.doing
        error: str | None = None
        if not member.alive:
            state, error = ThreadState.DEAD, member.error
        elif self._is_stuck(member, now):
            state = ThreadState.STUCK
        elif working and not (member.looking or self._keeps(namespace)):
            state = ThreadState.WORKING
        elif outages:
            state = ThreadState.WAITING
            namespace, error = outages[-1].namespace, outages[-1].error
        elif working and now - since > HANGING_LOOK:
            # Nothing has failed yet: that takes until a timeout.
            state = ThreadState.WAITING
            error = f"the database has not answered for {now - since:.0f} s"
        else:
            state = ThreadState.IDLE
        return ThreadHealth(
            member.name, state, now - since, repr(self.outbox), namespace, error
        )

    def _keeps(self, namespace: str | None) -> bool:
        """Whether an outage keeps all of the rows: who carries them only tries."""
        if namespace is None:
            return False
        worker = self._workers[namespace]
        return self.outage.keeps(namespace) or (
            worker.outage is not None and not worker.partly_away
        )

    # What a thread does

    def _run(self, member: Member) -> None:
        try:
            more = False
            while not self._stop.is_set() and not member.replaced:
                # Whoever has carried something looks again at once: after a full batch
                # comes the next, and what was committed meanwhile need not wait.
                if more or self._turns.wait(member):
                    more = self._round(member, again=more)
        except BaseException as exc:
            # A greenlet was killed, or user code raised what is no Exception. The
            # worker has given the rows back; look_after() replaces the thread.
            member.error = f"{type(exc).__name__}: {exc}"
            logger.critical("thread %s of the pool ends", member.name, exc_info=exc)
        finally:
            self._turns.pass_on(member)

    def _round(self, member: Member, *, again: bool) -> bool:
        """Look, and carry a batch of each namespace that is due; tell if any was.

        :param again: the round before has carried something.
        """
        carried = False
        started = time.monotonic()
        # As begin() and rest() would do it: an idle pool does little else, on cold
        # caches, where each call shows.
        member.looking = True
        member.doing = (True, started, None)
        try:
            due = self._due(again)
            if due:
                due = self._in_turn(due)
            if not due:
                now = time.monotonic()
                member.doing = (False, now, None)
                self._turns.found_nothing(member, now - started)
                return False
            self._turns.pass_on(member)
            for namespace in due:
                if self._stop.is_set() or member.replaced:
                    return False
                member.begin(namespace)
                carried |= self._carry(namespace)
        except Exception as exc:
            # The rows that were claimed are given back, or their claims end.
            _, since, carrying = member.doing
            # How long the database was at what failed is known of a look alone.
            asked = since if carrying is None else None
            self._turns.failed(member, self.outage.failed(exc, carrying, asked))
            carried = False
        finally:
            if member.doing[0]:
                member.rest()
        return carried

    def _due(self, again: bool) -> Sequence[str]:
        """Namespaces that have rows; those that were told of need no look.

        Every other round looks at all: a process that goes on committing must not keep
        the rows of others waiting.
        """
        if self._told:
            with self._lock:
                told, self._told = self._told, set()
            if not again:
                return sorted(told)
        now = time.monotonic()
        if now >= self._next_check or self.outage.lasts:
            self.outbox.check_writable()
            self._next_check = now + CHECK_WRITABLE * random.uniform(0.8, 1.2)
        due = self.outbox.due_namespaces(self._asked)
        if self.outage.lasts:
            self.outage.looked(due)
        return due

    def _in_turn(self, due: Sequence[str]) -> list[str]:
        """Those that are not on hold, the one served longest ago first."""
        now = time.monotonic()
        with self._lock:
            ready = [
                namespace
                for namespace in due
                if namespace not in self._held or self._held[namespace][1] <= now
            ]
            return sorted(ready, key=self._served.__getitem__)

    def _carry(self, namespace: str) -> bool:
        """Carry one batch of ``namespace``; tell whether it came any further.

        :raises OutboxError: the database failed.
        """
        with self._lock:
            self._served[namespace] = next(self._rounds)
        worker = self._workers[namespace]
        before = worker.diagnostics().claimed
        try:
            report = worker.run_once(stop=self._stop)
        except OutboxError as exc:
            if worker.diagnostics().claimed > before:
                self.outage.unsettled(exc, namespace, worker.claim_ttl)
            # Also if only this namespace fails: the others come first next time.
            self._hold(namespace)
            raise
        except Exception:
            # A mistake, of an event's subscriber for instance. The rows' claims end.
            # Other namespaces must not wait for it.
            logger.exception("a batch of namespace %s failed", namespace)
            self._hold(namespace)
            return False
        self.outage.carried(namespace)
        # While some nodes of the cache are away, their rows say nothing of the others.
        if self._came_further(report) or (report.claimed and worker.partly_away):
            with self._lock:
                self._held.pop(namespace, None)
            return True
        if report.claimed:
            self._hold(namespace)
        return False

    @staticmethod
    def _came_further(report: PublishReport) -> bool:
        return report.claimed > report.released

    def _hold(self, namespace: str) -> None:
        with self._lock:
            failures = self._held.get(namespace, (0, 0.0))[0] + 1
            longest = min(LONGEST_HOLD, FIRST_HOLD * 2.0 ** min(failures - 1, 30))
            pause = random.uniform(longest / 2, longest)
            self._held[namespace] = failures, time.monotonic() + pause

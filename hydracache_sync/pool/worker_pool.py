"""Start and stop of a pool, in whichever process it is used.

Long, since each setting of a pool is explained here and nowhere else.

The running threads are kept by process id: threads do not outlive a fork, and under
uWSGI neither ``is_alive()`` nor an at-fork hook says so.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import time
from typing import Callable, Iterable, Sequence

from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.durations import duration_ms, positive_ms
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.events import Event, EventSubscriber
from hydracache_sync.fork import ProcessLock, abandon_inherited
from hydracache_sync.pool.health import PoolHealth
from hydracache_sync.pool.maintenance import Maintenance
from hydracache_sync.pool.process_exit import STOP_TIMEOUT, stop_at_exit
from hydracache_sync.pool.thread_group import ThreadGroup
from hydracache_sync.pool.timing import DEFAULT_TIMING, PoolTiming
from hydracache_sync.printable import printable_logger
from hydracache_sync.subscribers import Subscribers
from hydracache_sync.worker.process_beats import ProcessBeats
from hydracache_sync.worker.wait import KEEP_PUBLISHED
from hydracache_sync.worker.worker import OutboxWorker

logger = printable_logger(__name__)

#: Seconds between two polls of an idle pool. A row of another process is found within
#: that. Fifty polls a second take about one percent of a core, most of it for waking
#: up at all, see docs/project/performance_latency.md.
POLL_INTERVAL = 0.02

#: Seconds between two purges, about. Each process purges.
PURGE_EVERY = 60.0


class WorkerPool:
    """Applies rows in threads of this process until it is stopped.

    Each thread has connections of its own. Commits that an outbox object makes in this
    process wake the pool. After ``enqueue_in`` on a connection of yours the pool polls
    often for a short while, to find the commit. Rows that other processes commit are
    found within ``poll_interval``. The pool waits for the end of an outage of database
    or cache, however long. Each namespace with due rows gets one batch before any gets
    a second one.

    Threads are daemons and are stopped at the end of the process, with a deadline.
    In a forked child, the pool that the parent had started does not run until the child
    calls :meth:`start` or :meth:`wake`, commits through the outbox or calls
    ``enqueue_in``. Then it starts again there.

    :param workers: at most one for each namespace of an outbox.
    :param threads: for each outbox; 1 or more. More of them help where the cache or
        an applier of yours is slow.
    :param poll_interval: seconds between two polls while idle, above 0.
    :param keep_published: seconds that published rows are kept; None never deletes
        them. Not below the age of receipts that are still waited for.
    :param purge_every: seconds between two purges, about, above 0.
    :param heartbeat: seconds between two heartbeats for readers of replicas, above 0,
        of all processes that write them together; None writes none.
    :param stuck_after: seconds after which a thread that has not returned from an
        applier or the database counts as stuck; by default the longest claim TTL.
    :param kind: what ``outbox.workers()`` calls this process: "pool", as in an app, or
        "worker".
    :param caches: of this process, whose counts are told there.
    :param reads_elsewhere: returns a server that loads were seen to read, and that may
        be behind; None where none was.
    :param timing: durations that have a good default everywhere; for tests.
    """

    def __init__(
        self,
        *workers: OutboxWorker,
        threads: int = 1,
        poll_interval: float = POLL_INTERVAL,
        keep_published: float | None = KEEP_PUBLISHED,
        purge_every: float = PURGE_EVERY,
        heartbeat: float | None = None,
        stuck_after: float | None = None,
        kind: str = "pool",
        caches: Sequence[TaggedCache] = (),
        reads_elsewhere: Callable[[], str | None] = lambda: None,
        timing: PoolTiming = DEFAULT_TIMING,
    ) -> None:
        if not workers:
            raise ValueError("a pool needs at least one worker")
        for worker in workers:
            if not isinstance(worker, OutboxWorker):
                raise TypeError(
                    f"workers must be OutboxWorker, not {type(worker).__name__}"
                )
        if isinstance(threads, bool) or not isinstance(threads, int):
            raise TypeError(f"threads must be int, not {type(threads).__name__}")
        if threads < 1:
            raise ValueError(f"threads must be 1 or more, not {threads}")
        if stuck_after is None:
            stuck_after = max(worker.claim_ttl for worker in workers)
        for name, seconds in (
            ("poll_interval", poll_interval),
            ("purge_every", purge_every),
            ("stuck_after", stuck_after),
        ):
            positive_ms(name, seconds)
        if heartbeat is not None:
            positive_ms("heartbeat", heartbeat)
        if keep_published is not None:
            duration_ms("keep_published", keep_published)
        self._workers = _by_outbox(workers)
        self._threads = threads
        self._poll_interval = poll_interval
        self._keep_published = keep_published
        self._purge_every = purge_every
        self._heartbeat = heartbeat
        self._stuck_after = stuck_after
        self._timing = timing
        self._processes = [
            ProcessBeats(
                each,
                kind=kind,
                every=timing.beat_every,
                caches=caches,
                reads_elsewhere=reads_elsewhere,
            )
            for each in self._workers
        ]
        self._lock = ProcessLock()
        self._run: _Run | None = None
        #: Stopped, and not ended within the time that stop() was given.
        self._ending: list[_Run] = []
        self._unsubscribe: list[Callable[[], None]] = []
        self._subscribers: Subscribers[Event] = Subscribers("in a pool")
        #: Whether the pool subscribes to its workers; not before it has a subscriber.
        self._is_subscribed = False

    def __repr__(self) -> str:
        namespaces = [each.namespace for workers in self._workers for each in workers]
        return f"<WorkerPool of {', '.join(namespaces)}>"

    def start(self) -> WorkerPool:
        """Start the threads, unless they run; connects nothing yet. Returns the pool.

        :raises ConfigurationError: uWSGI runs without threads: they would not run.
        :raises RuntimeError: the system gives no thread.
        """
        _require_threads()
        with self._lock.mine():
            if self._run is None or self._run.pid != os.getpid():
                self._start()
        return self

    def _start(self) -> None:
        """Start the threads in this process; the caller holds the lock."""
        # uWSGI forks without running Python's at-fork hooks.
        abandon_inherited()
        run = _Run(self)
        run.start()
        self._run = run
        self._ending = [each for each in self._ending if each.pid == run.pid]
        stop_at_exit(self)
        if not self._unsubscribe:  # else inherited from the parent
            for place, workers in enumerate(self._workers):
                outbox = workers[0].outbox
                self._unsubscribe += [
                    self._processes[place].listen(),
                    outbox.subscribe(functools.partial(self._committed, place)),
                    outbox.subscribe_enqueued(functools.partial(self._enqueued, place)),
                ]
        logger.info(
            "pool started in process %d: %s, threads: %d",
            run.pid,
            self,
            self._threads * len(self._workers),
        )

    def stop(self, timeout: float = STOP_TIMEOUT) -> bool:
        """Finish the batches in flight and end the threads.

        Rows that are claimed and that the applier has not got yet are released. The
        pool can be started again.

        :param timeout: seconds to wait; 0 only tells the threads to end.
        :return: whether all threads have ended. If not, they end after their batch, or
            their claims end; call again to wait on. Called by a thread of the pool, in
            a subscriber for instance, it does not wait for that one and returns False.
        """
        duration_ms("timeout", timeout)
        deadline = time.monotonic() + timeout
        with self._lock.mine():
            # First: a signal's handler may raise at any line, and the next call must
            # still know what has to end.
            if self._run is not None:
                self._ending.append(self._run)
                self._run = None
            for unsubscribe in self._unsubscribe:
                unsubscribe()
            self._unsubscribe.clear()
            ending = [each for each in self._ending if each.pid == os.getpid()]
        for each in ending:
            each.stop()
        left = [each for each in ending if not each.ended(deadline)]
        with self._lock.mine():
            self._ending = left
        if ending and (not left or timeout > 0):
            logger.info("pool stopped: %s", "finished" if not left else "not yet ended")
        return not left

    def wake(self) -> None:
        """Have the pool poll at once: you know that rows were committed.

        Starts the pool again in a child of a process that had started it; otherwise it
        does nothing to a pool that was not started. For one outbox of several,
        ``outbox.announce_commit`` does the same.
        """
        run = self._running_here()
        if run is not None:
            for group in run.groups:
                group.wake()

    def health(self) -> PoolHealth:
        """Return the state of the threads. Asks no database; for a health check."""
        run = self._run
        if run is None or run.pid != os.getpid():
            return PoolHealth(False, os.getpid())
        return PoolHealth(
            True,
            run.pid,
            tuple(each for group in run.groups for each in group.health()),
            tuple(each for group in run.groups for each in group.outages()),
            sum(group.replaced for group in run.groups),
        )

    def subscribe(self, callback: EventSubscriber) -> Callable[[], None]:
        """Have ``callback`` called with each event of the pool and of its workers.

        As :meth:`OutboxWorker.subscribe`.
        """
        with self._lock.mine():
            if not self._is_subscribed:
                self._is_subscribed = True
                for worker in itertools.chain.from_iterable(self._workers):
                    worker.subscribe(self._subscribers.tell)
        return self._subscribers.add(callback)

    def __enter__(self) -> WorkerPool:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Called by an outbox, in the thread of a producer

    def _committed(self, place: int, namespaces: frozenset[str]) -> None:
        run = self._running_here()
        if run is not None and not namespaces.isdisjoint(run.groups[place].namespaces):
            run.groups[place].wake(namespaces)

    def _enqueued(self, place: int, namespaces: frozenset[str]) -> None:
        run = self._running_here()
        if run is not None and not namespaces.isdisjoint(run.groups[place].namespaces):
            run.groups[place].poll_soon()

    def _running_here(self) -> _Run | None:
        """The threads of this process; started again if only the parent had some."""
        run = self._run
        if run is None or run.pid == os.getpid():
            return run
        self.start()
        return self._run


def _require_threads() -> None:
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None and not getattr(uwsgi, "has_threads", 1):
        raise ConfigurationError(
            "uWSGI runs this app without threads, a pool would stand still between"
            " requests: start uWSGI with --enable-threads, or run `hydracache drain` by"
            " cron instead"
        )


class _Run:
    """The threads of a pool between a start and a stop, in the process ``pid``."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pid = os.getpid()
        names = (f"hydracache-worker-{number}" for number in itertools.count(1))
        self.groups = [
            ThreadGroup(
                workers,
                threads=pool._threads,
                names=names,
                poll_interval=pool._poll_interval,
                stuck_after=pool._stuck_after,
                emit=pool._subscribers.tell,
                timing=pool._timing,
            )
            for workers in pool._workers
        ]
        self._maintenance = Maintenance(
            self.groups,
            keep_published=pool._keep_published,
            purge_every=pool._purge_every,
            heartbeat=pool._heartbeat,
            watermarks=[
                each for some in pool._workers for each in some if each.watermark
            ],
            watermark_every=pool._timing.watermark_every,
            processes=pool._processes,
            beat_every=pool._timing.beat_every,
            supervise_every=pool._timing.supervise_every,
            emit=pool._subscribers.tell,
        )

    def start(self) -> None:
        try:
            for group in self.groups:
                group.start()
            self._maintenance.start()
        except RuntimeError:
            self.stop()
            raise

    def stop(self) -> None:
        self._maintenance.stop()
        for group in self.groups:
            group.stop()

    def ended(self, deadline: float) -> bool:
        """Wait until the deadline for all threads to end; return whether they have."""
        threads = [thread for group in self.groups for thread in group.threads()]
        threads.append(self._maintenance.thread)
        # A list: each is waited for, also after one that has not ended.
        return all([thread.has_ended(deadline) for thread in threads])


def _by_outbox(workers: Iterable[OutboxWorker]) -> list[list[OutboxWorker]]:
    found: dict[int, list[OutboxWorker]] = {}
    for worker in workers:
        others = found.setdefault(id(worker.outbox), [])
        if any(each.namespace == worker.namespace for each in others):
            raise ValueError(
                f"two workers for namespace {worker.namespace!r} of one outbox: each"
                " would apply only some of its rows; use threads= for more threads"
            )
        others.append(worker)
    return list(found.values())

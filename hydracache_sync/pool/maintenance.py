"""The maintenance of a pool, in a thread beside those that apply rows.

It supervises their threads and deletes rows that were published long ago. It writes the
heartbeat for readers of replicas, the watermarks for caches with a bound, and the beat
of this process for operators. It has its own thread, so that a pool under load purges
too, and a purge delays no row.
"""

from __future__ import annotations

import math
import random
import threading
import time
import traceback
from collections import deque
from typing import Callable, Sequence

from hydracache_sync.errors import OutboxError
from hydracache_sync.events import Event, Purged
from hydracache_sync.outage import LoggedOutage
from hydracache_sync.pool.thread import PoolThread
from hydracache_sync.pool.thread_group import ThreadGroup
from hydracache_sync.pool.timing import DEFAULT_TIMING
from hydracache_sync.printable import printable_logger
from hydracache_sync.worker.process_beats import ProcessBeats
from hydracache_sync.worker.worker import OutboxWorker

logger = printable_logger(__name__)

#: Seconds that the last word of a process waits for the batches in flight.
LAST_BATCH = 1.0

#: Rows that one statement deletes. On SQLite, which has one writer at a time, producers
#: wait for it: a few milliseconds.
PURGE_BATCH = 500

#: A purge pauses this many times as long as its statement took, and at least so many
#: seconds: others can write for two thirds of the time or more.
PURGE_PAUSE = 2.0
SHORTEST_PURGE_PAUSE = 0.005


class Maintenance:
    """Supervises the threads of ``groups``, purges and beats, until it is stopped.

    :param keep_published: seconds; None purges nothing.
    :param purge_every: about the seconds between two purges.
    :param heartbeat: seconds between two heartbeats of all who write them; None writes
        none.
    :param watermarks: workers whose watermark is stored every ``watermark_every``
        seconds.
    :param processes: for each of ``groups`` what says every ``beat_every`` seconds that
        this process carries its rows.
    :param supervise_every: seconds between two checks of the threads.
    :param emit: called with each event.
    :param clock: seconds that never go back; replaced in tests.
    """

    def __init__(
        self,
        groups: Sequence[ThreadGroup],
        *,
        keep_published: float | None,
        purge_every: float,
        heartbeat: float | None = None,
        watermarks: Sequence[OutboxWorker] = (),
        watermark_every: float = DEFAULT_TIMING.watermark_every,
        processes: Sequence[ProcessBeats] = (),
        beat_every: float = DEFAULT_TIMING.beat_every,
        emit: Callable[[Event], None],
        supervise_every: float = DEFAULT_TIMING.supervise_every,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._groups = groups
        self._keep_published = keep_published
        self._purge_every = purge_every
        self._heartbeat = heartbeat
        self._beating = [
            (group, LoggedOutage(logger, f"writing the heartbeat of {group.outbox!r}"))
            for group in groups
        ]
        self._watermarks = [
            (each, LoggedOutage(logger, f"the watermark of {each.namespace}"))
            for each in watermarks
        ]
        self._watermark_every = watermark_every
        self._processes = [
            (
                group,
                each,
                LoggedOutage(logger, f"noting this process in {group.outbox!r}"),
            )
            for group, each in zip(groups, processes)
        ]
        self._beat_every = beat_every
        self._supervise_every = supervise_every
        self._emit = emit
        self._clock = clock
        self._stop = threading.Event()
        self.thread = PoolThread(self._run, "hydracache-maintenance")

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        self._run_until_stopped()
        self._say_it_stopped()

    def _run_until_stopped(self) -> None:
        while not self._stop.is_set():
            try:
                self._maintain()
            except BaseException as exc:
                # User code has raised what is no Exception: a subscriber to the event
                # of a purge, for instance. Nothing supervises this thread, so it goes
                # on, also if the log raised: a filter may require a web request. It
                # claims no row, and the purge only deletes published ones.
                try:
                    logger.critical("the pool's maintenance restarts", exc_info=exc)
                except Exception:
                    traceback.print_exc()
                self._stop.wait(self._supervise_every)

    def _maintain(self) -> None:
        # Processes that were started together must not purge together.
        next_purge = self._clock() + random.uniform(0.0, self._purge_every)
        next_check = self._clock() + self._supervise_every
        next_beat = math.inf if self._heartbeat is None else self._clock()
        next_mark = self._clock() if self._watermarks else math.inf
        # Not at once: by then a database that is away has been told of by the poll.
        next_word = self._clock() + self._supervise_every
        if not self._processes:
            next_word = math.inf
        purges: deque[Purge] = deque()
        pause = 0.0
        while not self._stop.wait(pause):
            now = self._clock()
            if now >= next_check:
                next_check = now + self._supervise_every
                self._supervise()
            if now >= next_beat:
                assert self._heartbeat is not None
                next_beat = now + self._heartbeat
                self._beat(self._heartbeat)
            if now >= next_mark:
                next_mark = now + self._watermark_every
                self._store_watermarks()
            if now >= next_word:
                next_word = now + self._beat_every
                self._say_who_carries()
            due = self._keep_published is not None and now >= next_purge
            if due and not purges:
                next_purge = now + self._purge_every * random.uniform(0.9, 1.1)
                purges = deque(
                    Purge(group, namespace, now)
                    for group in self._groups
                    for namespace in sorted(group.namespaces)
                )
            soonest = min(next_check, next_beat, next_mark, next_word)
            pause = max(0.0, soonest - self._clock())
            if purges:
                pause = min(pause, self.purge_batch(purges))

    def _supervise(self) -> None:
        for group in self._groups:
            try:
                group.supervise()
                group.outbox.close_idle()
            except Exception:
                # The system gives no thread, perhaps: tried again at the next check.
                # The rows of a thread that died are due again when their claims end.
                logger.exception("a thread of the pool could not be replaced")

    def _beat(self, interval: float) -> None:
        for group, beating in self._beating:
            try:
                # Of several processes one writes: half, because they are not in step.
                group.outbox.write_heartbeat(every=interval / 2)
            except Exception as exc:
                # Readers of replicas store less until the next one.
                beating.begin(exc)
            else:
                beating.end()

    def _store_watermarks(self) -> None:
        for worker, computing in self._watermarks:
            try:
                worker.store_watermark()
            except Exception as exc:
                # Readers load what is older than their bound, until the next one.
                computing.begin(exc)
            else:
                computing.end()

    def _say_who_carries(self) -> None:
        for group, process, saying in self._processes:
            try:
                process.write()
            except Exception as exc:
                # Rows are carried all the same. An outage is logged already.
                if group.outage.current is None:
                    saying.begin(exc)
            else:
                saying.end()

    def _say_it_stopped(self) -> None:
        """With what the last batches have carried, if they end soon."""
        deadline = time.monotonic() + LAST_BATCH
        for group, process, _ in self._processes:
            if group.outage.current is not None:
                continue  # it counts as late in a while
            for thread in group.threads():
                thread.has_ended(deadline)
            try:
                process.write_stopped()
            except Exception as exc:
                logger.debug("that this process stops is not said: %s", exc)

    def purge_batch(self, purges: deque[Purge]) -> float:
        """Delete a few rows for the first of ``purges``; return the seconds to pause.

        It is put at the end if there is more to delete.
        """
        assert self._keep_published is not None
        purge = purges.popleft()
        started = self._clock()
        try:
            deleted = purge.group.outbox.purge_published(
                purge.namespace, older_than=self._keep_published, limit=PURGE_BATCH
            )
        except Exception as exc:
            # What is left is purged the next time. An outage is logged already.
            if purge.group.outage.current is None:
                logger.warning(
                    "old rows of namespace %s were not purged: %s",
                    purge.namespace,
                    exc,
                    exc_info=None if isinstance(exc, OutboxError) else exc,
                )
            return SHORTEST_PURGE_PAUSE
        purge.rows += deleted
        purge.quickest = min(purge.quickest, self._clock() - started)
        if deleted >= PURGE_BATCH:
            purges.append(purge)
        elif purge.rows:
            seconds = self._clock() - purge.started
            logger.debug("purged %d rows of namespace %s", purge.rows, purge.namespace)
            self._emit(Purged(purge.namespace, purge.rows, seconds))
        return max(SHORTEST_PURGE_PAUSE, PURGE_PAUSE * purge.quickest)


class Purge:
    """How far the purge of one namespace has come.

    :ivar quickest: seconds that the quickest statement took. The others did as much
        work and waited for writers, under load for most of their time; to pause for
        that as well would let the table grow.
    """

    def __init__(self, group: ThreadGroup, namespace: str, started: float) -> None:
        self.group = group
        self.namespace = namespace
        self.rows = 0
        self.quickest = float("inf")
        self.started = started

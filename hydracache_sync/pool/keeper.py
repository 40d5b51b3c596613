"""The housekeeping of a pool: a thread beside those that carry.

It replaces threads that died and deletes rows that were published long ago. By itself,
so that a pool under load purges too, and a purge holds up no row.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import deque
from typing import Callable, Sequence

from hydracache_sync.errors import OutboxError
from hydracache_sync.events import Event, Purged
from hydracache_sync.pool.crew import Crew
from hydracache_sync.pool.thread import PoolThread
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Seconds between two looks at the threads.
LOOK_INTERVAL = 1.0

#: Rows that one statement deletes. Producers wait for it on SQLite, which has one
#: writer at a time: a few milliseconds.
PURGE_BITE = 500

#: Times as long as a bite takes that the purge pauses after it, and the least pause in
#: seconds: others write meanwhile, for two thirds of the time or more.
PURGE_PAUSE = 2.0
SHORTEST_PURGE_PAUSE = 0.005


class Keeper:
    """Looks after ``crews`` until it is stopped.

    :param keep_published: seconds; None purges nothing.
    :param purge_every: seconds between two purges.
    """

    def __init__(
        self,
        crews: Sequence[Crew],
        *,
        keep_published: float | None,
        purge_every: float,
        tell: Callable[[Event], None],
    ) -> None:
        self._crews = crews
        self._keep_published = keep_published
        self._purge_every = purge_every
        self._tell = tell
        self._stop = threading.Event()
        self.thread = PoolThread(self._run, "hydracache-keeper")

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._keep()
            except BaseException as exc:
                # User code has raised what is no Exception, a subscriber that hears of
                # a purge for instance. Nobody looks after the one who looks after the
                # others: it begins anew. Also if it was the log that raised: a filter
                # that wants a request, for instance.
                try:
                    logger.critical("the keeper of the pool begins anew", exc_info=exc)
                except Exception:
                    traceback.print_exc()
                self._stop.wait(LOOK_INTERVAL)

    def _keep(self) -> None:
        # Processes that were started together must not purge together.
        next_purge = time.monotonic() + random.uniform(0.0, self._purge_every)
        next_look = time.monotonic() + LOOK_INTERVAL
        purges: deque[_Purge] = deque()
        pause = 0.0
        while not self._stop.wait(pause):
            now = time.monotonic()
            if now >= next_look:
                next_look = now + LOOK_INTERVAL
                self._look_after()
            due = self._keep_published is not None and now >= next_purge
            if due and not purges:
                next_purge = now + self._purge_every * random.uniform(0.9, 1.1)
                purges = deque(
                    _Purge(crew, namespace)
                    for crew in self._crews
                    for namespace in sorted(crew.namespaces)
                )
            pause = max(0.0, next_look - time.monotonic())
            if purges:
                pause = min(pause, self._bite(purges))

    def _look_after(self) -> None:
        for crew in self._crews:
            try:
                crew.look_after()
                crew.outbox.close_idle()
            except Exception:
                # No thread to be had, perhaps: tried again at the next look.
                logger.exception("a thread of the pool could not be replaced")

    def _bite(self, purges: deque[_Purge]) -> float:
        """Delete a few rows of the next namespace; return the seconds to pause."""
        assert self._keep_published is not None
        purge = purges.popleft()
        started = time.monotonic()
        try:
            deleted = purge.crew.outbox.purge_published(
                purge.namespace, older_than=self._keep_published, limit=PURGE_BITE
            )
        except Exception as exc:
            # What is left is purged the next time. An outage has been told already.
            if purge.crew.outage.now is None:
                logger.warning(
                    "old rows of namespace %s were not purged: %s",
                    purge.namespace,
                    exc,
                    exc_info=None if isinstance(exc, OutboxError) else exc,
                )
            return SHORTEST_PURGE_PAUSE
        purge.rows += deleted
        purge.bite = min(purge.bite, time.monotonic() - started)
        if deleted >= PURGE_BITE:
            purges.append(purge)
        elif purge.rows:
            seconds = time.monotonic() - purge.started
            logger.debug("purged %d rows of namespace %s", purge.rows, purge.namespace)
            self._tell(Purged(purge.namespace, purge.rows, seconds))
        return max(SHORTEST_PURGE_PAUSE, PURGE_PAUSE * purge.bite)


class _Purge:
    """How far the purge of one namespace has come.

    :ivar bite: seconds that the quickest took. The others took as long and had to wait
        for those who write, under a flood for most of it; to pause for that as well
        would let the table grow.
    """

    def __init__(self, crew: Crew, namespace: str) -> None:
        self.crew = crew
        self.namespace = namespace
        self.rows = 0
        self.bite = float("inf")
        self.started = time.monotonic()

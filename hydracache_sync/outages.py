"""Which caches of a namespace are away, and how long the rows for them wait.

An outage belongs to one node, or to the whole cache where the applier names none. It
ends when that node acknowledges something, and not because it was not needed. Rows that
wait for a node are looked at often enough to be applied within seconds of its return,
and seldom enough to stay out of the way of the rows for the others.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Callable, Iterable, Mapping, Optional, Sequence

from hydracache_sync.backoff import full_jitter
from hydracache_sync.events import Event, OutageBegan, OutageEnded, log_fields
from hydracache_sync.process_lock import ProcessLock

#: A node's name; None for a cache that has none.
NodeName = Optional[str]

#: Seconds: the longest wait of rows whose node is away, so that they are applied within
#: seconds of its return; no attempt is counted meanwhile.
MAX_OUTAGE_BACKOFF = 5.0

#: Seconds: the least wait that keeps them out of the way of others.
LEAST_WAIT = 0.1

#: Rows of one node that is away, looked at in a second at most. Each look costs the
#: database a claim and a release; where so many wait, they wait longer.
LOOKS_PER_SECOND = 2500

#: Seconds: the longest that many rows make each other wait.
LONGEST_WAIT = 60.0

#: Seconds of batches without any progress after which the rows for nodes that are away
#: come round again, and a drain has nothing more to do.
FRUITLESS = 1.0


class CacheOutages:
    """The outages that one worker sees. Safe for threads.

    :param logger: gets a WARNING when one begins and an INFO when it ends.
    :param backoff: seconds, the first wait of a row at most.
    :param clock: seconds that never go back; replaced in tests.
    """

    def __init__(
        self,
        namespace: str,
        logger: logging.Logger,
        backoff: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._namespace = namespace
        self._logger = logger
        self._backoff = backoff
        self._clock = clock
        self._lock = ProcessLock()
        self._outages: dict[NodeName, _Outage] = {}
        self._fruitless_since: float | None = None

    @property
    def now(self) -> list[OutageBegan]:
        """How those that last began, oldest first."""
        with self._lock:
            return [outage.began for outage in self._outages.values()]

    def leaves_some(self, nodes: Sequence[str]) -> bool:
        """Whether some of ``nodes``, which are all, are not away."""
        with self._lock:
            return None not in self._outages and not self._outages.keys() >= set(nodes)

    def note(
        self,
        failed: Mapping[NodeName, str],
        answered: Callable[[], Iterable[Sequence[NodeName]]],
    ) -> list[Event]:
        """Take in one batch; log and return what began and what ended.

        :param failed: nodes that did not answer, and what their first error said.
        :param answered: gives the nodes that have acknowledged each row, None among
            them if the applier names none; called only while there are outages.
        """
        with self._lock:
            waiting = bool(self._outages)
        proofs = [set(nodes) for nodes in answered()] if waiting else []
        began: list[OutageBegan] = []
        ended: list[OutageEnded] = []
        now = self._clock()
        with self._lock:
            for node in list(self._outages):
                if node in failed:
                    continue
                if any(None in (node, *nodes) or node in nodes for nodes in proofs):
                    seconds = now - self._outages.pop(node).since
                    ended.append(OutageEnded(self._namespace, "cache", seconds, node))
            for node, error in failed.items():
                outage = self._outages.get(node)
                if outage is None:
                    event = OutageBegan(self._namespace, "cache", error, node)
                    outage = self._outages[node] = _Outage(event, now)
                    began.append(event)
                outage.batches += 1
        for each in ended:
            self._logger.info(
                "the cache of namespace %s is back%s after %.1f s",
                self._namespace,
                _on(each.node),
                each.seconds,
                extra=log_fields(each),
            )
        for event in began:
            self._logger.warning(
                "the cache of namespace %s is away%s, rows wait: %s",
                self._namespace,
                _on(event.node),
                event.error,
                extra=log_fields(event),
            )
        return [*ended, *began]

    def delay(self, node: NodeName, rows: int, *, alone: bool) -> float:
        """How long ``rows`` that just failed for ``node`` wait, in seconds.

        :param alone: nothing else can go on, so that nobody is in their way.
        """
        with self._lock:
            outage = self._outages.get(node)
            if outage is None:
                # Another thread of the worker has just seen its end.
                return 0.0
            if alone:
                return full_jitter(self._backoff, MAX_OUTAGE_BACKOFF, outage.batches)
            doublings = min(outage.batches - 1, 30)
            longest = min(MAX_OUTAGE_BACKOFF, self._backoff * 2.0**doublings)
            longest = outage.window(rows, max(longest, LEAST_WAIT), self._clock())
        return random.uniform(longest / 2, longest)

    def worth_another(self, *, claimed: int, released: int, partly: bool) -> bool:
        """Whether a drain should take another batch after this one.

        :param partly: some nodes are not away.
        """
        now = self._clock()
        with self._lock:
            if claimed > released:
                self._fruitless_since = None
                return True
            if not claimed or not partly:
                # Nothing was due, or nothing can be done: the cache is away.
                self._fruitless_since = None
                return False
            if self._fruitless_since is None:
                self._fruitless_since = now
            if now - self._fruitless_since < FRUITLESS:
                return True
            self._fruitless_since = None
            return False


class _Outage:
    """One outage. Its user holds the lock.

    :ivar batches: that met it.
    """

    def __init__(self, began: OutageBegan, since: float) -> None:
        self.began = began
        self.since = since
        self.batches = 0
        # Rows that were looked at since then, and the time between two looks at one.
        self._seen = 0
        self._seen_since = since
        self._window = 0.0

    def window(self, rows: int, least: float, now: float) -> float:
        """Count ``rows``; return the seconds in which each that waits is seen once."""
        if now - self._seen_since >= self._window:
            # So many waited, since each was looked at about once.
            crowd = self._seen / LOOKS_PER_SECOND
            self._window = min(max(least, crowd), LONGEST_WAIT)
            self._seen, self._seen_since = 0, now
        self._seen += rows
        return max(least, self._window)


def _on(node: NodeName) -> str:
    return "" if node is None else f" on node {node}"

"""Which nodes of a namespace's cache are away, and how long the rows for them wait.

An outage belongs to one node, or to the whole cache where the applier names no nodes. A
node is back when it acknowledges something; that it was not needed proves nothing. Rows
that wait for a node are claimed seldom enough to stay out of the way of the rows for
the others. When the node is back they are requeued, see ``requeues``. Two things prove
that it is back: an acknowledgement here, or a row that had waited for it and was
applied now. The second counts because another worker may have deferred the other rows.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from typing import Callable, Iterable, Mapping, Optional, Sequence

from hydracache_sync.backoff import FULL_JITTER, Backoff
from hydracache_sync.events import Event, OutageBegan, OutageEnded, log_fields
from hydracache_sync.fork import ProcessLock
from hydracache_sync.outage import Outage
from hydracache_sync.outbox.row import kept_node
from hydracache_sync.worker.requeues import Requeues

#: A node's name; None for a cache that has none.
NodeName = Optional[str]

#: Seconds: the longest wait of rows whose node is away, while they are few. No attempt
#: is counted meanwhile.
MAX_OUTAGE_BACKOFF = 5.0

#: Seconds: the least wait that keeps them out of the way of other rows.
LEAST_WAIT = 0.1

#: Seconds of batches without any progress after which a drain ends: the rows for nodes
#: that are away come round again.
MAX_FRUITLESS = 1.0


@dataclass(frozen=True)
class OutageTiming:
    """How the outages of a cache's nodes are judged; for tests, and rarely others.

    :ivar calm: seconds that a node must have answered for until its outage is over.
    :ivar retries_per_second: of the rows that wait for one node. Each retry costs the
        database a claim and a release; where more rows wait, each waits longer.
    :ivar longest_wait: seconds, the bound of that.
    """

    calm: float = 1.0
    retries_per_second: int = 2500
    longest_wait: float = 60.0


#: What a worker uses unless it is given another.
DEFAULT_OUTAGE_TIMING = OutageTiming()


class CacheOutages:
    """The outages that one worker sees. Safe for threads and forks.

    :param logger: gets a WARNING when one begins and an INFO when it ends.
    :param backoff: seconds, the first wait of a row at most.
    :param clock: seconds that never go back; replaced in tests.

    :ivar requeues: of rows that waited for a node that is back.
    """

    def __init__(
        self,
        namespace: str,
        logger: logging.Logger,
        backoff: float,
        *,
        timing: OutageTiming = DEFAULT_OUTAGE_TIMING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._namespace = namespace
        self._logger = logger
        self._backoff = Backoff(backoff, MAX_OUTAGE_BACKOFF, FULL_JITTER)
        self._timing = timing
        self._clock = clock
        self._lock = ProcessLock()
        self._outages: dict[NodeName, _NodeOutage] = {}
        self._fruitless_since: float | None = None
        self.requeues = Requeues(clock)

    @property
    def current(self) -> list[OutageBegan]:
        """How the outages of nodes that are away began, oldest first."""
        with self._lock.mine():
            return [self._outages[node].began for node in self._away()]

    def leaves_some(self, nodes: Sequence[str]) -> bool:
        """Whether some of ``nodes``, which are all, are not away."""
        with self._lock.mine():
            away = self._away()
            return None not in away and not away.keys() >= set(nodes)

    def _away(self) -> dict[NodeName, None]:
        """Nodes that have not answered since they failed. The caller holds the lock."""
        return {
            node: None for node, each in self._outages.items() if each.outage.failing
        }

    def note(
        self,
        failed: Mapping[NodeName, str],
        answered: Callable[[], Iterable[Sequence[NodeName]]],
    ) -> list[Event]:
        """Note the outcome of one batch; log and return what began and what ended.

        :param failed: nodes that did not answer, and the first error of each.
        :param answered: gives the nodes that have acknowledged each row, None among
            them if the applier names none; called only while there are outages.
        """
        # Read without the lock: most of the time there are none. One that begins at
        # this moment is noted by the batch that it begins with.
        waiting = bool(self._outages)
        if not waiting and not failed:
            return []
        proofs = [set(nodes) for nodes in answered()] if waiting else []
        with self._lock.mine():
            ended = self._note_answers(proofs, failed)
            began = self._note_failures(failed)
        for each in ended:
            # As loud as its begin: a log that has only that says that it lasts.
            self._logger.warning(
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

    def _note_answers(
        self, proofs: Sequence[set[NodeName]], failed: Mapping[NodeName, str]
    ) -> list[OutageEnded]:
        """Note which nodes are back; return what has ended. The lock is held."""
        ended: list[OutageEnded] = []
        for node, each in list(self._outages.items()):
            if node in failed:
                continue
            if each.outage.failing and any(
                node is None or None in nodes or node in nodes for nodes in proofs
            ):
                each.outage.answered()
                each.batches = 0
                if node is not None:
                    self.requeues.plan(kept_node(node))
            seconds = each.outage.end()
            if seconds is not None:
                del self._outages[node]
                ended.append(OutageEnded(self._namespace, "cache", seconds, node))
        return ended

    def _note_failures(self, failed: Mapping[NodeName, str]) -> list[OutageBegan]:
        """Note which nodes failed; return what begins with it. The lock is held."""
        began: list[OutageBegan] = []
        for node, error in failed.items():
            each = self._outages.get(node)
            if each is None:
                event = OutageBegan(self._namespace, "cache", error, node)
                outage = Outage(self._timing.calm, clock=self._clock)
                each = _NodeOutage(event, outage, self._timing, self._clock())
                self._outages[node] = each
                began.append(event)
            if not each.batches and node is not None:
                self.requeues.cancel(kept_node(node))
            each.outage.failed()
            each.batches += 1
        return began

    def expire(self) -> list[Event]:
        """Log and return the ends of outages where no batch has noted them."""
        with self._lock.mine():
            if len(self._away()) == len(self._outages):
                return []
        return self.note({}, tuple)

    def note_delayed_success(self, nodes: Iterable[str]) -> None:
        """Note the nodes that rows had waited for which have been applied now.

        Other rows may wait for the same nodes, put off by a worker that has not seen
        them return, or that has ended.

        :param nodes: as rows keep them.
        """
        waited = set(nodes)
        if waited:
            with self._lock.mine():
                away = {kept_node(node) for node in self._away() if node is not None}
            self.requeues.add(waited - away)

    def delay(self, node: NodeName, rows: int, *, alone: bool) -> float:
        """Return the seconds that ``rows``, which just failed for ``node``, wait.

        :param alone: no other rows can be applied, so these are in no one's way.
        """
        with self._lock.mine():
            each = self._outages.get(node)
            if each is None:
                # Another thread of the worker has just seen its end.
                return 0.0
            if alone:
                return self._backoff.pause(each.batches)
            least = max(self._backoff.bound(each.batches), LEAST_WAIT)
            longest = each.spread(rows, least, self._clock())
        # However many wait, a part of them comes back soon, and the worker that applies
        # one learns that the node is back.
        return random.uniform(min(longest, MAX_OUTAGE_BACKOFF) / 2, longest)

    def worth_another(self, *, claimed: int, released: int, partly: bool) -> bool:
        """Whether a drain should run another batch after this one.

        :param partly: some nodes are not away.
        """
        now = self._clock()
        with self._lock.mine():
            if claimed > released:
                self._fruitless_since = None
                return True
            if not claimed or not partly:
                # No row was due, or none can be applied: the cache is away.
                self._fruitless_since = None
                return False
            if self._fruitless_since is None:
                self._fruitless_since = now
            if now - self._fruitless_since < MAX_FRUITLESS:
                return True
            self._fruitless_since = None
            return False


class _NodeOutage:
    """The outage of one node. The caller holds the lock.

    :ivar batches: that failed since the node was last back.
    """

    def __init__(
        self, began: OutageBegan, outage: Outage, timing: OutageTiming, now: float
    ) -> None:
        self.began = began
        self.outage = outage
        self.batches = 0
        self._timing = timing
        # Rows that were retried since then, and the time between two retries of one.
        self._retried = 0
        self._retried_since = now
        self._between = 0.0

    def spread(self, rows: int, least: float, now: float) -> float:
        """Count ``rows``; return the seconds within which each waiting row is retried.

        It grows with their number, so that the retries of all cost the database no more
        than ``retries_per_second``.
        """
        if now - self._retried_since >= self._between:
            # So many rows wait, since each was retried about once.
            seconds = self._retried / self._timing.retries_per_second
            self._between = min(max(least, seconds), self._timing.longest_wait)
            self._retried, self._retried_since = 0, now
        self._retried += rows
        return max(least, self._between)


def _on(node: NodeName) -> str:
    return "" if node is None else f" on node {node}"

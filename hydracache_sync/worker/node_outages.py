"""Which caches of a namespace are away, and how long the rows for them wait.

An outage belongs to one node, or to the whole cache where the applier names none. The
node is back when it acknowledges something, and not because it was not needed; the
outage has ended when it has been back for a while, so that one that comes and goes is
one outage. Rows that wait for a node are looked at seldom enough to stay out of the way
of the rows for the others. When it is back they are recalled: made due, wherever their
wait would have ended. What tells of its return is what it acknowledges here, or a row
that had waited for it and was carried: another worker may have put off the others.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Callable, Iterable, Mapping, Optional, Sequence, TypeVar

from hydracache_sync.backoff import FULL_JITTER, Backoff
from hydracache_sync.events import Event, OutageBegan, OutageEnded, log_fields
from hydracache_sync.fork import ProcessLock
from hydracache_sync.outbox.row import kept_node

#: A node's name; None for a cache that has none.
NodeName = Optional[str]

T = TypeVar("T")

#: Seconds: the longest wait of rows whose node is away while they are few; no attempt
#: is counted meanwhile.
MAX_OUTAGE_BACKOFF = 5.0

#: Seconds: the least wait that keeps them out of the way of others.
LEAST_WAIT = 0.1

#: Rows of one node that is away, looked at in a second at most. Each look costs the
#: database a claim and a release; where so many wait, they wait longer.
LOOKS_PER_SECOND = 2500

#: Seconds: the longest that many rows make each other wait.
LONGEST_WAIT = 60.0

#: Seconds: the longest wait of a scout, a row that is to tell of the node's return
#: while the others wait for longer; and the time between two of them.
SCOUT_WAIT = 2.5
SCOUT_EVERY = 1.0

#: Seconds between two recalls for one node. One that answers by turns must not have its
#: rows looked at by turns as well.
RECALL_EVERY = 1.0

#: Seconds that a node has to be back for its outage to have ended.
CALM = 1.0

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
        self._backoff = Backoff(backoff, MAX_OUTAGE_BACKOFF, FULL_JITTER)
        self._clock = clock
        self._lock = ProcessLock()
        self._outages: dict[NodeName, _Outage] = {}
        #: Rows that wait for a node that is back, by its name as rows keep it; and when
        #: the last such recall began, or is to. None for a cache without names: what
        #: else it acknowledges says little of these rows, and none waits for long.
        self._recalls: dict[str, Recall] = {}
        self._recalled_at: dict[str, float] = {}
        self._fruitless_since: float | None = None

    @property
    def now(self) -> list[OutageBegan]:
        """How those of nodes that are away began, oldest first."""
        with self._lock:
            return [self._outages[node].began for node in self._away()]

    def leaves_some(self, nodes: Sequence[str]) -> bool:
        """Whether some of ``nodes``, which are all, are not away."""
        with self._lock:
            away = self._away()
            return None not in away and not away.keys() >= set(nodes)

    def _away(self) -> dict[NodeName, None]:
        """Those that have not answered since they failed. Its user holds the lock."""
        return {
            node: None
            for node, outage in self._outages.items()
            if outage.back_at is None
        }

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
            for node, outage in list(self._outages.items()):
                if node in failed:
                    continue
                if outage.back_at is None and any(
                    None in (node, *nodes) or node in nodes for nodes in proofs
                ):
                    outage.back_at = now
                    outage.batches = 0
                    if node is not None:
                        self._plan_recall(kept_node(node), now)
                if outage.back_at is not None and now - outage.back_at >= CALM:
                    del self._outages[node]
                    seconds = outage.back_at - outage.since
                    ended.append(OutageEnded(self._namespace, "cache", seconds, node))
            for node, error in failed.items():
                again = self._outages.get(node)
                if again is None:
                    event = OutageBegan(self._namespace, "cache", error, node)
                    again = self._outages[node] = _Outage(event, now)
                    began.append(event)
                if not again.batches and node is not None:
                    self._recalls.pop(kept_node(node), None)
                again.back_at = None
                again.batches += 1
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

    def calmed(self) -> list[Event]:
        """Log and return what has ended since, where there was no batch to note."""
        with self._lock:
            if len(self._away()) == len(self._outages):
                return []
        return self.note({}, tuple)

    def _plan_recall(self, node: str, now: float) -> None:
        begins = self._recalled_at.get(node, now)
        if begins < now:  # else it is still to come
            begins = max(now, begins + RECALL_EVERY)
        self._recalled_at[node] = begins
        self._recalls[node] = Recall(node, begins)

    def carried_late(self, nodes: Iterable[str]) -> None:
        """Note the nodes that rows had waited for which have been carried now.

        Others may wait for the same node as they did, put off by a worker that has not
        seen its return, or will see nothing any more.

        :param nodes: as rows keep them.
        """
        waited = set(nodes)
        if waited:
            with self._lock:
                away = {kept_node(node) for node in self._away() if node is not None}
                for node in waited - away:
                    self._recalls.setdefault(node, Recall(node, self._clock()))

    def recalls(self) -> list[Recall]:
        """Return what is to be recalled now; each goes to :meth:`recalled` after it."""
        if not self._recalls:  # most of the time; what comes just now comes again
            return []
        with self._lock:
            now = self._clock()
            due = [
                each
                for each in self._recalls.values()
                if not each.running and each.begins <= now
            ]
            for each in due:
                each.running = True
            return due

    def recalled(self, recall: Recall, reached: int | None) -> None:
        """Note how far a recall has come.

        :param reached: where to go on; None if nothing waits any more.
        """
        with self._lock:
            recall.running = False
            if reached is not None:
                recall.from_ms = reached
            elif self._recalls.get(recall.node) is recall:
                del self._recalls[recall.node]

    def waits(
        self, node: NodeName, rows: Sequence[T], *, alone: bool
    ) -> list[tuple[Sequence[T], float]]:
        """How long which of ``rows`` wait, that just failed for ``node``, in seconds.

        Where they wait for long, one of them comes back sooner now and then: whoever
        carries it learns that the node is back, and recalls the others.

        :param alone: as for :meth:`delay`.
        """
        delay = self.delay(node, len(rows), alone=alone)
        if delay <= MAX_OUTAGE_BACKOFF:
            return [(rows, delay)]
        with self._lock:
            outage = self._outages.get(node)
            now = self._clock()
            if outage is None or now - outage.scout_sent < SCOUT_EVERY:
                return [(rows, delay)]
            outage.scout_sent = now
        scout = rows[:1], random.uniform(SCOUT_WAIT / 2, SCOUT_WAIT)
        return [scout, (rows[1:], delay)] if len(rows) > 1 else [scout]

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
                return self._backoff.pause(outage.batches)
            longest = self._backoff.bound(outage.batches)
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


class Recall:
    """Rows that wait for a node that is back, and how far they have been made due.

    :ivar node: its name, as rows keep it.
    :ivar begins: not before; by the clock of the outages.
    :ivar from_ms: those are next that were to be due then, by the outbox's clock.
    :ivar running: a thread is at it.
    """

    def __init__(self, node: str, begins: float) -> None:
        self.node = node
        self.begins = begins
        self.from_ms = 0
        self.running = False


class _Outage:
    """One outage. Its user holds the lock.

    :ivar back_at: when the node acknowledged something, the first time after it last
        failed; None while it is away.
    :ivar batches: that met it, since the node failed after it had been back.
    :ivar scout_sent: when.
    """

    def __init__(self, began: OutageBegan, since: float) -> None:
        self.began = began
        self.since = since
        self.back_at: float | None = None
        self.batches = 0
        self.scout_sent = float("-inf")
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

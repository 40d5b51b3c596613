"""Which rows are to be requeued, because the node that they wait for is back.

An outage makes rows wait for longer than the node may need to return. So when a node is
back they are requeued: made due, a claim's worth at a time, whatever their wait was.
"""

from __future__ import annotations

from typing import Callable, Iterable

from hydracache_sync.fork import ProcessLock

#: Seconds between two requeues for one node. The rows of a node that answers only
#: sometimes must not be claimed over and over.
REQUEUE_EVERY = 1.0


class Requeue:
    """Rows that wait for a node that is back, and how many of them are due already.

    :ivar node: its name, as rows keep it.
    :ivar begins: not before, by the clock of the outages.
    :ivar from_ms: the next rows are those that were to be due then, by the outbox's
        clock.
    :ivar running: a thread runs it.
    """

    __slots__ = ("node", "begins", "from_ms", "running")

    def __init__(self, node: str, begins: float) -> None:
        self.node = node
        self.begins = begins
        self.from_ms = 0
        self.running = False


class Requeues:
    """The requeues of one worker. Safe for threads and forks.

    :param clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = ProcessLock()
        self._pending: dict[str, Requeue] = {}
        #: When the last requeue for a node began, or is to begin.
        self._begun: dict[str, float] = {}

    def plan(self, node: str) -> None:
        """Requeue the rows of ``node``, which has just come back."""
        now = self._clock()
        with self._lock.mine():
            begins = self._begun.get(node, now)
            if begins < now:  # else it is still to come
                begins = max(now, begins + REQUEUE_EVERY)
            self._begun[node] = begins
            self._pending[node] = Requeue(node, begins)

    def add(self, nodes: Iterable[str]) -> None:
        """Requeue the rows of ``nodes`` now, unless that is planned already."""
        with self._lock.mine():
            for node in nodes:
                self._pending.setdefault(node, Requeue(node, self._clock()))

    def cancel(self, node: str) -> None:
        """Leave the rows of ``node`` waiting: it is away again."""
        with self._lock.mine():
            self._pending.pop(node, None)

    def due(self) -> list[Requeue]:
        """Return those to run now; pass each to :meth:`ran` afterwards."""
        # Read without the lock, since most of the time there is none. One that is added
        # at this moment is returned after the next batch.
        if not self._pending:
            return []
        with self._lock.mine():
            now = self._clock()
            due = [
                each
                for each in self._pending.values()
                if not each.running and each.begins <= now
            ]
            for each in due:
                each.running = True
            return due

    def ran(self, requeue: Requeue, reached: int | None) -> None:
        """Note how far a requeue has come.

        :param reached: where to go on; None if no row waits any more.
        """
        with self._lock.mine():
            requeue.running = False
            if reached is not None:
                requeue.from_ms = reached
            elif self._pending.get(requeue.node) is requeue:
                del self._pending[requeue.node]

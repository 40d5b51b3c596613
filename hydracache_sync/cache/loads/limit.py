"""Few loads of a key at once, for readers that share no flight.

A reader whose snapshot may be older than an invalidation stores nothing, so no other
may take what it loads for granted. But one rule holds without any token. A value that
was read in a snapshot which began *after* a reader asked is as new as what that reader
would load itself. Such a snapshot shows all that was committed when the reader asked,
and so all that was published. So these readers load a few at a time, the others wait
for a place, and one that waits takes the value of a load whose snapshot began after
that. The newest gets the next place, since its snapshot serves most; whom it will serve
waits on.

A moment is one of ``time.monotonic``, the same clock for all of them. Knows no store,
no token and no clock of a host.
"""

from __future__ import annotations

import threading
from math import inf
from time import monotonic
from typing import Any, Hashable

from hydracache_sync.fork import PerProcess, ProcessLock

#: In place of a moment that is not known: before everything.
UNKNOWN = -inf

#: A load has its place for so many times what others wait for one.
EXPIRY = 10


class _Load:
    """A load, or a request for one."""

    __slots__ = (
        "asked_at",
        "began_at",
        "snapshot",
        "thread",
        "released",
        "outcome",
        "has_place",
    )

    def __init__(self, snapshot: float | None) -> None:
        self.asked_at = self.began_at = monotonic()
        # None: it begins when its loader does.
        self.snapshot = snapshot
        self.thread = threading.get_ident()
        self.released = threading.Event()
        self.outcome: Any = None
        self.has_place = False

    def serves(self, other: _Load) -> bool:
        return self.snapshot is not None and other.asked_at < self.snapshot


class _Key:
    __slots__ = ("loading", "waiting")

    def __init__(self) -> None:
        self.loading: list[_Load] = []
        #: The newest last.
        self.waiting: list[_Load] = []


class LoadLimit:
    """The loads under way of each key. Safe for threads; a fork begins again.

    :param at_once: loads of one key that run at once, 1 or more.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._lock = ProcessLock()
        # The threads that load in the parent are not in a child: none would ever leave.
        self._keys_of: PerProcess[dict[Hashable, _Key]] = PerProcess(dict)

    @property
    def _keys(self) -> dict[Hashable, _Key]:
        return self._keys_of.mine()

    def enter(
        self,
        key: Hashable,
        patience: float,
        *,
        snapshot: float | None,
        at_once: bool = False,
    ) -> Any:
        """Wait for a place, or for a value that this caller may take.

        :param patience: seconds, after which it gets a place beyond the limit.
        :param snapshot: when the snapshot began that the caller loads in, at the
            earliest; ``UNKNOWN``, or None if it begins with its loader.
        :param at_once: do not wait: others may be waiting for this thread.
        :return: the outcome of another's load, or None: then the caller loads, and
            calls :meth:`leave` whatever comes of it.
        """
        mine = _Load(snapshot)
        with self._lock.mine():
            loads = self._keys.setdefault(key, _Key())
            # A thread that was interrupted between two of our lines never leaves.
            lost = monotonic() - EXPIRY * patience
            loads.loading = [each for each in loads.loading if each.began_at > lost]
            if (
                at_once
                or len(loads.loading) < self._at_once
                or any(each.thread == mine.thread for each in loads.loading)
            ):
                self._give_place(loads, mine)
                return None
            loads.waiting.append(mine)
        try:
            mine.released.wait(patience)
        except BaseException:
            with self._lock.mine():
                if mine in loads.waiting:
                    loads.waiting.remove(mine)
                if mine.has_place:
                    self._end(key, loads, mine)
            raise
        with self._lock.mine():
            if mine in loads.waiting:
                loads.waiting.remove(mine)
                self._give_place(loads, mine)
        return mine.outcome

    def is_wanted(self, key: Hashable) -> bool:
        """Whether somebody waits who may take the value of this thread's load."""
        with self._lock.mine():
            loads = self._keys.get(key)
            mine = None if loads is None else _of_this_thread(loads)
            if loads is None or mine is None:
                return False
            return any(mine.serves(each) for each in loads.waiting)

    def leave(self, key: Hashable, outcome: Any) -> None:
        """Give this thread's place back, and ``outcome`` to those who may take it.

        :param outcome: None if there is nothing to take.
        """
        with self._lock.mine():
            loads = self._keys.get(key)
            mine = None if loads is None else _of_this_thread(loads)
            if loads is None or mine is None:
                # Of before a fork.
                return
            if outcome is not None:
                for each in loads.waiting[:]:
                    if mine.serves(each):
                        each.outcome = outcome
                        loads.waiting.remove(each)
                        each.released.set()
            self._end(key, loads, mine)

    def __len__(self) -> int:
        return len(self._keys)

    # Below, the lock is held.

    @staticmethod
    def _give_place(loads: _Key, mine: _Load) -> None:
        if mine.snapshot is None:
            mine.snapshot = monotonic()
        mine.has_place = True
        mine.began_at = monotonic()
        loads.loading.append(mine)

    def _end(self, key: Hashable, loads: _Key, mine: _Load) -> None:
        if mine in loads.loading:
            loads.loading.remove(mine)
        for each in loads.waiting[::-1]:
            if len(loads.loading) >= self._at_once:
                break
            if not any(load.serves(each) for load in loads.loading):
                loads.waiting.remove(each)
                self._give_place(loads, each)
                each.released.set()
        if not loads.loading and self._keys.get(key) is loads:
            del self._keys[key]


def _of_this_thread(loads: _Key) -> _Load | None:
    """The load that this thread began last."""
    thread = threading.get_ident()
    return next((each for each in loads.loading[::-1] if each.thread == thread), None)

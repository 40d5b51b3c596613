"""Own connections of an outbox that threads share: each is lent to one call at a time.

A web process has many threads that need the database for milliseconds: a connection for
each of them, kept for its life, would use up what the server allows. What was used last
is lent first, so that the others stay idle and are closed.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from typing import Any, Callable

from hydracache_sync.fork import abandon_in_children

#: Seconds after which an idle connection is closed rather than used. Firewalls and
#: load balancers forget silent connections after some minutes, without telling us.
MAX_IDLE = 60.0

#: Seconds after which the lock counts as lost: it is held for microseconds.
LOCK_LOST = 1.0


class NoFreeConnection(TimeoutError):
    """All connections stayed in use: says something of the callers, not of a server."""


class _Place:
    """One of the connections that may be open at once."""

    __slots__ = ("connection", "home", "__weakref__")

    def __init__(self, home: _Lendings) -> None:
        self.connection: Any = None
        self.home = home


class _Lendings:
    """What there is in one process. Replaced as a whole after a fork."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        # Reentrant: at any line of ours a block may be collected, and its connection
        # given back.
        self.lock = threading.RLock()
        #: A lock for each that waits, released to wake it.
        self.waiting: deque[threading.Lock] = deque()
        self.idle: list[_Place] = []
        #: Weak, so that one lost to an exception between two lines of ours gives its
        #: place back when it is collected.
        self.all: weakref.WeakSet[_Place] = weakref.WeakSet()

    def locked(self) -> Any:
        """Acquire the lock and return it, to be released.

        A signal handler that raises at the end of a block may leave it locked: a lock
        that was lost is replaced. Should its holder only be slow, there may be a
        connection too many.
        """
        while True:
            lock = self.lock
            if lock.acquire(timeout=LOCK_LOST):
                return lock
            if self.lock is lock:
                self.lock = threading.RLock()

    def wake_one(self) -> None:
        """Let one of those that wait look again."""
        try:
            self.waiting.popleft().release()
        except IndexError:
            pass  # nobody waits


class LentConnections:
    """Lends connections. Safe for threads and forks; connects on demand.

    :param connect: opens a connection; called in the thread that uses it.
    :param close: closes one; called from any thread.
    :param abandon: called in a child with a connection of its parent's: lets go of it
        without a word that the server, or the parent, would hear.
    :param is_stale: whether one that was idle is to be closed, and another made.
    :param size: connections open at most, 1 or more.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        close: Callable[[Any], None],
        abandon: Callable[[Any], None],
        is_stale: Callable[[Any], bool],
        *,
        size: int,
    ) -> None:
        self._connect = connect
        self._close = close
        self._abandon = abandon
        self._is_stale = is_stale
        self.size = size
        self._lendings = _Lendings()
        abandon_in_children(self)

    def take(self, deadline: float) -> _Place:
        """Return a place with a connection; :meth:`put` or :meth:`drop` it afterwards.

        :param deadline: when to wait for one no more, of ``time.monotonic()``.
        :raises NoFreeConnection: all were in use until then.
        """
        lendings = self._mine()
        # A list pops and appends whole, so without a crowd no lock is taken.
        try:
            place = lendings.idle.pop()
        except IndexError:
            place = self._wait_or_make(lendings, deadline)
        try:
            if place.connection is not None and self._is_stale(place.connection):
                old, place.connection = place.connection, None
                self._close(old)
            if place.connection is None:
                place.connection = self._connect()
        except BaseException:
            self.drop(place)
            raise
        return place

    def put(self, place: _Place) -> None:
        """Give back a connection that is as it was when it was made."""
        lendings = self._lendings
        if place.home is not lendings:
            # It was taken before close_all() or a fork.
            self.drop(place)
            return
        lendings.idle.append(place)
        # Who waits has said so before looking at the list, and so is seen here or has
        # seen the connection.
        if lendings.waiting:
            lendings.wake_one()
            # Else this thread could take it again before the other has woken up.
            time.sleep(0)
        else:
            self.drop_stale()

    def drop(self, place: _Place) -> None:
        """Give back a connection that must not be used again."""
        lendings = place.home
        connection, place.connection = place.connection, None
        try:
            if connection is not None:
                self._close(connection)
        finally:
            if lendings.pid == os.getpid():
                self._forget(lendings, place)
                lendings.wake_one()

    def drop_stale(self) -> None:
        """Close what has been idle for too long."""
        lendings = self._lendings
        while lendings.pid == os.getpid():
            # The one used longest ago is the first. Another thread may take it between
            # two of these lines: then it is not stale, or that thread sees to it.
            try:
                if not self._is_stale(lendings.idle[0].connection):
                    return
                place = lendings.idle.pop(0)
            except IndexError:
                return
            if self._is_stale(place.connection):
                self.drop(place)
            else:
                self.put(place)

    def close_all(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        lendings, self._lendings = self._lendings, _Lendings()
        if lendings.pid == os.getpid():
            while lendings.idle:
                self.drop(lendings.idle.pop())
        else:
            self._abandon_all(lendings)

    def abandon_inherited(self) -> None:
        """In a forked child, forget the parent's connections and let them be."""
        self._mine()

    def _mine(self) -> _Lendings:
        lendings = self._lendings
        if lendings.pid != os.getpid():
            # Of two threads that come first one may throw away what the other has just
            # made, which is closed when it comes back.
            self._lendings = _Lendings()
            self._abandon_all(lendings)
            lendings = self._lendings
        return lendings

    def _abandon_all(self, lendings: _Lendings) -> None:
        for place in list(lendings.all):
            connection, place.connection = place.connection, None
            if connection is not None:
                self._abandon(connection)

    def _wait_or_make(self, lendings: _Lendings, deadline: float) -> _Place:
        """Return an idle place, or a new one without a connection."""
        while True:
            ticket = threading.Lock()
            ticket.acquire()
            lendings.waiting.append(ticket)
            unused = True
            try:
                place = self._idle_or_new(lendings)
                if place is not None:
                    return place
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise NoFreeConnection(
                        f"all {self.size} connections stayed in use; raise pool_size,"
                        " or keep transaction() blocks short"
                    )
                ticket.acquire(timeout=remaining)
                unused = False
            finally:
                try:
                    lendings.waiting.remove(ticket)
                except ValueError:
                    # Woken meanwhile: somebody else may have what we leave.
                    if unused:
                        lendings.wake_one()

    def _idle_or_new(self, lendings: _Lendings) -> _Place | None:
        lock = lendings.locked()
        try:
            try:
                return lendings.idle.pop()
            except IndexError:
                if len(lendings.all) >= self.size:
                    return None
            place = _Place(lendings)
            lendings.all.add(place)
            return place
        finally:
            lock.release()

    def _forget(self, lendings: _Lendings, place: _Place) -> None:
        lock = lendings.locked()
        try:
            lendings.all.discard(place)
        finally:
            lock.release()

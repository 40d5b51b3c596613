"""Own connections of an outbox that threads share: each is lent to one call at a time.

A web process has many threads that need the database for milliseconds: a connection for
each of them, kept for its life, would use up what the server allows.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable

from hydracache_sync.fork import ProcessLocal, abandon_in_children
from hydracache_sync.lending import Lendings

_threads = ProcessLocal()


def keep_apart() -> None:
    """Give this thread connections apart from those that serve requests.

    For a thread that carries rows for as long as it lives: it must not wait for
    requests, nor they for it.
    """
    _threads.mine().apart = True


def is_apart() -> bool:
    """Whether this thread has called :func:`keep_apart`."""
    return "apart" in _threads.mine().__dict__


class _Place:
    """One of the connections that may be open at once."""

    __slots__ = ("connection", "home", "__weakref__")

    def __init__(self, home: Lendings[_Place]) -> None:
        self.connection: Any = None
        self.home = home


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
        self._lendings: Lendings[_Place] = Lendings(
            size, _Place, "keep transaction() blocks short"
        )
        abandon_in_children(self)

    def take(self, deadline: float) -> _Place:
        """Return a place with a connection; :meth:`put` or :meth:`drop` it afterwards.

        :param deadline: when to wait for one no more, of ``time.monotonic()``.
        :raises NoFreeConnection: all were in use until then.
        """
        lendings = self._mine()
        try:
            place = lendings.idle.pop()
        except IndexError:
            place = lendings.wait_or_make(deadline)
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

    def take_again(self, connection: Any) -> _Place | None:
        """Take ``connection``, unchecked, if it is the one that was put back last.

        Quicker than :meth:`take`, for one that was in use a moment ago.
        """
        lendings = self._lendings
        if lendings.pid != os.getpid():
            return None
        idle = lendings.idle
        try:
            place = idle.pop()
        except IndexError:
            return None
        if place.connection is connection:
            return place
        idle.append(place)
        return None

    def put(self, place: _Place) -> None:
        """Give back a connection that is as it was when it was made."""
        lendings = self._lendings
        if place.home is not lendings:
            # It was taken before close_all() or a fork.
            self.drop(place)
            return
        lendings.idle.append(place)
        if lendings.waiting:
            lendings.wake_one()
            # Else this thread could take it again before the other has woken up.
            time.sleep(0)
        elif len(lendings.idle) > 1:
            # Not for one alone, which was used just now: an idle pool does this
            # fifty times a second.
            self.drop_stale()

    def drop(self, place: _Place) -> None:
        """Give back a connection that must not be used again."""
        connection, place.connection = place.connection, None
        try:
            if connection is not None:
                self._close(connection)
        finally:
            place.home.forget(place)

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
        lendings, self._lendings = self._lendings, self._lendings.again()
        if lendings.pid == os.getpid():
            while lendings.idle:
                self.drop(lendings.idle.pop())
        else:
            self._abandon_all(lendings)

    def abandon_inherited(self) -> None:
        """In a forked child, forget the parent's connections and let them be."""
        self._mine()

    def _mine(self) -> Lendings[_Place]:
        lendings = self._lendings
        if lendings.pid != os.getpid():
            # Of two threads that come first one may throw away what the other has just
            # made, which is closed when it comes back.
            self._lendings = lendings.again()
            self._abandon_all(lendings)
            lendings = self._lendings
        return lendings

    def _abandon_all(self, lendings: Lendings[_Place]) -> None:
        for place in list(lendings.all):
            connection, place.connection = place.connection, None
            if connection is not None:
                self._abandon(connection)

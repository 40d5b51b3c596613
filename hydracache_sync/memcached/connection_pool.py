"""Connections to one memcached, lent to one caller each.

A connection is given to the next caller only if the last one read every answer to its
end. Threads wait for a free one instead of failing. Each process has connections of its
own: two that share a socket read each other's acknowledgements.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections import deque
from os import getpid
from time import monotonic
from typing import TYPE_CHECKING

from hydracache_sync.fork import abandon_in_children
from hydracache_sync.memcached.machine import Met, machine_of
from hydracache_sync.memcached.server_list import Server
from hydracache_sync.memcached.transport import Connection, Limits

if TYPE_CHECKING:
    from ssl import SSLContext

#: Seconds after which an idle connection is closed rather than used. Firewalls and
#: load balancers forget silent connections after some minutes, without telling us.
MAX_IDLE = 60.0


#: Seconds after which a connection is closed when it is next taken, at the latest. A
#: name that has moved to another machine is looked up anew then, also by who is busy.
MAX_AGE = 300.0


#: Further connections, at most, by which a machine that is new is compared.
LOOKS = 3


class NoFreeConnection(TimeoutError):
    """All connections stayed in use: says something of the callers, not of the node."""


#: Seconds after which the lock of a pool counts as lost: it is held for microseconds.
LOCK_LOST = 1.0


class _PoolState:
    """The connections of a pool in one process. Replaced as a whole after a fork."""

    __slots__ = ("pid", "lock", "waiting", "idle", "all", "__weakref__")

    def __init__(self) -> None:
        self.pid = getpid()
        self.lock = threading.Lock()
        # A lock for each that waits, released to wake it. Not a Condition: interrupted
        # while it takes its lock again, it goes on without, and gives up another's.
        self.waiting: deque[threading.Lock] = deque()
        # Used last, taken first: the others stay idle and age out.
        self.idle: list[Connection] = []
        # Weak, so that a connection lost to an exception between two lines of ours
        # gives its place back when it is collected.
        self.all: weakref.WeakSet[Connection] = weakref.WeakSet()

    def locked(self) -> threading.Lock:
        """Acquire the lock and return it, to be released.

        A signal handler that raises right at the end of a block leaves its lock as it
        was: on Python 3.9 ``with`` does not release it then, and all threads would wait
        for ever. A lost lock is replaced. Should its holder only be slow, there may be
        a connection too many.
        """
        while True:
            lock = self.lock
            if lock.acquire(timeout=LOCK_LOST):
                return lock
            if self.lock is lock:
                self.lock = threading.Lock()

    def add_waiter(self) -> threading.Lock:
        """Register a waiter. Its lock is released when something comes free."""
        ticket = threading.Lock()
        ticket.acquire()
        self.waiting.append(ticket)
        return ticket

    def remove_waiter(self, ticket: threading.Lock, *, unused: bool) -> None:
        """Take a waiter off. If it was woken and ``unused``, the next one is woken."""
        try:
            self.waiting.remove(ticket)
        except ValueError:
            # Woken meanwhile.
            if unused:
                self.wake_one()

    def wake_one(self) -> None:
        """Wake the waiter that came first, if there is one."""
        try:
            self.waiting.popleft().release()
        except IndexError:
            # There is no waiter.
            pass


class ConnectionPool:
    """Lend connections to ``server``. Safe for threads and forks; connects on demand.

    :param size: connections open at most, 1 or more.
    """

    def __init__(
        self,
        server: Server,
        limits: Limits,
        *,
        size: int,
        tls_context: SSLContext | None = None,
    ) -> None:
        self.server = server
        self.limits = limits
        self.size = size
        self._tls_context = tls_context
        self._state = _PoolState()
        self._machine = machine_of(server.name)
        # Only tidies up early. What holds is the comparison of process ids in take(),
        # also where a server forks without Python's knowledge.
        abandon_in_children(self)

    def take(self, now: float, deadline: float, *, proven: bool = False) -> Connection:
        """Take a connection; give it to :meth:`put` or :meth:`drop` afterwards.

        :param now: ``time.monotonic()``.
        :param proven: look first whether an idle connection has ended meanwhile. For
            what must not be sent twice.
        :raises NoFreeConnection: all were in use until the deadline.
        :raises SeveralMachines: connections reach more than one server.
        :raises OSError: could not connect.
        """
        state = self._state
        if state.pid != getpid():
            state = self.start_anew(state)
        while True:
            # A list pops and appends whole, so without a crowd no lock is taken.
            try:
                connection = state.idle.pop()
            except IndexError:
                connection = self._wait_or_make(state, deadline)
            if connection.used_at is None:
                return self._opened(connection, now, deadline)
            try:
                if (
                    now - connection.used_at < MAX_IDLE
                    and now < connection.expires_at
                    and connection.identity == self._machine.current
                ):
                    if not proven or not connection.is_stale():
                        connection.used_at = now
                        connection.reused = True
                        return connection
            except BaseException:
                # The look yields to other greenlets, and a timeout may come in it.
                self.drop(connection)
                raise
            self.drop(connection)

    def put(self, connection: Connection) -> None:
        """Give back a connection on which every answer was read to its end."""
        state = self._state
        if connection.home is not state:
            # It was taken before close() or before a fork.
            self.drop(connection)
            return
        state.idle.append(connection)
        # Waiters register before they check ``idle``, so no wake-up is lost.
        if state.waiting:
            state.wake_one()

    def drop(self, connection: Connection) -> None:
        """Give back a connection that must not be used again."""
        connection.close()
        state: _PoolState = connection.home
        if state.pid != getpid():
            # Its lock is the parent's copy, and may be locked for ever.
            return
        try:
            lock = state.locked()
            try:
                state.all.discard(connection)
            finally:
                lock.release()
        finally:
            state.wake_one()

    def renew(self, connection: Connection, deadline: float) -> None:
        """Connect a taken connection anew. It keeps its place in the pool.

        :raises OSError: could not connect; the connection is given back.
        """
        connection.close()
        connection.reused = False
        self._opened(connection, monotonic(), deadline)

    def drop_idle(self) -> None:
        """Close what is idle: one of them had ended, so the others have too."""
        self._drop_idle_of(self._state)

    def close(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        state, self._state = self._state, _PoolState()
        self._drop_idle_of(state)

    def abandon_inherited(self) -> None:
        """In a forked child, close its copies of the parent's connections."""
        if self._state.pid != getpid():
            self.start_anew()

    def start_anew(self, inherited: _PoolState | None = None) -> _PoolState:
        """Forget what belongs to the parent process, after a fork.

        The descriptors are this process's copies: closing them leaves the parent's
        connections alive, and nothing is said on them.
        """
        if inherited is None:
            inherited = self._state
        if self._state is inherited:
            self._state = _PoolState()
        for connection in list(inherited.all):
            connection.close()
        return self._state

    def _wait_or_make(self, state: _PoolState, deadline: float) -> Connection:
        """Return an idle connection, or one that is not open yet."""
        while True:
            ticket = state.add_waiter()
            unused = True
            try:
                connection = self._idle_or_new(state)
                if connection is not None:
                    return connection
                remaining = deadline - monotonic()
                if remaining <= 0:
                    raise NoFreeConnection(
                        f"all {self.size} connections stayed in use; raise"
                        " pool_size, or let fewer threads use the store"
                    )
                ticket.acquire(timeout=remaining)
                unused = False
            finally:
                state.remove_waiter(ticket, unused=unused)

    def _idle_or_new(self, state: _PoolState) -> Connection | None:
        lock = state.locked()
        try:
            try:
                return state.idle.pop()
            except IndexError:
                if len(state.all) >= self.size:
                    return None
            connection = Connection(self.server, self.limits, state)
            state.all.add(connection)
            return connection
        finally:
            lock.release()

    def _opened(
        self, connection: Connection, now: float, deadline: float
    ) -> Connection:
        try:
            connection.changes = self._machine.changes
            connection.open(self._tls_context, deadline)
            if self.server.path is None:
                # A socket of this host is one server, by whatever name.
                connection.ask_identity()
                connection.identity = self._machine.current
        except BaseException:
            self.drop(connection)
            raise
        connection.used_at = now
        # Jitter, so that not all of them are opened anew at once.
        connection.expires_at = now + MAX_AGE * random.uniform(0.5, 1.0)
        return connection

    def identify(self, connection: Connection) -> None:
        """Read which machine a new connection reaches, and compare.

        :raises SeveralMachines: it is one that was there before another.
        :raises OSError: it did not answer properly.
        """
        machine = self._machine
        identity = connection.read_identity()
        met = machine.met(identity, connection.changes)
        connection.identity = machine.current if identity is None else identity
        if met is Met.NEW:
            self._look_again(connection)

    def _look_again(self, connection: Connection) -> None:
        """Connect again after a machine that is new: a balancer has more of them."""
        deadline = connection.replies.deadline
        for _ in range(LOOKS):
            other = Connection(self.server, self.limits, connection.home)
            other.changes = self._machine.changes
            try:
                other.open(self._tls_context, deadline)
                other.ask_identity()
                other.send(b"", deadline)
                identity = other.read_identity()
            except OSError:
                # Says nothing of the machine: it has answered on the first connection.
                return
            finally:
                other.close()
            if self._machine.met(identity, other.changes) is not Met.NEW:
                return

    def _drop_idle_of(self, state: _PoolState) -> None:
        while state.idle:
            try:
                connection = state.idle.pop()
            except IndexError:
                return
            self.drop(connection)

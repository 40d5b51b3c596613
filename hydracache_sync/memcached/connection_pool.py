"""Connections to one memcached, lent to one caller each.

A connection is given to the next caller only if the last one read every answer to its
end. Threads wait for a free one instead of failing. Each process has connections of its
own: two that share a socket read each other's acknowledgements.
"""

from __future__ import annotations

import random
from os import getpid
from time import monotonic

from hydracache_sync.fork import abandon_in_children
from hydracache_sync.lending import MAX_IDLE, Lendings
from hydracache_sync.memcached import commands
from hydracache_sync.memcached.handshake import Handshake
from hydracache_sync.memcached.machine import Met, machine_of
from hydracache_sync.memcached.replies import (
    UNAUTHENTICATED,
    BrokenReply,
    login_refused,
)
from hydracache_sync.memcached.server_list import Server
from hydracache_sync.memcached.transport import Connection, Limits

#: Seconds after which a connection is closed when it is next taken, at the latest. A
#: name that has moved to another machine is looked up again then, under load too.
MAX_AGE = 300.0


#: Further connections, at most, by which a machine that is new is compared.
LOOKS = 3


class ConnectionPool:
    """Lend connections to ``server``. Safe for threads and forks; connects on demand.

    :param size: connections open at most, 1 or more.
    :ivar connected_in: process that connected last, or tried to; 0 at first.
    """

    def __init__(
        self,
        server: Server,
        limits: Limits,
        *,
        size: int,
        handshake: Handshake = Handshake(),
    ) -> None:
        self.server = server
        self.limits = limits
        self.connected_in = 0
        self._handshake = handshake
        self._lendings: Lendings[Connection] = Lendings(
            size,
            self._made,
            "let fewer threads use the store",
        )
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
        lendings = self._lendings
        if lendings.pid != getpid():
            lendings = self.start_anew(lendings)
        while True:
            try:
                connection = lendings.idle.pop()
            except IndexError:
                connection = lendings.wait_or_make(deadline)
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
        lendings = self._lendings
        if connection.home is not lendings:
            # It was taken before close() or before a fork.
            self.drop(connection)
            return
        lendings.idle.append(connection)
        if lendings.waiting:
            lendings.wake_one()

    def drop(self, connection: Connection) -> None:
        """Give back a connection that must not be used again."""
        connection.close()
        connection.home.forget(connection)

    def renew(self, connection: Connection, deadline: float) -> None:
        """Connect a taken connection again. It keeps its place in the pool.

        :raises OSError: could not connect; the connection is given back.
        """
        connection.close()
        connection.reused = False
        self._opened(connection, monotonic(), deadline)

    def drop_idle(self) -> None:
        """Close what is idle: one of them had ended, so the others have too."""
        self._drop_idle_of(self._lendings)

    def close(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        lendings, self._lendings = self._lendings, self._lendings.again()
        self._drop_idle_of(lendings)

    def abandon_inherited(self) -> None:
        """In a forked child, close its copies of the parent's connections."""
        if self._lendings.pid != getpid():
            self.start_anew()

    def start_anew(
        self, inherited: Lendings[Connection] | None = None
    ) -> Lendings[Connection]:
        """Forget what belongs to the parent process, after a fork.

        The descriptors are this process's copies: closing them leaves the parent's
        connections alive, and nothing is said on them.
        """
        if inherited is None:
            inherited = self._lendings
        if self._lendings is inherited:
            self._lendings = inherited.again()
        for connection in list(inherited.all):
            connection.close()
        return self._lendings

    def _made(self, lendings: Lendings[Connection]) -> Connection:
        return Connection(self.server, self.limits, lendings)

    def _opened(
        self, connection: Connection, now: float, deadline: float
    ) -> Connection:
        self.connected_in = getpid()
        try:
            connection.changes = self._machine.changes
            connection.open(self._handshake, deadline)
            if self.server.path is None:
                # A socket of this host is one server, by whatever name.
                connection.ask_identity()
                connection.identity = self._machine.current
        except BaseException:
            self.drop(connection)
            raise
        connection.used_at = now
        # Jitter, so that not all of them are opened again at once.
        connection.expires_at = now + MAX_AGE * random.uniform(0.5, 1.0)
        return connection

    def identify(self, connection: Connection) -> None:
        """Read which machine a new connection reaches, and compare.

        :raises SeveralMachines: it is one that was there before another.
        :raises OSError: it did not answer properly.
        """
        machine = self._machine
        try:
            identity = connection.read_identity()
        except ConnectionError as exc:
            if not isinstance(exc, BrokenReply) and not self._handshake.login:
                self._check_login(connection)
            raise
        met = machine.met(identity, connection.changes)
        connection.identity = machine.current if identity is None else identity
        if met is Met.NEW:
            self._look_again(connection)

    def _check_login(self, connection: Connection) -> None:
        """Ask again, by one line alone, after a first question that was not answered.

        Newer memcacheds (1.6.45) end a connection without a word where more than a line
        comes before the login that they want.

        :raises LoginRefused: it wants one.
        """
        deadline = connection.replies.deadline
        other = Connection(self.server, self.limits, connection.home)
        try:
            other.open(self._handshake, deadline)
            other.send(commands.VERSION, deadline)
            answer = other.replies.line()
        except OSError:
            # What has ended the first one is told by its own error.
            return
        finally:
            other.close()
        if answer.startswith(UNAUTHENTICATED):
            raise login_refused(answer)

    def _look_again(self, connection: Connection) -> None:
        """Connect again after a machine that is new: a balancer has more of them."""
        deadline = connection.replies.deadline
        for _ in range(LOOKS):
            other = Connection(self.server, self.limits, connection.home)
            other.changes = self._machine.changes
            try:
                other.open(self._handshake, deadline)
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

    def _drop_idle_of(self, lendings: Lendings[Connection]) -> None:
        while lendings.idle:
            try:
                connection = lendings.idle.pop()
            except IndexError:
                return
            self.drop(connection)

"""One connection to one memcached: connect, send, receive, as separate steps.

The steps are apart so that several nodes can be sent to before any of them is read.
Only this file knows pymemcache: its ``Client`` makes the socket (names, TLS, unix
sockets, timeouts) and hands it over. What is said on it is said here, because a shared
client, a ``noreply`` and a cut-off answer each lose an invalidation in silence.
"""

from __future__ import annotations

import _socket
import select
import socket
import struct
import sys
import weakref
from secrets import token_hex
from time import monotonic
from typing import Any, Callable, NamedTuple, Sequence

from hydracache_sync.addresses import addresses_of
from hydracache_sync.cache.keyspace import NODE_IDENTITY
from hydracache_sync.memcached import commands
from hydracache_sync.memcached.handshake import Handshake
from hydracache_sync.memcached.replies import (
    MAX_VALUE,
    TIMEOUTS,
    Replies,
    Unanswered,
    login_refused,
    not_understood,
)
from hydracache_sync.memcached.server_list import Server

#: Random bytes of a server's identity.
IDENTITY_SIZE = 12


class Limits(NamedTuple):
    """How long a connection may take, in seconds, and how much.

    :ivar connect_timeout: to look up the name, and to connect to one address, TLS
        included.
    :ivar timeout: from one piece of an answer to the next.
    :ivar call_timeout: for a whole round trip, however slowly its pieces come.
    :ivar max_value: bytes of a value that are read.
    """

    connect_timeout: float
    timeout: float
    call_timeout: float
    max_value: int = MAX_VALUE


class SeveralMachines(ConnectionError):
    """A name stands for more than one machine, each with a memcached of its own."""


class Connection:
    """A socket to one server and the answers that come on it.

    Not for several threads at once, and not for two processes. After any exception out
    of it the place in the stream is unknown: close it.

    :ivar reused: whether it has served an earlier caller.
    :ivar used_at: moment of ``time.monotonic`` when it was last taken, None until it
        has been opened; for its pool.
    :ivar expires_at: the moment from which it is not to be taken again; for its pool.
    :ivar home: the pool's record that it belongs to.
    :ivar identity: of the server that it reaches, as far as known; for its pool.
    :ivar question: asks for it; empty once it was answered.
    :ivar changes: see ``Machine.changes``, from before it was opened; for its pool.
    """

    __slots__ = (
        "server",
        "limits",
        "replies",
        "reused",
        "used_at",
        "expires_at",
        "home",
        "identity",
        "question",
        "changes",
        "_socket",
        "_end",
        "_send",
        "__weakref__",
    )

    replies: Replies
    _send: Callable[[Any], int]

    def __init__(self, server: Server, limits: Limits, home: Any) -> None:
        self.server = server
        self.limits = limits
        self.home = home
        self.reused = False
        self.used_at: float | None = None
        self.expires_at = 0.0
        self.identity: bytes | None = None
        self.question = b""
        self.changes = 0
        self._socket: socket.socket | None = None

    def open(self, handshake: Handshake, deadline: float) -> None:
        """Connect, trying the v4 and the v6 address that the name has, and log in.

        :raises ConnectionError: none could be reached before the deadline, or the name
            has several addresses of a kind.
        :raises OSError: the login was refused, or not answered.
        """
        try:
            connection = _connect(self.server, self.limits, handshake, deadline)
        except SeveralMachines:
            raise
        except OSError as exc:
            raise ConnectionError(
                f"cannot connect: {exc}; is memcached running there, and reachable?"
            ) from exc
        self._end = weakref.finalize(self, _close, connection)
        self._end.atexit = False
        self._socket = connection
        if handshake.tls_context is None:
            _let_kernel_time_out(connection, self.limits.timeout)
        self._send = connection.send
        self.replies = Replies(connection.recv, self.limits.max_value)
        if handshake.login:
            self._log_in(handshake.login, deadline)

    def _log_in(self, login: bytes, deadline: float) -> None:
        # A round trip of its own: memcached may end the connection without a word where
        # other commands have come behind a login that it refuses.
        self.send(login, deadline)
        answer = self.replies.line()
        self.replies.finish()
        if answer.startswith(b"CLIENT_ERROR"):
            raise login_refused(answer)
        if answer not in commands.STORED:
            raise not_understood(answer)

    def send(self, data: bytes, deadline: float) -> None:
        """Send it all; the answers to it are due by ``deadline``.

        :raises OSError: ``TimeoutError`` if the server does not take it in time;
            ``Unanswered`` if the connection has ended. Part of it may have been sent.
        """
        self.replies.deadline = deadline
        self.replies.begun = False
        if self.question:
            data = self.question + data
        try:
            sent = self._send(data)
            if sent < len(data):
                rest = memoryview(data)
                while sent < len(data):
                    if monotonic() >= deadline:
                        raise TimeoutError
                    sent += self._send(rest[sent:])
        except TIMEOUTS as exc:
            raise TimeoutError("it takes no data; is it overloaded, or hung?") from exc
        except OSError as exc:
            raise Unanswered(f"it ended the connection: {exc}") from exc

    def ask_identity(self) -> None:
        """Have the next :meth:`send` begin with the question which server it is.

        It costs no round trip; :meth:`read_identity` reads the answer.
        """
        # Never the same twice: a copy that arrived late must name no earlier server.
        self.question = commands.identity(token_hex(IDENTITY_SIZE).encode())

    def read_identity(self) -> bytes | None:
        """Read the identity that the server holds; it was given one if it had none.

        :return: None if it keeps none now, being out of memory for one.
        :raises OSError: it did not answer properly.
        """
        self.question = b""
        added = self.replies.line()
        if added not in commands.ADDED and not added.startswith(b"SERVER_ERROR"):
            raise not_understood(added)
        return self.replies.value(NODE_IDENTITY)

    def died_idle(self, failure: OSError) -> bool:
        """Tell by how it failed whether it was dead before the last :meth:`send`."""
        return self.reused and isinstance(failure, Unanswered)

    def check_answer(self, due: float) -> None:
        """Do not wait for an answer that should have come while others were read.

        :raises TimeoutError: ``due`` is over, and there is none.
        """
        if monotonic() >= due and not self.is_stale():
            raise TimeoutError("no answer in time; is it overloaded, or hung?")

    def is_stale(self) -> bool:
        """Tell whether an idle connection has an end or a surprise waiting in it.

        Catches the end of a server that ended while the connection was idle, so that a
        write need not be sent twice to find out.
        """
        connection = self._socket
        return connection is None or _readable(connection)

    def close(self) -> None:
        """Close this process's copy of the socket, and say nothing to the server.

        In a forked child that leaves the parent's connection as it is.
        """
        connection, self._socket = self._socket, None
        if connection is not None:
            self._end.detach()
            _close(connection)

    def __del__(self) -> None:
        # A store is rarely closed; its sockets are no leak worth a ResourceWarning.
        # Those are collected in any order, so a finalizer holds the socket until here;
        # at the interpreter's end it does nothing any more.
        self.close()


def _close(connection: socket.socket) -> None:
    try:
        connection.close()
    except OSError:
        # What the peer did meanwhile, reported by the last flush. It is closed.
        pass


def load_client() -> None:
    """Load pymemcache now, and not when the first connection is made."""
    import pymemcache.client.base  # noqa: F401


def _connect(
    server: Server, limits: Limits, handshake: Handshake, deadline: float
) -> socket.socket:
    if server.path is not None:
        return _connect_to(server.path, socket, limits, handshake, deadline)
    by = min(deadline, monotonic() + limits.connect_timeout)
    addresses = addresses_of(server.host, server.port, by)
    _check_one_machine(server, addresses)
    failure = OSError("the name has no address")
    try:
        for address in addresses:
            try:
                return _connect_to(
                    # Looked up already: the name is the one of the certificate.
                    (handshake.tls_name or server.host, server.port),
                    _OneAddress(address),
                    limits,
                    handshake,
                    deadline,
                )
            except OSError as exc:
                failure = exc
        raise failure
    finally:
        # A frame that holds the error is held by it, and with it all that called.
        del failure


def _check_one_machine(server: Server, addresses: Sequence[Any]) -> None:
    """Raise unless the addresses may be the v4 and the v6 of one host.

    To try one machine after the other would be a failover: what one has acknowledged
    the other still serves.
    """
    for family in {address[0] for address in addresses}:
        # Without the port, the flow and the scope.
        hosts = sorted({each[4][0] for each in addresses if each[0] == family})
        if len(hosts) > 1:
            shown = ", ".join(hosts[:4]) + (", ..." if len(hosts) > 4 else "")
            raise SeveralMachines(
                f"the name {server.host} has {len(hosts)} addresses ({shown}), and a"
                " node is one machine: name each of them as a node of its own"
            )


def _connect_to(
    where: Any,
    socket_module: Any,
    limits: Limits,
    handshake: Handshake,
    deadline: float,
) -> socket.socket:
    # Not at the top: whoever uses no memcached need not have it loaded.
    from pymemcache.client.base import Client

    remaining = deadline - monotonic()
    if remaining <= 0:
        raise TimeoutError("no time was left to connect")
    client = Client(
        where,
        connect_timeout=min(limits.connect_timeout, remaining),
        timeout=limits.timeout,
        no_delay=True,
        socket_module=socket_module,
        tls_context=handshake.tls_context,
    )
    client._connect()
    connection: socket.socket = client.sock
    client.sock = None
    return connection


class _OneAddress:
    """The socket module, for a name with one address.

    pymemcache connects to the first address only: "localhost" then fails where ``::1``
    comes first and memcached listens on 127.0.0.1.
    """

    def __init__(self, address: object) -> None:
        self._address = address

    def getaddrinfo(self, *arguments: object) -> list[object]:
        return [self._address]

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)


def _let_kernel_time_out(connection: socket.socket, timeout: float) -> None:
    """Replace Python's timeout, a ``poll`` before each call, by the kernel's.

    Half of the system calls of a cached read. Not for TLS, which would wait on after
    the kernel has given up. Nor for the sockets of gevent and eventlet, which are not
    the interpreter's and wait by themselves. A signal that Python handles makes the
    kernel's wait begin again.
    """
    if not sys.platform.startswith("linux") or not isinstance(
        connection, _socket.socket
    ):
        return
    microseconds = max(1, round(timeout * 1_000_000))
    interval = struct.pack("@ll", *divmod(microseconds, 1_000_000))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, interval)
    connection.settimeout(None)


def _readable(connection: socket.socket) -> bool:
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([connection], [], [], 0)[0])

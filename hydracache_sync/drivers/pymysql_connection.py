"""The class of an outbox's own connections: PyMySQL's, within limits of time.

The one module that imports PyMySQL, so it is imported when it is used: an app on SQLite
never loads it.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import time
from typing import Any

from pymysql import Error
from pymysql.connections import Connection, MySQLResult
from pymysql.constants import CLIENT
from pymysql.cursors import Cursor
from pymysql.err import InterfaceError, OperationalError

from hydracache_sync.addresses import addresses_of
from hydracache_sync.drivers.pymysql_rows import Converters, plain_rows
from hydracache_sync.fork import keep_for_good

__all__ = ["Error", "OutboxConnection"]

#: Seconds after which an own connection is replaced, at most: the name of a server may
#: lead elsewhere by then, and nothing but a new connection would follow it. Threads
#: that have connected together must not do it again together.
MAX_AGE = 180.0
YOUNGEST = 0.75

#: Bytes asked of a socket at once.
_READ = 1 << 16

#: Logins in which the password itself is sent.
_CLEAR = (b"mysql_clear_password", b"dialog")

#: Numbers of the client library: no TLS to be had, and a login that is not for use.
_NO_TLS = 2026
_NOT_LOADED = 2059

#: And those of a server that is not there, or is there no more.
_CANNOT_CONNECT = 2003
_GONE = 2006
_LOST = 2013


#: The stubs of PyMySQL leave out what is private, and more.
_Base: Any = Connection
_Result: Any = MySQLResult


class RowsResult(_Result):  # type: ignore[misc]
    """The answer to a statement: PyMySQL reads those of its rows that are not plain."""

    connection: Any

    def _read_rowdata_packet(self) -> None:
        connection = self.connection
        rows: list[tuple[Any, ...]] = []
        while True:
            rows += connection.plain_rows(self.converters)
            packet = connection._read_packet()
            if self._check_packet_is_eof(packet):
                break
            rows.append(self._read_row_from_packet(packet))
        self.connection = None
        self.affected_rows = len(rows)
        self.rows = tuple(rows)


class OutboxConnection(_Base):  # type: ignore[misc]
    """Keeps to time limits as a whole, and sends a password only where that is safe.

    PyMySQL's limits are for each piece that comes: a server that sends one byte now and
    then holds it without limit. Here an answer has ``read_timeout``, from the question
    to its last byte; and all that is done until ``until`` together no longer than that.

    It shares one TLS context with all others that verify nothing. PyMySQL makes one
    for each connection, of all certificates that the system trusts: 15 to 40 ms and
    a megabyte, also where the server turns out to be away. In an outage that was
    most of what a worker did. A context that has been given files or itself is left
    to PyMySQL: files may have been replaced.
    """

    #: By process: a thread of the parent may have locked its own at the fork.
    _unverified: dict[int, Any] = {}

    _next_seq_id: int

    #: See ``mysql_statements``.
    is_of_outbox = True

    #: The answer to a poll that finds nothing.
    hydracache_empty_reply: bytes | None = None

    def __init__(self, until: float, **options: Any) -> None:
        now = time.monotonic()
        self.pid = os.getpid()
        self.made_at = now
        self.ends_at = now + MAX_AGE * random.uniform(YOUNGEST, 1.0)
        self.used_at = now
        #: Of ``time.monotonic()``; None where only each answer has a limit.
        self.until: float | None = until
        limit = max(0.001, min(options.pop("connect_timeout"), until - now))
        self._reach_by = now + limit
        # What was received, and up to where it was read.
        self._received = b""
        self._at = 0
        self._answer_by = now
        self._timeout: float | None = None
        #: The timeout of the socket was set a moment ago.
        self._fresh = False
        super().__init__(connect_timeout=limit, **options)

    def is_stale(self, max_idle: float) -> bool:
        """Whether it is closed, or has been idle or there for too long."""
        now = time.monotonic()
        return (
            self._sock is None or now - self.used_at >= max_idle or now >= self.ends_at
        )

    def has_plain_cursors(self) -> bool:
        """Whether its cursors give tuples, as it was made to."""
        plain: bool = self.cursorclass is Cursor
        return plain

    def connect(self, sock: Any = None) -> None:
        if sock is None and not self.unix_socket:
            try:
                sock = _reached(self.host, self.port, self._reach_by)
            except OSError as exc:
                error: Any = OperationalError(
                    _CANNOT_CONNECT,
                    f"Can't connect to MySQL server on {self.host!r} ({exc})",
                )
                error.original_exception = exc
                raise error from exc
            self.host_info = f"socket {self.host}:{self.port}"
        self._received, self._at = b"", 0
        self._answer_by = self._limited(time.monotonic(), self._read_timeout)
        self._fresh = False
        super().connect(sock)

    def _limited(self, now: float, seconds: float) -> float:
        by = now + seconds
        return by if self.until is None else min(by, self.until)

    def _write_bytes(self, data: bytes) -> None:
        if self._at < len(self._received):
            # It was said unasked, and would pass for the answer: the server goes
            # down, or an attacker has put it before the beginning of TLS.
            self._force_close()
            raise OperationalError(
                _LOST, "Lost connection to MySQL server during query"
            )
        now = time.monotonic()
        until = self.until
        limit = self._write_timeout
        if until is not None and until - now < limit:
            limit = until - now
        try:
            if limit <= 0:
                raise socket.timeout("timed out")
            if limit != self._timeout:
                self._sock.settimeout(limit)
                self._timeout = limit
            self._sock.sendall(data)
        except OSError as exc:
            self._force_close()
            raise OperationalError(
                _GONE, f"MySQL server has gone away ({exc!r})"
            ) from exc
        except BaseException:
            self._force_close()
            raise
        now = time.monotonic()
        self._answer_by = self._limited(now, self._read_timeout)
        self._received, self._at = b"", 0
        wanted = self._answer_by - now
        # Most of the time it is the same, which spares a call of the system.
        if abs(wanted - limit) > 0.001:
            self._timeout = max(0.001, wanted)
            self._sock.settimeout(self._timeout)
        self._fresh = True
        # So that PyMySQL, which remembers what it has set, sets nothing.
        self._current_timeout = self._read_timeout

    def is_at_rest(self) -> bool:
        """Whether its socket has the limit of time for an answer."""
        limit = self._timeout
        return limit is not None and abs(limit - self._read_timeout) < 0.01

    def note_question(self, now: float) -> None:
        """Begin the limit of time for an answer; a question was sent past this."""
        self._answer_by = self._limited(now, self._read_timeout)
        self._received, self._at = b"", 0
        self._fresh = False

    def receive(self) -> bytes:
        """Return some bytes of the answer; none if the server has closed.

        :raises OSError: nothing came in time, or the connection is lost.
        """
        sock = self._sock
        if sock is None:
            raise InterfaceError(0, "")
        if not self._fresh:
            remaining = self._answer_by - time.monotonic()
            if remaining <= 0:
                raise socket.timeout("timed out")
            sock.settimeout(remaining)
            self._timeout = None
        self._fresh = False
        received: bytes = sock.recv(_READ)
        return received

    def _read_bytes(self, num_bytes: int) -> bytes:
        end = self._at + num_bytes
        if end > len(self._received):
            self._read_more(num_bytes)
            end = num_bytes
        start, self._at = end - num_bytes, end
        return self._received[start:end]

    def _read_more(self, num_bytes: int) -> None:
        """Have so many bytes that were not read yet, from the beginning on."""
        parts = [self._received[self._at :]]
        there = len(parts[0])
        try:
            while there < num_bytes:
                part = self.receive()
                if not part:
                    raise EOFError
                parts.append(part)
                there += len(part)
        except (OSError, EOFError) as exc:
            self._force_close()
            said = f" ({exc})" if str(exc) else ""
            raise OperationalError(
                _LOST, f"Lost connection to MySQL server during query{said}"
            ) from exc
        except BaseException:
            self._force_close()
            raise
        self._received, self._at = b"".join(parts), 0

    def plain_rows(self, converters: Converters) -> list[tuple[Any, ...]]:
        """Take the rows that have been received, up to one that is not plain."""
        rows, self._at, self._next_seq_id = plain_rows(
            self._received, self._at, self._next_seq_id, converters
        )
        return rows

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        # As PyMySQL does it, whose class of results cannot be named otherwise.
        self._result = None
        result = RowsResult(self)
        result.read()
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        return result.affected_rows

    def _create_ssl_ctx(self, options: Any) -> Any:
        if options:
            return super()._create_ssl_ctx(options)
        context = self._unverified.get(os.getpid())
        if context is None:
            # Two threads at once make two; either will do.
            context = super()._create_ssl_ctx(options)
            self._unverified[os.getpid()] = context
            # A child must not free it either, for the same reason.
            keep_for_good(context)
        return context

    def _request_authentication(self) -> None:
        # Nothing has been sent yet. An attacker in between may have taken the flag
        # away, and would be told the password.
        if self._ssl_required and not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(
                _NO_TLS, "the server offers no TLS, but ssl was given"
            )
        super()._request_authentication()

    def _process_auth(self, plugin_name: bytes, *rest: Any) -> Any:
        # Any server may ask for it, whatever the user's login is on the right one.
        if plugin_name in _CLEAR and not self.unix_socket:
            if not self._is_verified():
                raise OperationalError(
                    _NOT_LOADED,
                    f"the server wants the password itself ({plugin_name.decode()})"
                    ": that takes ssl_ca in the URL, so that it is known who asks,"
                    " or a unix socket",
                )
        return super()._process_auth(plugin_name, *rest)

    def _is_verified(self) -> bool:
        context = getattr(self._sock, "context", None)
        return context is not None and bool(context.verify_mode == ssl.CERT_REQUIRED)


def _reached(host: str, port: int, by: float) -> socket.socket:
    """Return a socket to the first of the host's addresses that answers.

    Each has its share of the time that the resolver has left.
    """
    failure: OSError = OSError("the name has no address")
    addresses = addresses_of(host, port, by)
    for place, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            remaining = by - time.monotonic()
            sock.settimeout(max(0.001, remaining / (len(addresses) - place)))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
    raise failure

"""The connections that an outbox makes for itself: all that needs PyMySQL for them.

It is imported here and only when it is used: an app on SQLite never loads it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from importlib import metadata
from typing import Any

from hydracache_sync.outbox.connections import keep_for_good

#: Logins in which the password itself is sent.
_CLEAR = (b"mysql_clear_password", b"dialog")

#: Numbers of the client library: no TLS to be had, and a login that is not for use.
_NO_TLS = 2026
_NOT_LOADED = 2059


def connect(**options: Any) -> Any:
    """Connect as ``pymysql.connect`` would, for less.

    :raises pymysql.Error, OSError, RuntimeError: as it would.
    """
    return _connection_class()(**options)


@functools.lru_cache(maxsize=None)
def _connection_class() -> Any:
    import ssl

    from pymysql.connections import Connection
    from pymysql.constants import CLIENT
    from pymysql.err import OperationalError

    base: Any = Connection
    refused: Any = OperationalError

    class OutboxConnection(base):  # type: ignore[misc]
        """Shares one TLS context with all others that verify nothing.

        PyMySQL makes one for each connection, of all certificates that the system
        trusts: 15 to 40 ms and a megabyte, also where the server turns out to be away.
        In an outage that was most of what a worker did. A context that has been given
        files or itself is left to PyMySQL: files may have been replaced.
        """

        #: By process: a thread of the parent may have locked its own at the fork.
        _unverified: dict[int, Any] = {}

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
            # Nothing has been sent yet. Who stands between may have taken the flag
            # away, and would be told the password.
            if self._ssl_required and not self.server_capabilities & CLIENT.SSL:
                raise refused(_NO_TLS, "the server offers no TLS, but ssl was given")
            super()._request_authentication()

        def _process_auth(self, plugin_name: bytes, *rest: Any) -> Any:
            # Any server may ask for it, whatever the user's login is on the right one.
            if plugin_name in _CLEAR and not self.unix_socket:
                if not self._is_verified():
                    raise refused(
                        _NOT_LOADED,
                        f"the server wants the password itself ({plugin_name.decode()})"
                        ": that takes ssl_ca in the URL, so that it is known who asks,"
                        " or a unix socket",
                    )
            return super()._process_auth(plugin_name, *rest)

        def _is_verified(self) -> bool:
            context = getattr(self._sock, "context", None)
            return context is not None and bool(
                context.verify_mode == ssl.CERT_REQUIRED
            )

    return OutboxConnection


def close(connection: Any) -> None:
    with contextlib.suppress(Exception):  # it was dead already, and is now closed
        connection.close()


def let_go(connection: Any) -> None:
    """Close this process's copy of a parent's socket, without the COM_QUIT of close().

    Kept open, it would hold the parent's session, and its locks, on the server after
    the parent's end.
    """
    # A thread of the parent may have been reading through it at the fork: its lock is
    # held for ever here, and closing or collecting it would wait for that.
    keep_for_good(connection._rfile)
    with contextlib.suppress(Exception):  # it was closed already
        os.close(connection._sock.detach())
    connection._sock = connection._rfile = None


def has_plain_cursors(connection: Any) -> bool:
    """Whether its cursors give tuples, as a connection was made to."""
    from pymysql.cursors import Cursor

    return connection.cursorclass is Cursor


def driver_error() -> type[Exception]:
    """What PyMySQL's errors are derived from."""
    import pymysql

    error: type[Exception] = pymysql.Error
    return error


def driver_version() -> str:
    # PyMySQL's own __version__ is that of the mysqlclient it stands in for.
    return metadata.version("pymysql")


#: Ways in which a server, or what stands before it, ends a connection.
_ENDED = (1053, 1317, 1927, 2006, 2013)


def was_cut_off(exc: BaseException) -> bool:
    """Whether a connection was made and then ended by the other side, without a wait.

    Not where nobody was reached, nor where nobody answered in time.
    """
    number = exc.args[0] if exc.args else None
    if number in _ENDED:
        return not isinstance(exc.__context__, socket.timeout)
    # PyMySQL tells of what happens during TLS as of a server that is not there.
    found = getattr(exc, "original_exception", None)
    ended = isinstance(found, (ConnectionResetError, BrokenPipeError))
    return ended or type(found).__name__ == "SSLEOFError"


def is_cut_short(exc: BaseException | None) -> bool:
    """Whether ``exc`` came out of PyMySQL and is not its own.

    A signal handler that raises, a greenlet's timeout: they may come between a
    statement and its answer. The next statement would take that for its own, the one
    after it the next one's, and so on for as long as the connection lives.
    """
    error = driver_error()
    while exc is not None and not isinstance(exc, error):
        traceback = exc.__traceback__
        while traceback is not None:
            module = str(traceback.tb_frame.f_globals.get("__name__"))
            if module.partition(".")[0] == "pymysql":
                return True
            traceback = traceback.tb_next
        exc = exc.__context__
    return False

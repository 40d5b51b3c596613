"""An outbox's own connections of PyMySQL: made, closed, and what their errors mean.

PyMySQL is imported when it is used: an app on SQLite never loads it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

from hydracache_sync.fork import keep_for_good


def connect(until: float, **options: Any) -> Any:
    """Connect as ``pymysql.connect`` would, for less.

    :param until: when it is given up, of ``time.monotonic()``.
    :raises pymysql.Error, OSError, RuntimeError: as it would.
    """
    from hydracache_sync.drivers.pymysql_connection import OutboxConnection

    return OutboxConnection(until, **options)


def close(connection: Any) -> None:
    if connection.pid != os.getpid():
        let_go(connection)
        return
    with contextlib.suppress(Exception):  # it was dead already, and is now closed
        connection.close()


def let_go(connection: Any) -> None:
    """Close this process's copy of a parent's socket, without the COM_QUIT of close().

    Kept open, it would hold the parent's session, and its locks, on the server after
    the parent's end.
    """
    # A thread of the parent may have been reading through it at the fork: its lock is
    # never released here, and closing or collecting it would wait for that.
    keep_for_good(connection._rfile)
    with contextlib.suppress(Exception):  # it was closed already
        os.close(connection._sock.detach())
    connection._sock = connection._rfile = None


def driver_error() -> type[Exception]:
    """What PyMySQL's errors are derived from."""
    from hydracache_sync.drivers import pymysql_connection

    error: type[Exception] = pymysql_connection.Error
    return error


def driver_version() -> str:
    # It imports a mail library, which most programs have no use for.
    from importlib import metadata

    # PyMySQL's own __version__ is that of the mysqlclient it stands in for.
    return metadata.version("pymysql")


#: Ways in which a server, or what stands before it, ends a connection.
_ENDED = (1053, 1317, 1927, 2006, 2013)


def was_cut_off(exc: BaseException) -> bool:
    """Whether a connection was made and then ended by the other side, without a wait.

    Not where no server was reached, nor where none answered in time.
    """
    number = exc.args[0] if exc.args else None
    if number in _ENDED:
        return not isinstance(exc.__cause__, socket.timeout)
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

"""The statements that drivers of MySQL send, also on connections that nobody has named.

A class of each driver that is imported gets a method that tells of a statement and
calls the driver's own. There is no such place for ``sqlite3``, whose classes are of C,
nor for other databases.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Callable

from hydracache_sync.drivers.mysql import error_number

#: Errors with which a server may roll back the whole transaction, and not the statement
#: alone. MariaDB's snapshot isolation, an error at a commit, a lock wait timeout where
#: the server is set up so; too many locks, a deadlock, a conflict in a group.
_ENDING = frozenset((1020, 1180, 1205, 1206, 1213, 3101))

#: The methods that each statement goes through, by module: a class and their names.
_OF_CONNECTOR = "cmd_query", "cmd_stmt_execute"
_METHODS = {
    "pymysql.connections": ("Connection", ("query",)),
    "MySQLdb.connections": ("Connection", ("query",)),
    "mysql.connector.connection": ("MySQLConnection", _OF_CONNECTOR),
    "mysql.connector.connection_cext": ("CMySQLConnection", _OF_CONNECTOR),
}

#: An outbox's own connections have this attribute: no app reads on them.
OWN = "is_of_outbox"


def tell_of_statements(
    tell: Callable[[Any, Any], None], tell_of_end: Callable[[], None]
) -> bool:
    """Have ``tell`` given the connection and the text of each statement from now on.

    Right before it is sent, in its thread. For the drivers that are imported by now;
    harmless to repeat.

    :param tell: the same function at each call; must not raise. A prepared statement
        has no text for it.
    :param tell_of_end: called where one has failed with an error by which the server
        may have ended its transaction; in its thread, must not raise.
    :return: whether one of them was new.
    """
    is_new = False
    for path, (name, methods) in _METHODS.items():
        module = sys.modules.get(path)
        if module is None:
            continue  # mostly; each write comes here
        kind = getattr(module, name, None)
        for method in methods:
            send = getattr(kind, method, None)
            if send is not None and not hasattr(send, "tells_of_statements"):
                setattr(kind, method, _telling(send, tell, tell_of_end))
                is_new = True
    return is_new


def _telling(
    send: Callable[..., Any],
    tell: Callable[[Any, Any], None],
    tell_of_end: Callable[[], None],
) -> Any:
    @functools.wraps(send)
    def telling(connection: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(connection, OWN):
            return send(connection, *args, **kwargs)
        tell(connection, args[0] if args else "")
        try:
            return send(connection, *args, **kwargs)
        except Exception as exc:
            if error_number(exc) in _ENDING:
                tell_of_end()
            raise

    telling.tells_of_statements = True  # type: ignore[attr-defined]
    return telling


def is_same(one: Any, other: Any) -> bool:
    """Whether two objects are one connection, or a tracer's that stands before it."""
    # What stands before an object gives that one's attributes for its own.
    return one is other or (
        getattr(one, "__dict__", None) is getattr(other, "__dict__", other)
    )

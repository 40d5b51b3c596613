"""The statements that drivers of MySQL send, also on connections that nobody has named.

A class of each driver that is imported gets a method that tells of a statement and
calls the driver's own. There is no such place for ``sqlite3``, whose classes are of C,
nor for other databases.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Callable

#: The method that each statement goes through, by module and class.
_METHODS = (
    ("pymysql.connections", "Connection", "query"),
    ("MySQLdb.connections", "Connection", "query"),
    ("mysql.connector.connection", "MySQLConnection", "cmd_query"),
    ("mysql.connector.connection", "MySQLConnection", "cmd_stmt_execute"),
    ("mysql.connector.connection_cext", "CMySQLConnection", "cmd_query"),
    ("mysql.connector.connection_cext", "CMySQLConnection", "cmd_stmt_execute"),
)

#: An outbox's own connections have this attribute: no app reads on them.
OWN = "is_of_outbox"


def tell_of_statements(tell: Callable[[Any, Any], None]) -> bool:
    """Have ``tell`` given the connection and the text of each statement from now on.

    Right before it is sent, in its thread. For the drivers that are imported by now;
    harmless to repeat.

    :param tell: the same function at each call; must not raise. A prepared statement
        has no text for it.
    :return: whether one of them was new.
    """
    is_new = False
    for module, name, method in _METHODS:
        kind = getattr(sys.modules.get(module), name, None)
        send = getattr(kind, method, None)
        if send is not None and not hasattr(send, "tells_of_statements"):
            setattr(kind, method, _telling(send, tell))
            is_new = True
    return is_new


def _telling(send: Callable[..., Any], tell: Callable[[Any, Any], None]) -> Any:
    @functools.wraps(send)
    def telling(connection: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(connection, OWN):
            tell(connection, args[0] if args else "")
        return send(connection, *args, **kwargs)

    telling.tells_of_statements = True  # type: ignore[attr-defined]
    return telling


def is_same(one: Any, other: Any) -> bool:
    """Whether two objects are one connection, or a tracer's that stands before it."""
    # What stands before an object gives that one's attributes for its own.
    return one is other or (
        getattr(one, "__dict__", None) is getattr(other, "__dict__", other)
    )

"""What frameworks and pools put before a driver's connection.

A row may be written only where the caller's commit decides on it, and that is known of
a driver's own connection. No framework is imported: an object of one brings it.
"""

from __future__ import annotations

from typing import Any

#: What to pass in place of an object, by the package and the class of that.
_REMEDIES = {
    ("sqlalchemy", "Connection"): (
        "attach() its engine with hydracache_sync.integrations.sqlalchemy, or pass"
        " .connection.driver_connection once it has begun"
    ),
    ("sqlalchemy", "Engine"): (
        "attach() it with hydracache_sync.integrations.sqlalchemy, or pass the"
        " raw_connection() that you commit"
    ),
    ("sqlalchemy", ""): (
        "attach() it with hydracache_sync.integrations.sqlalchemy, or pass"
        " .connection().connection.driver_connection"
    ),
    ("flask_sqlalchemy", ""): (
        "attach() its session with hydracache_sync.integrations.sqlalchemy"
    ),
    ("django", ""): (
        "use atomic() of hydracache_sync.integrations.django, or pass"
        " .connection, inside atomic()"
    ),
    ("dbutils", ""): (
        "call its begin(), which keeps it from reconnecting, and pass the driver's"
        " connection that it holds (._con, of a pooled one ._con._con)"
    ),
}


def own_connection(connection: Any) -> Any:
    """Return the driver's connection that SQLAlchemy's ``raw_connection()`` stands for.

    Its commit and rollback are that connection's. Anything else is returned as it is.
    """
    if type(connection).__module__.startswith("sqlalchemy.pool"):
        inner = getattr(connection, "driver_connection", None)
        if inner is None:  # before SQLAlchemy 1.4.24, or given back to its pool
            inner = getattr(connection, "dbapi_connection", None)
        return connection if inner is None else inner
    return connection


def refusal(expected: str, connection: Any) -> TypeError:
    """Return the error for what is no connection of ``expected``; says what to do."""
    kind = type(connection)
    remedy = "of a wrapper, pass the driver's own connection that it holds"
    for base in reversed(kind.__mro__):
        package = base.__module__.partition(".")[0]
        remedy = _REMEDIES.get((package, ""), remedy)
        remedy = _REMEDIES.get((package, base.__name__), remedy)
    name = f"{kind.__module__}.{kind.__name__}"
    return TypeError(f"connection must be {expected}, not {name}: {remedy}")

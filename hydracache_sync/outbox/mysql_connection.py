"""The connections that an outbox makes for itself, by PyMySQL."""

from __future__ import annotations

import functools
from typing import Any


def connect(**options: Any) -> Any:
    """Connect as ``pymysql.connect`` would, for less.

    :raises pymysql.Error, OSError, RuntimeError: as it would.
    """
    return _connection_class()(**options)


@functools.lru_cache(maxsize=None)
def _connection_class() -> Any:
    # Imported here, and only here to connect: an app on SQLite never loads it.
    from pymysql.connections import Connection

    base: Any = Connection

    class OutboxConnection(base):  # type: ignore[misc]
        """Shares one TLS context with all others that verify nothing.

        PyMySQL makes one for each connection, of all certificates that the system
        trusts: 15 to 40 ms and a megabyte, also where the server turns out to be away.
        In an outage that was most of what a worker did. A context that has been given
        files or itself is left to PyMySQL: files may have been replaced.
        """

        _unverified: Any = None

        def _create_ssl_ctx(self, options: Any) -> Any:
            if options:
                return super()._create_ssl_ctx(options)
            cls = type(self)
            # Two threads at once make two; one of them is kept.
            if cls._unverified is None:
                cls._unverified = super()._create_ssl_ctx(options)
            return cls._unverified

    return OutboxConnection

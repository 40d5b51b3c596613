"""Whether what a request reads may be what it has written itself and not committed.

Nobody else may see that before the commit, and nobody at all after a rollback: what is
read meanwhile is not stored, and not looked for in the cache. The library is told of
some connections; of the rest it knows nothing. Knows no framework.
"""

from __future__ import annotations

from typing import Any, Callable

from hydracache_sync.drivers import CallersConnection, driver_of
from hydracache_sync.drivers.wrappers import own_connection

#: Methods of requests that change nothing, as RFC 9110 has it.
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))


class RequestWrites:
    """The connections of one request, or of one run of a script.

    :param connection_of: returns the connection that the app said is its request's, or
        None if it is not open yet.
    :param safe: the request is one that changes nothing, by its method.
    :param followed: transactions of the app are followed by other means, an attached
        session's: where no connection is known there is none.
    """

    def __init__(
        self,
        connection_of: Callable[[], Any] | None,
        *,
        safe: bool,
        followed: bool,
    ) -> None:
        self._connection_of = connection_of
        self._safe = safe
        self._followed = followed
        self._watched: list[_Watched] = []

    def know(self, connection: Any) -> None:
        """State that ``connection`` is one of the request's."""
        self._watch(connection)

    def has_written(self) -> bool | None:
        """Whether one of the connections has changed something and not committed it.

        :return: None if that is not known.
        """
        known = self._followed
        if self._connection_of is not None:
            try:
                connection = self._connection_of()
            except Exception:
                # The app's own function: an error of it is met where it is needed.
                known = False
            else:
                known = True
                if connection is not None:
                    self._watch(connection)
        unknown = False
        for each in self._watched:
            written = each.has_written()
            if written:
                return True
            unknown |= written is None
        if unknown or not (known or self._watched):
            return None
        return False

    def may_store(self) -> bool:
        """Whether what is read now may be stored; in doubt only in a safe request."""
        written = self.has_written()
        return self._safe if written is None else not written

    def _watch(self, connection: Any) -> None:
        if all(each.connection is not connection for each in self._watched):
            self._watched.append(_Watched(connection))


class _Watched:
    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._driver: CallersConnection | None = None

    def has_written(self) -> bool | None:
        try:
            if self._driver is None:
                self._driver = driver_of(own_connection(self.connection))
            return self._driver.has_written()
        except Exception:
            # Closed, of another thread, or of no driver that is known.
            return None

"""Connections that a request is known to have: what they have written, and read.

Asked before a load and after it. What a driver cannot tell, or a connection that is
closed or of another thread, is not known; then nothing rests on it. Knows no framework.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

from hydracache_sync.drivers import CallersConnection, driver_of
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.snapshots import LocalMoment, oldest


class KnownConnection:
    """A connection of a request, of whatever driver."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._driver: CallersConnection | None = None
        #: When it was last seen without a snapshot.
        self._idle_at: float | None = None

    def has_written(self) -> bool | None:
        """Whether it has changed something and not committed it; None: not known."""
        try:
            return self.driver().has_written()
        except Exception:
            return None

    def snapshot(self, otherwise: float) -> float | None:
        """Return a moment that what is read on it next is not older than.

        :param otherwise: where that is not known.
        :return: None if nothing is open, so that the next statement begins a snapshot.
        """
        now = LocalMoment.now()
        try:
            driver = self.driver()
            if driver.tells_snapshots:
                is_open = driver.has_snapshot()
            else:
                is_open = driver.in_transaction()
        except Exception:
            self._idle_at = None
            return otherwise
        if is_open:
            return otherwise if self._idle_at is None else self._idle_at
        self._idle_at = now
        return None

    def answered(self) -> object:
        """As the driver's ``answered``; None also where it is not known."""
        try:
            return self.driver().answered()
        except Exception:
            return None

    def driver(self) -> CallersConnection:
        """Return what knows the connection; raises where nothing does."""
        if self._driver is None:
            self._driver = driver_of(own_connection(self.connection))
        return self._driver


class KnownReads:
    """What connections show of one load; made right before it.

    :param known: returns the connections, None while they are not known.
    :param request_began: what counts where one of them is not known better.
    :ivar since: a moment that what they read now is not older than; None if each of
        them begins a fresh snapshot.
    """

    def __init__(
        self,
        known: Callable[[], Sequence[KnownConnection] | None],
        request_began: float,
    ) -> None:
        self._known = known
        found = known()
        self.since: float | None = request_began if found is None else None
        self._before: list[tuple[KnownConnection, object]] = []
        for each in found or ():
            self.since = oldest(self.since, each.snapshot(request_began))
            self._before.append((each, each.answered()))

    def are_seen(self) -> bool:
        """Whether the load has read on one of them, or has opened one."""
        for each, before in self._before:
            answered = each.answered()
            if answered is not None and answered != before:
                return True
        return any(map(self._is_new, self._known() or ()))

    def _is_new(self, connection: KnownConnection) -> bool:
        try:
            own = connection.driver().connection
            return all(own is not each.driver().connection for each, _ in self._before)
        except Exception:
            return False

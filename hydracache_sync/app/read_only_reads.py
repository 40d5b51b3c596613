"""Whether loads read on a server that takes no writes, and the app does not say so.

A replica is behind: what is loaded there after an invalidation may be from before it,
and is cached for its whole TTL. Seen of loads by attached sessions and Django, which
show each statement before it is sent. Where the server is the outbox's by its address
nothing is asked, elsewhere once in ten minutes, or in one if the server refuses the
question. Knows no framework.
"""

from __future__ import annotations

import time
from typing import Any

from hydracache_sync.drivers import find_driver
from hydracache_sync.drivers.sqlite import SQLiteConnection
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Seconds after which a server is asked again: a failover turns them round.
ASK_AGAIN = 600.0

#: The same where it gave no answer: a proxy that does not know the variables, a right
#: that is missing, or a connection that broke. Each load would ask without
#: an answer.
ASK_REFUSED_AGAIN = 60.0

#: Of the server, whose tables it does not touch: it begins no snapshot.
_QUESTION = "select @@global.read_only, @@global.innodb_read_only"


class ReadOnlyReads:
    """Remembers the server that a load was last seen to read, if that is read-only.

    Thread-safe.

    :param own: address of the outbox's server, as drivers name it.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        #: Of each address, until when it is known whether it is read-only.
        self._known: dict[str, tuple[float, bool]] = {}
        self._has_warned = False

    @property
    def server(self) -> str | None:
        """The address of a read-only server that loads read lately; None if none."""
        now = time.monotonic()
        for where, (until, is_read_only) in list(self._known.items()):
            if is_read_only and now < until + ASK_AGAIN:
                return where
        return None

    def reads_on(self, connection: Any) -> None:
        """A load sends its next statement on ``connection``. Never raises."""
        where = None
        try:
            driver = find_driver(own_connection(connection))
            if driver is None or isinstance(driver, SQLiteConnection):
                return
            where = driver.server()
            if where in (None, self._own) or self._is_known(where):
                return
            if driver.is_reading():
                return  # the next load asks
            cursor = driver.cursor()
            try:
                cursor.execute(_QUESTION)
                [record] = cursor.fetchall()
            finally:
                cursor.close()
        except Exception:
            # The load meets what is wrong with the connection by itself.
            logger.debug("a server could not be asked", exc_info=True)
            if where is not None:
                self._known[where] = time.monotonic() + ASK_REFUSED_AGAIN, False
            return
        # Newer MariaDBs have words for it.
        is_read_only = any(str(each).upper() not in ("0", "OFF") for each in record)
        self._known[where] = time.monotonic() + ASK_AGAIN, is_read_only
        if is_read_only and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "loads read on %s, which is read-only and not the outbox's server %s:"
                " if it replicates that, what it is behind is cached as if it were new."
                " Set HYDRACACHE_SNAPSHOT=replica and HYDRACACHE_HEARTBEAT, or"
                " HYDRACACHE_READ_LAG",
                where,
                self._own,
            )

    def _is_known(self, where: str | None) -> bool:
        until, _ = self._known.get(where or "", (0.0, False))
        return time.monotonic() < until

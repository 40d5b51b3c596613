"""Whether what a request reads may be what it has written itself and not committed.

Nobody else may see that before the commit, and nobody at all after a rollback: what is
read meanwhile is not stored, and not looked for in the cache. The library is told of
some connections; of the rest it knows nothing. Knows no framework.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Iterator

from hydracache_sync.app.known_connections import (
    NOTHING_LEFT_OPEN,
    KnownConnection,
    KnownReads,
    LeftOpen,
)

#: Methods of requests that change nothing, as RFC 9110 has it.
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))


class RequestWrites:
    """The connections of one request, or of one run of a script.

    Connections that were only named in passing, by ``write`` or ``transaction``, are
    watched, but may not be all: then it is not known of the request what it has
    written.

    :param connection_of: returns the connection that the app said is its request's, or
        a list of all of them; None stands for one that is not open yet.
    :param safe: the request is one that changes nothing, by its method.
    :param followed: transactions of the app are followed by other means, an attached
        session's, and the statements in them.
    :param thread: that of the request, by its ident: others that run in a copy of its
        context have its connections too, and must not ask the server on them meanwhile.
    :ivar checks_loads: what is read may only be stored if a statement of the load was
        seen on a connection that is followed. The request may change something on other
        connections, which are not followed.
    :ivar load_is_checked: the load that is about to begin is looked at in this way.
    :ivar left_open: transactions that were open when the request began.
    """

    def __init__(
        self,
        connection_of: Callable[[], Any] | None,
        *,
        safe: bool,
        followed: bool,
        thread: int | None = None,
    ) -> None:
        self._connection_of = connection_of
        self._safe = safe
        #: Statements are seen on connections that nobody has named.
        self.are_followed = followed
        self._thread = threading.get_ident() if thread is None else thread
        self._watched: list[KnownConnection] = []
        self.checks_loads = followed and not safe and connection_of is None
        self.load_is_checked = False
        self.left_open = NOTHING_LEFT_OPEN

    def begin(self) -> None:
        """Look at the connections that the app has before the request uses them."""
        if self._connection_of is None:
            return
        try:
            found = self._connection_of()
        except Exception:
            return  # nothing is there yet that it could name
        self.left_open = LeftOpen(named_connections(found))

    def know(self, connection: Any) -> None:
        """State that ``connection`` is one of the request's."""
        for each in self._watched:
            if each.connection is connection:
                return
        self._watched.append(KnownConnection(connection))

    def has_written(self) -> bool | None:
        """Whether one of the connections has changed something and not committed it.

        :return: None if that is not known.
        """
        watched = self._all()
        known = (
            self.are_followed if self._connection_of is None else watched is not None
        )
        for each in self._watched:
            written = each.has_written()
            if written:
                return True
            known &= written is not None
        return False if known else None

    @property
    def show_reads(self) -> bool:
        """Whether anything of what is read can be known."""
        return (
            self.are_followed or bool(self._watched) or self._connection_of is not None
        )

    def before_load(self, request_began: float) -> KnownReads:
        """Look at the connections, right before a load may read on them."""
        if self._thread != threading.get_ident():
            # Nor is it known what the request's own thread has read.
            return KnownReads(lambda: None, request_began)
        return KnownReads(self._all, request_began)

    def reads_in_left_open(self) -> bool:
        """Whether a load may read in a transaction that an earlier request left."""
        if self._thread != threading.get_ident():
            return bool(self.left_open)
        return bool(self.left_open.still_open())

    def _all(self) -> list[KnownConnection] | None:
        """Have the app name its connections, and return all; None if it fails."""
        if self._connection_of is not None:
            try:
                found = self._connection_of()
            except Exception:
                # The app's own function: an error of it is met where it is needed.
                return None
            for connection in named_connections(found):
                self.know(connection)
        return self._watched

    def _may_be_in_use(self) -> bool:
        """Whether this is another thread than the request's, and it has connections."""
        return self._thread != threading.get_ident() and self._all() != []

    def named(self) -> list[Any] | None:
        """The connections that the app has named; none if it fails.

        :return: None where nothing may be asked on them.
        """
        if self._connection_of is None:
            return []
        if self._may_be_in_use():
            return None
        return [each.connection for each in self._all() or ()]

    @contextlib.contextmanager
    def checking(self, checked: bool = True) -> Iterator[None]:
        """Say whether the block checks its loads, as :attr:`checks_loads` wants."""
        before, self.load_is_checked = self.load_is_checked, checked
        try:
            yield
        finally:
            self.load_is_checked = before

    def may_store(self) -> bool:
        """Whether what is read now may be stored; in doubt only in a safe request."""
        written = self.has_written()
        if written is None:
            return self._safe
        return not written and (self.load_is_checked or not self.checks_loads)


def named_connections(found: Any) -> list[Any]:
    """The connections among what an app's ``connection=`` has returned."""
    named = found if isinstance(found, (list, tuple)) else [found]
    return [each for each in named if each is not None]


def outbox_connection(found: Any) -> Any:
    """That of the outbox's database, the first of several; None if it is not open."""
    if isinstance(found, (list, tuple)):
        return found[0] if found else None
    return found

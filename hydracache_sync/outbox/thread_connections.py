"""Own connections of a SQLite outbox: one per thread and process, never shared.

The process id is compared at each use, since some servers fork without telling
Python (uWSGI) and a thread-local survives a fork.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Callable

from hydracache_sync.fork import ProcessLocal, abandon_in_children


class _Slot:
    """One thread's connection; closes it when the thread ends, or its owner."""

    def __init__(
        self,
        connection: Any,
        close: Callable[[Any], None],
        abandon: Callable[[Any], None],
    ) -> None:
        self.connection = connection
        self.pid = os.getpid()
        self._close = close
        self._abandon = abandon
        # An owner in a cycle, as an app and its extensions are, is collected with all
        # that only it holds, in any order. A finalizer holds the connection, so that it
        # is there to be closed, and not by itself.
        self._end = weakref.finalize(self, _end, connection, self.pid, close, abandon)
        # Threads may still be using theirs when the interpreter ends.
        self._end.atexit = False

    def close(self) -> None:
        connection, self.connection = self.connection, None
        self._end.detach()
        if connection is not None:
            _end(connection, self.pid, self._close, self._abandon)

    def __del__(self) -> None:
        # Finalizers do nothing any more at the interpreter's end.
        self.close()


def _end(
    connection: Any,
    pid: int,
    close: Callable[[Any], None],
    abandon: Callable[[Any], None],
) -> None:
    if pid == os.getpid():
        close(connection)
    else:
        abandon(connection)


class ThreadConnections:
    """Opens a connection at a thread's first use and keeps it for that thread.

    :param connect: opens a connection; called in the thread that uses it.
    :param close: closes one; also called from another thread, by :meth:`close_all`.
    :param abandon: called in a child with a connection of its parent's: lets go of it
        without a word that the server, or the parent, would hear.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        close: Callable[[Any], None],
        abandon: Callable[[Any], None],
    ) -> None:
        self._connect = connect
        self._close = close
        self._abandon = abandon
        self._local = ProcessLocal()
        self._slots: weakref.WeakSet[_Slot] = weakref.WeakSet()
        abandon_in_children(self)

    def get(self) -> Any:
        """Return this thread's connection, opening it if there is none."""
        local = self._local.mine()
        slot = getattr(local, "slot", None)
        if slot is None or slot.connection is None:
            # Here too, for forks that Python does not see.
            self.abandon_inherited()
            slot = _Slot(self._connect(), self._close, self._abandon)
            local.slot = slot
            self._slots.add(slot)
        return slot.connection

    def discard(self) -> None:
        """Close this thread's connection; the next use opens another."""
        slot = getattr(self._local.mine(), "slot", None)
        if slot is not None:
            slot.close()

    def abandon_inherited(self) -> None:
        """In a forked child, forget the parent's connections and let them be."""
        for slot in list(self._slots):
            if slot.pid != os.getpid():
                slot.close()

    def close_all(self) -> None:
        """Close the connections of all threads of this process."""
        for slot in list(self._slots):
            slot.close()

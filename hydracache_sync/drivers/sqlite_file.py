"""Which file a caller's SQLite connection has open, asked once for each connection.

The answer comes from a pragma, a second statement in each producer's transaction if it
were asked each time. A connection takes no weak reference, and an ``id()`` is used
again after it: what it does take is a function, which it lets go of when it is closed
or collected. The function we leave there is our mark, and its end is the connection's.
"""

from __future__ import annotations

import os
import sqlite3
import weakref


class _Mark:
    """Registered with a connection as an SQL function; never called."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __call__(self) -> str:
        return self.file


#: Marks of the connections seen, by their ``id()``; gone when the connection is.
_marks: weakref.WeakValueDictionary[int, _Mark] = weakref.WeakValueDictionary()


def opened_file(connection: sqlite3.Connection) -> str:
    """Return the path of ``connection``'s main database, "" for one in memory.

    Reads no page and begins no transaction.

    :raises sqlite3.Error: the connection is closed, or belongs to another thread.
    """
    mark = _marks.get(id(connection))
    if mark is None:
        # Not connection.cursor(): a subclass may give it other habits.
        cursor = sqlite3.Cursor(connection)
        cursor.row_factory = None
        text_factory, connection.text_factory = connection.text_factory, bytes
        try:
            file = cursor.execute("pragma database_list").fetchone()[2]
        finally:
            connection.text_factory = text_factory
        mark = _Mark(os.fsdecode(file or b""))
        sqlite3.Connection.create_function(connection, "hydracache_sync_mark", 0, mark)
        _marks[id(connection)] = mark
    return mark.file

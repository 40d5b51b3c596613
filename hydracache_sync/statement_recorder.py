"""Records which SQL each cached load runs, for ``hydracache missing-tags``.

For tests: it names the code that loads by its stack, and holds on to nothing. A
statement belongs to the innermost load that it runs in, so that a cached function
which calls others shows its own alone; theirs come with the tags that it inherits.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Sequence

from hydracache_sync.cache.loads import watch as load_watch
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.fork import ProcessLock

_PACKAGE = str(Path(__file__).parent)


class _Load:
    def __init__(self, key: str, tags: Sequence[str]) -> None:
        self.key = key
        self.tags = tags
        self.seen = False


_current: ContextVar[_Load | None] = ContextVar("hydracache_recorded", default=None)


class StatementRecorder:
    """Appends a line of JSON for each statement of a cached load, in a block.

    Loads alone are seen: a hit runs nothing, so begin with an empty cache. Safe for
    threads; several processes may append to one file. ::

        with StatementRecorder("loads.jsonl") as recorder:
            recorder.watch(connection)
            ...

    :param path: of the file; made if it is not there.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = ProcessLock()
        self._written: set[str] = set()

    def __enter__(self) -> StatementRecorder:
        load_watch.watchers.append(self._watched)
        return self

    def __exit__(self, *exc_info: object) -> None:
        load_watch.watchers.remove(self._watched)

    def watch(self, connection: Any) -> None:
        """Record the statements of one connection until it is closed.

        :param connection: of ``sqlite3``, whose trace callback this takes, or of
            PyMySQL, whose ``query`` is replaced. For an engine of SQLAlchemy there is
            ``integrations.sqlalchemy.recording``; for what else there is, :meth:`note`.
        :raises TypeError: of neither of them.
        """
        connection = own_connection(connection)
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(lambda sql: self.note(sql, "sqlite"))
        elif type(connection).__module__.partition(".")[0] == "pymysql":
            query = connection.query

            def noted(sql: Any, *args: Any, **kwargs: Any) -> Any:
                self.note(sql, "mysql")
                return query(sql, *args, **kwargs)

            connection.query = noted
        else:
            raise TypeError(
                "must be a connection of sqlite3 or PyMySQL, not"
                f" {type(connection).__qualname__}: give its statements to note()"
            )

    def note(self, sql: str | bytes, dialect: str) -> None:
        """Record a statement that runs now in this thread, if a load is under way.

        :param dialect: as sqlglot calls it: "mysql", "sqlite", "postgres".
        """
        load = _current.get()
        if load is None:
            return
        load.seen = True
        if not isinstance(sql, str):
            sql = bytes(sql).decode("utf-8", "backslashreplace")
        self._write(load, _loader(sys._getframe(1)), sql, dialect)

    def _watched(
        self, key: str, tags: Sequence[str], loader: Callable[[], Any]
    ) -> Callable[[], Any]:
        def load() -> Any:
            outer = _current.get()
            if outer is not None:
                outer.seen = True
            this = _Load(key, tags)
            token = _current.set(this)
            try:
                value = loader()
            finally:
                _current.reset(token)
            if not this.seen:
                self._write(this, None, None, None)
            return value

        return load

    def _write(
        self, load: _Load, loader: str | None, sql: str | None, dialect: str | None
    ) -> None:
        record = {"loader": loader, "key": load.key, "tags": list(load.tags)}
        line = json.dumps({**record, "sql": sql, "dialect": dialect}) + "\n"
        with self._lock.mine():
            if line in self._written:
                return
            self._written.add(line)
            # One write each: lines of several processes do not mix.
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(line)


def _loader(frame: FrameType | None) -> str:
    """Name the outermost function of the app's in the load that ``frame`` is in."""
    found = "?"
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGE):
            found = f"{frame.f_globals.get('__name__')}.{code.co_name}"
        elif code.co_name == "load" and code.co_filename == __file__:
            break
        frame = frame.f_back
    return found

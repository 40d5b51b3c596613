"""The outbox in the memory of one process, for tests, demos and development."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from typing import Any, Callable, Iterator, TypeVar

from hydracache_sync.errors import NotInTransactionError, OutboxBusyError, OutboxError
from hydracache_sync.outbox.sql_runner import BUSY_BACKOFF
from hydracache_sync.outbox.sqlite import BUSY_TIMEOUT, SQLiteOutbox, _Connection

T = TypeVar("T")


class MemoryOutbox(SQLiteOutbox):
    """Outbox without a file: the SQLite one on a private database in memory.

    The same statements and so the same behaviour, but nothing outlives the process and
    no other process sees it; in a forked child every call raises ``OutboxError``.
    Thread-safe: threads take turns on one connection, and one that is inside
    :meth:`transaction` keeps the others waiting.

    Its rows are part of a transaction through :meth:`transaction` only.
    """

    _in_memory = True

    def __init__(
        self,
        *,
        busy_timeout: float = BUSY_TIMEOUT,
        max_batch: int | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(
            ":memory:", busy_timeout=busy_timeout, max_batch=max_batch, clock=clock
        )
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._connection = self._connect()
        # Closed with this object; from 3.13 on Python complains about one that is not.
        weakref.finalize(self, self._connection.close)
        self.install_schema()

    def __repr__(self) -> str:
        return "MemoryOutbox()"

    def _connect(self, mode: str = "rw") -> _Connection:
        return sqlite3.connect(
            ":memory:",
            timeout=0.0,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )

    def _drop_connection(self) -> None:
        # The rows live in it: it only changes how it gives them.
        self._connection.text_factory = self._text_factory

    @contextlib.contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        if os.getpid() != self._pid:
            raise OutboxError(
                f"a MemoryOutbox lives in process {self._pid} and this is its child"
                f" {os.getpid()}; use SQLiteOutbox across processes"
            )
        self._refuse_in_block()
        # Short: how long to wait in all is the caller's to count.
        if not self._mutex.acquire(timeout=BUSY_BACKOFF.longest):
            raise OutboxBusyError(f"{self}: another thread is inside transaction()")
        try:
            yield self._connection
        finally:
            self._mutex.release()

    def _run_in(self, connection: Any, work: Callable[[sqlite3.Cursor], T]) -> T:
        block = self._open_block()
        if block is None or block.connection is not connection:
            raise NotInTransactionError(
                "a MemoryOutbox takes part in no connection but its own: use"
                " `with outbox.transaction() as connection`"
            )
        return super()._run_in(connection, work)

    def _changes(self) -> None:
        """No file, whatever may be named ``:memory:`` here."""

    def _require_same_file(self, connection: sqlite3.Connection) -> None:
        """No other connection gets past :meth:`_run_in`."""

    def install_schema(self) -> None:
        with self._session() as connection:
            self._retried(lambda: self._install(connection))

    def close(self) -> None:
        """Do nothing: the rows live as long as this object."""

"""Running statements on own connections: again until the database is not busy.

What the statements are is in :mod:`~hydracache_sync.outbox.statements`. Knows nothing
of appliers, caches or threads.
"""

from __future__ import annotations

import abc
import contextlib
import time
from typing import Any, Callable, ContextManager, Iterator, NoReturn, Sequence, TypeVar

from hydracache_sync.backoff import Backoff
from hydracache_sync.durations import duration_ms
from hydracache_sync.errors import (
    ConnectionLostError,
    OutboxBusyError,
    OutboxError,
    ReadOnlyServerError,
    SchemaError,
)
from hydracache_sync.fork import ProcessLocal
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.statements import Dialect, Statements

T = TypeVar("T")

#: Ids or hashes in one statement: old SQLite takes 999 parameters.
IDS_PER_STATEMENT = 500

#: Pauses before an own transaction that found the database busy is run again. The first
#: is about one commit.
BUSY_BACKOFF = Backoff(0.001, 0.05)

#: Seconds that a call with a time limit has at least: of one that has none left it is
#: still an answer that is wanted, and to ask takes a round trip, or several to connect.
LEAST_TIME = 0.25


class StatementRunner(InvalidationOutbox):
    """An outbox's own connections, as the adapter of a database lends them."""

    #: Set by the adapter.
    dialect: Dialect

    def __init__(
        self, *, table: str, busy_timeout: float, clock: Callable[[], float] | None
    ) -> None:
        super().__init__()
        self._statements = Statements(self.dialect, table)
        self._table = table
        duration_ms("busy_timeout", busy_timeout)
        self._busy_timeout = busy_timeout
        self._clock = clock
        #: Until when the call that a thread is in has time.
        self._limits = ProcessLocal()
        self._schema_checked = False

    # What an adapter supplies

    @abc.abstractmethod
    def _session(self) -> ContextManager[Any]:
        """Lend this thread its connection, outside of any transaction."""

    @abc.abstractmethod
    def _translated(self) -> ContextManager[None]:
        """Turn the driver's errors into ours."""

    @abc.abstractmethod
    def _abandon(self, connection: Any, exc: BaseException) -> None:
        """Roll back whatever is open; if that fails, drop the connection.

        :param exc: what has ended the transaction.
        """

    @abc.abstractmethod
    def _in_transaction(self, connection: Any) -> bool:
        """Whether the own ``connection`` has a transaction open."""

    @abc.abstractmethod
    def _claiming(self, cursor: Any) -> ContextManager[None]:
        """What a claim needs around its transaction."""

    # What the rest of an outbox supplies

    @abc.abstractmethod
    def _check_schema(self, timeout: float | None) -> None:
        """Raise SchemaError unless the tables are there and as they should be."""

    # Time limits

    @contextlib.contextmanager
    def _within(self, timeout: float | None) -> Iterator[None]:
        """Have all that is done in the block end within ``timeout`` seconds."""
        if timeout is None:
            yield
            return
        duration_ms("timeout", timeout)
        limits = self._limits.mine().__dict__
        before = limits.get("until")
        until = time.monotonic() + max(timeout, LEAST_TIME)
        limits["until"] = until if before is None else min(before, until)
        try:
            yield
        finally:
            limits["until"] = before

    def _until(self) -> float | None:
        """When the time of this thread's call is over; None where it has no limit."""
        until: float | None = self._limits.mine().__dict__.get("until")
        return until

    # Running statements

    def _check_once(self, timeout: float | None = None) -> None:
        """Check the tables before the first use of them by this object."""
        if not self._schema_checked:
            self._check_schema(timeout)
            self._schema_checked = True

    def _host_now_ms(self) -> int:
        return int((self._clock or time.time)() * 1000)

    def _params(self, **params: Any) -> dict[str, Any]:
        """Add the clock's reading, for dialects that bind it."""
        params["now"] = self._host_now_ms()
        return params

    def _run_with_ids(self, template: str, part: Sequence[int], **params: Any) -> int:
        def change(cursor: Any) -> int:
            self._statements.run(cursor, template, self._params(**params), part)
            return int(cursor.rowcount)

        return self._run(change)

    def _read(
        self,
        template: str,
        params: dict[str, Any],
        ids: Sequence[Any] = (),
        *,
        timeout: float | None = None,
        check: bool = True,
    ) -> list[tuple[Any, ...]]:
        """Run one select by itself, so that it sees what is committed now."""

        def select(cursor: Any) -> list[tuple[Any, ...]]:
            self._statements.run(cursor, template, params, ids)
            return list(cursor.fetchall())

        return self._run(select, timeout=timeout, check=check)

    def _run(
        self,
        work: Callable[[Any], T],
        *,
        timeout: float | None = None,
        check: bool = True,
    ) -> T:
        """Run ``work``, a single statement, which commits by itself."""

        def attempt() -> T:
            with self._session() as connection:
                return work(connection.cursor())

        with self._within(timeout):
            if check:
                self._check_once(timeout)
            return self._retried(attempt, timeout)

    def _transact(
        self,
        work: Callable[[Any], T],
        *,
        timeout: float | None = None,
        claim: bool = False,
    ) -> T:
        """Run ``work`` in an own transaction; run it again whole if it was busy.

        :param claim: it claims rows, see :meth:`_claiming`.
        """

        def attempt() -> T:
            with self._session() as connection:
                cursor = connection.cursor()
                with self._claiming(cursor) if claim else contextlib.nullcontext():
                    try:
                        cursor.execute(self.dialect.begin)
                        result = work(cursor)
                        connection.commit()
                    except BaseException as exc:
                        self._abandon(connection, exc)
                        raise
                return result

        with self._within(timeout):
            self._check_once(timeout)
            return self._retried(attempt, timeout)

    def _retried(
        self,
        attempt: Callable[[], T],
        timeout: float | None = None,
        *,
        replace: bool = True,
    ) -> T:
        """Call ``attempt`` until the database is not busy, or the time is up.

        :param replace: on a connection that turns out to be dead, or at a server that
            takes no writes, call once more on a new one. Every attempt is whole and may
            be made twice.
        """
        if timeout is None:
            timeout = self._busy_timeout
        else:
            duration_ms("timeout", timeout)
        deadline = time.monotonic() + timeout
        failures = 0
        while True:
            try:
                with self._translated():
                    return attempt()
            except OutboxBusyError:
                # Nothing was changed; the attempt begins anew. Our own pauses, not
                # SQLite's busy handler, which would stop every greenlet of gevent.
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise
                failures += 1
                time.sleep(min(remaining, BUSY_BACKOFF.pause(failures)))
            except ConnectionLostError as exc:
                until = self._until()
                if until is not None and time.monotonic() >= until:
                    # Nobody knows whether the database is away, or slow: there was
                    # little time.
                    raise OutboxBusyError(f"{exc}; the call's time is over") from exc
                if not replace:
                    raise
                replace = False
            except ReadOnlyServerError:
                if not replace:
                    raise
                replace = False


def raise_as(error: OutboxError, exc: Exception) -> NoReturn:
    """Raise ``error`` in place of ``exc``, which is its cause if it tells more."""
    try:
        raise error from (None if isinstance(error, SchemaError) else exc)
    finally:
        # A frame that holds the error is held by it, and with it the cursor of the
        # statement: the connection would stay open until the next collection.
        del error, exc


def parts_of(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def checked_count(name: str, value: int) -> int:
    """Check a whole number that is not negative and fits a database's integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if not 0 <= value < 2**63:
        raise ValueError(f"{name} must be 0 or more, not {value}")
    return value

"""An outbox's own transactions: sessions, retries and errors, each in one place.

Each part of an outbox holds a :class:`Database` and runs its statements through it.
What differs between databases is in its :class:`Sessions`. What the statements are is
in :mod:`~hydracache_sync.outbox.statements`. Knows nothing of appliers or caches.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import time
from typing import (
    Any,
    Callable,
    ContextManager,
    Iterator,
    NoReturn,
    Protocol,
    Sequence,
    TypeVar,
)

from hydracache_sync.backoff import Backoff
from hydracache_sync.drivers.connection import TransactionEnd
from hydracache_sync.durations import duration_ms
from hydracache_sync.errors import (
    ConnectionLostError,
    OutboxBusyError,
    OutboxError,
    ReadOnlyServerError,
    SchemaError,
)
from hydracache_sync.keys import checked_namespace
from hydracache_sync.outbox.call_limits import CallLimits
from hydracache_sync.outbox.dialect import Dialect, Statements
from hydracache_sync.outbox.statements import NOW
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

T = TypeVar("T")

#: Ids or hashes in one statement: old SQLite takes 999 parameters.
IDS_PER_STATEMENT = 500

#: Pauses before an own transaction that found the database busy is run again. The first
#: is about one commit.
BUSY_BACKOFF = Backoff(0.001, 0.05)


class Sessions(Protocol):
    """An outbox's own connections to one database, and what the errors there mean."""

    #: Whether a COMMIT that found the database busy may be sent again. Where it may
    #: not, the failed one has rolled back.
    retries_commit: bool

    def lend(self) -> ContextManager[Any]:
        """Lend this thread a connection, outside of any transaction."""

    def error_of(self, exc: Exception) -> OutboxError | None:
        """Return what the driver's ``exc`` means; None if it is not the driver's."""

    def abandon(self, connection: Any, exc: BaseException) -> None:
        """Roll back whatever is open; if that fails, drop the connection.

        :param exc: what has ended the transaction.
        """

    def in_transaction(self, connection: Any) -> bool:
        """Whether the own ``connection`` has a transaction open."""

    def prepare(self, connection: Any) -> None:
        """Make an own connection ready for the caller's statements."""

    def restore(self, connection: Any) -> None:
        """Undo :meth:`prepare`, and what the caller has changed."""

    def close(self) -> None:
        """Close the connections of this process."""


class Block:
    """An open ``transaction()`` block of one thread.

    :ivar namespaces: in which rows were enqueued in it.
    """

    def __init__(self, connection: Any) -> None:
        self.pid = os.getpid()
        self.connection = connection
        self.namespaces: list[str] = []
        self.over = TransactionEnd()


class Database:
    """Runs statements on own connections, and again until the database is not busy.

    Thread-safe.

    :param name: of the outbox, for errors.
    :param busy_timeout: seconds that an own transaction is run again while others are
        in its way.
    :param clock: returns Unix seconds; by default ``time.time``.
    """

    def __init__(
        self,
        sessions: Sessions,
        dialect: Dialect,
        table: str,
        *,
        name: str,
        busy_timeout: float,
        clock: Callable[[], float] | None,
        limits: CallLimits,
    ) -> None:
        duration_ms("busy_timeout", busy_timeout)
        self.sessions = sessions
        self.dialect = dialect
        self.statements = Statements(dialect, table)
        self.table = table
        self.name = name
        self.limits = limits
        self.clock = clock
        self._busy_timeout = busy_timeout
        #: The open block of each thread, by its ident. Those of other processes count
        #: for nothing: a fork copies them.
        self._blocks: dict[int, Block] = {}
        self._check: Callable[[float | None], None] | None = None

    def checked_by(self, check: Callable[[float | None], None]) -> Database:
        """Return one that calls ``check(timeout)`` before its first statement.

        It has the same sessions, blocks and limits.
        """
        checked = copy.copy(self)
        checked._check = check
        return checked

    def check_once(self, timeout: float | None = None) -> None:
        """Check the tables before the first use of them by this object."""
        check = self._check
        if check is not None:
            check(timeout)
            self._check = None

    # Parameters

    def host_now_ms(self) -> int:
        return int((self.clock or time.time)() * 1000)

    def params(self, **params: Any) -> dict[str, Any]:
        """Add the clock's reading, for dialects that bind it."""
        params["now"] = self.host_now_ms()
        return params

    def params_of(self, namespace: str, **params: Any) -> dict[str, Any]:
        """The same, with the namespace, which is checked."""
        encoded = self.dialect.encode(checked_namespace(namespace))
        return self.params(namespace=encoded, **params)

    def now_ms(self) -> int:
        """Return the clock that judges claims and backoffs, in Unix milliseconds."""
        [(now_ms,)] = self.read(NOW, self.params())
        return int(now_ms)

    # Statements that commit by themselves

    def session(self) -> ContextManager[Any]:
        """Lend this thread a connection, outside of any transaction."""
        self.require_no_block()
        return self.sessions.lend()

    def require_no_block(self) -> None:
        """Refuse a call of a thread that has an open ``transaction()`` block.

        :raises OutboxError: it has one.
        """
        # Most often no thread has one, and a pool asks fifty times a second.
        if self._blocks and self.open_block() is not None:
            raise OutboxError(
                "this thread is inside a transaction() block of the outbox; there it"
                " may call enqueue_in with the block's connection only"
            )

    def read(
        self,
        template: str,
        params: dict[str, Any],
        ids: Sequence[Any] = (),
        *,
        timeout: float | None = None,
    ) -> list[tuple[Any, ...]]:
        """Run one select by itself, so that it sees what is committed now."""
        with self.limits.within(timeout):
            self.check_once(timeout)
            attempt = self.attempt(timeout)
            while True:
                with attempt, self.session() as connection:
                    cursor = connection.cursor()
                    self.statements.run(cursor, template, params, ids)
                    return list(cursor.fetchall())

    def change(
        self,
        template: str,
        params: dict[str, Any],
        ids: Sequence[Any] = (),
        *,
        timeout: float | None = None,
    ) -> int:
        """Run one statement that commits by itself; return the rows it changed."""

        def change(cursor: Any) -> int:
            self.statements.run(cursor, template, params, ids)
            return int(cursor.rowcount)

        return self.run(change, timeout=timeout)

    def run(self, work: Callable[[Any], T], *, timeout: float | None = None) -> T:
        """Run ``work(cursor)``, a single statement, which commits by itself."""
        with self.limits.within(timeout):
            self.check_once(timeout)
            attempt = self.attempt(timeout)
            while True:
                with attempt, self.session() as connection:
                    return work(connection.cursor())

    # Transactions

    def change_all(
        self,
        template: str,
        parts: Sequence[tuple[dict[str, Any], Sequence[Any]]],
        *,
        timeout: float | None = None,
    ) -> int:
        """Run one statement for each of ``parts``, all of them or none.

        :param parts: parameters, to which the clock's reading is added, and ids.
        :return: rows changed.
        """

        def change(cursor: Any) -> int:
            changed = 0
            for params, ids in parts:
                self.statements.run(cursor, template, self.params(**params), ids)
                changed += cursor.rowcount
            return changed

        if not parts:
            return 0
        if len(parts) == 1:
            return self.run(change, timeout=timeout)
        return self.transact(change, timeout=timeout)

    def transact(
        self,
        work: Callable[[Any], T],
        *,
        timeout: float | None = None,
        around: Callable[[Any], ContextManager[None]] | None = None,
    ) -> T:
        """Run ``work(cursor)`` in an own transaction, and whole again if it was busy.

        :param around: gives what to enter around the transaction, by its cursor.
        """
        with self.limits.within(timeout):
            self.check_once(timeout)
            attempt = self.attempt(timeout)
            while True:
                with attempt, self.session() as connection:
                    cursor = connection.cursor()
                    with around(cursor) if around else contextlib.nullcontext():
                        try:
                            cursor.execute(self.dialect.begin)
                            result = work(cursor)
                            connection.commit()
                        except BaseException as exc:
                            self.sessions.abandon(connection, exc)
                            raise
                    return result

    @contextlib.contextmanager
    def block(self) -> Iterator[Block]:
        """Open a transaction for the caller's statements; commit at the end.

        An exception rolls back. Where the caller has ended the transaction, that is
        said: by an error, or in the log where the block has raised another one.
        """
        self.check_once()
        sessions = self.sessions
        with contextlib.ExitStack() as stack:
            connection = self._begin(stack)
            block = self._blocks[threading.get_ident()] = Block(connection)
            try:
                sessions.prepare(connection)
                try:
                    yield block
                except BaseException:
                    self._say_if_ended(block)
                    raise
                self._end(block)
            except BaseException as exc:
                if os.getpid() == block.pid:
                    sessions.abandon(connection, exc)
                raise
            finally:
                self._blocks.pop(threading.get_ident(), None)
                sessions.restore(connection)
        block.over.note()

    def open_block(self) -> Block | None:
        """This thread's open ``transaction()`` block, if it has one."""
        if not self._blocks:
            return None  # mostly, and for a producer
        block = self._blocks.get(threading.get_ident())
        return block if block is not None and block.pid == os.getpid() else None

    def _begin(self, stack: contextlib.ExitStack) -> Any:
        """Begin a transaction on an own connection that ``stack`` gives back."""
        attempt = self.attempt()
        while True:
            with attempt, contextlib.ExitStack() as lent:
                connection = lent.enter_context(self.session())
                connection.cursor().execute(self.dialect.begin)
                stack.push(lent.pop_all())
                return connection

    def _end(self, block: Block) -> None:
        if os.getpid() != block.pid:
            raise OutboxError(
                f"a transaction() block of process {block.pid} was left in its child;"
                " it ends in the parent"
            )
        attempt = self.attempt(None if self.sessions.retries_commit else 0.0)
        attempt.replace = False
        with attempt:
            if not self.sessions.in_transaction(block.connection):
                raise OutboxError(
                    "the transaction was ended inside the transaction() block; leave"
                    " commit and rollback to the block"
                )
        while True:
            with attempt:
                block.connection.commit()
                return

    def _say_if_ended(self, block: Block) -> None:
        if os.getpid() != block.pid:
            return
        try:
            is_open = self.sessions.in_transaction(block.connection)
        except Exception:  # the caller has closed it, which has rolled back
            return
        if not is_open:
            logger.warning(
                "%s: a transaction() block raised after its transaction had been ended"
                " inside: what was committed there, or written since, is not rolled"
                " back. Leave commit and rollback to the block",
                self.name,
            )

    def attempt(self, timeout: float | None = None) -> Attempt:
        """Return the context in which to try, and to try again if it ends.

        :param timeout: seconds to go on while the database is busy; by default the
            outbox's own.
        """
        if timeout is None:
            timeout = self._busy_timeout
        return Attempt(self.sessions, self.limits, timeout)


class Attempt:
    """Entered for each try of a transaction, in a loop that its success leaves.

    The driver's errors leave it as ours. Where it is worth another try, the error ends
    here, after a pause if the database is busy. Every try is whole.

    :ivar replace: on a connection that turns out to be dead, or at a server that takes
        no writes, try once more on a new one.
    """

    __slots__ = ("_deadline", "_failures", "_limits", "_sessions", "replace")

    def __init__(self, sessions: Sessions, limits: CallLimits, timeout: float) -> None:
        self._sessions = sessions
        self._limits = limits
        self._deadline = time.monotonic() + timeout
        self._failures = 0
        self.replace = True

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> bool:
        if not isinstance(exc, Exception):
            return False
        error = exc if isinstance(exc, OutboxError) else self._sessions.error_of(exc)
        try:
            if error is None:
                return False
            if isinstance(error, OutboxBusyError):
                if self._has_paused():
                    return True
            elif isinstance(error, (ConnectionLostError, ReadOnlyServerError)):
                until = self._limits.until()
                if isinstance(error, ConnectionLostError) and until is not None:
                    if time.monotonic() >= until:
                        # Whether the database is away, or slow, is not known: there was
                        # little time.
                        error = OutboxBusyError(f"{error}; the call's time is over")
                        raise_as(error, exc)
                if self.replace:
                    self.replace = False
                    return True
            if error is exc:
                return False
            raise_as(error, exc)
        finally:
            # A frame that holds the error is held by it, and with it the cursor of the
            # statement: the connection would stay open until the next collection.
            del error

    def _has_paused(self) -> bool:
        """Wait until the next try; False if the time is up.

        Nothing was changed; the try begins again. Our own pauses, not SQLite's busy
        handler, which would stop every greenlet of gevent.
        """
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            return False
        self._failures += 1
        time.sleep(min(remaining, BUSY_BACKOFF.pause(self._failures)))
        return True


def raise_as(error: OutboxError, exc: Exception) -> NoReturn:
    """Raise ``error`` in place of ``exc``, which is its cause if it tells more."""
    try:
        raise error from (None if isinstance(error, SchemaError) else exc)
    finally:
        # As above.
        del error, exc


def parts_of(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]

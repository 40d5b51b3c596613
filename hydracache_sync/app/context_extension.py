"""The calls of an app whose framework keeps nothing for a request: a scope does it.

A scope is what serves one request, or one run of a script. It is current only while the
app's own code runs, so that nothing of it is left behind in a thread, whoever forgets
to end it. Knows neither WSGI nor a framework.
"""

from __future__ import annotations

import contextlib
import os
import threading
from contextvars import ContextVar
from typing import Any, Iterator, Mapping

from hydracache_sync.app import app_settings
from hydracache_sync.app.config import AppConfig
from hydracache_sync.app.extension import Extension
from hydracache_sync.app.request_state import LONGEST_PLACE, RequestState
from hydracache_sync.app.request_writes import SAFE_METHODS, RequestWrites
from hydracache_sync.app.runtime import Runtime
from hydracache_sync.app.snapshot_guard import SnapshotGuard
from hydracache_sync.app.teardown import (
    ConnectionOf,
    end_request,
    new_collector,
    write_into_open_transaction,
)
from hydracache_sync.cache.read_memo import ReadMemo
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.fork import abandon_in_children
from hydracache_sync.printable import printable
from hydracache_sync.snapshots import NEVER, LocalMoment


class Scope:
    """One request, or one run of a script, from its begin to its end.

    :param where: names it, for log lines and as the reason of the rows.
    :param safe: it is a request that changes nothing, by its method, or no request.
    :param is_request: it is a request, which ends soon.
    :param connection_of: returns its connection, where the app said so.
    """

    def __init__(
        self,
        runtime: Runtime,
        where: str,
        *,
        safe: bool = True,
        is_request: bool = False,
        connection_of: ConnectionOf | None = None,
    ) -> None:
        self.where = where
        self.safe = safe
        self.is_request = is_request
        self.connection_of = connection_of
        self.thread = threading.get_ident()
        self.writes: RequestWrites | None = None
        self.began: float = LocalMoment.now()
        self.collected: RequestState | None = None
        #: What it has read, until its response is there: a stream may last.
        self.memo = ReadMemo() if is_request and safe and runtime.memoizes else None
        self._runtime = runtime
        self._has_ended = False

    def is_over(self) -> bool:
        """Whether it has ended, for the thread that it began in."""
        return self._has_ended and self.thread == threading.get_ident()

    def offer(self) -> None:
        """Write what was collected into the transaction that the app will end."""
        collected, connection_of = self.collected, self.connection_of
        if collected is None or connection_of is None or collected.why:
            return
        if collected or self._runtime.strict:
            collected.why = write_into_open_transaction(
                self._runtime, collected, connection_of
            )

    def end(self) -> None:
        """Write what is left on an own connection. The second time there is nothing."""
        self._has_ended = True
        collected, self.collected = self.collected, None
        end_request(self._runtime, collected)


class _Entered:
    """A scope that a block serves, and what was being served before.

    Blocks need not end in the order of their begins: a generator that holds one is
    closed whenever somebody drops it, perhaps by another thread.
    """

    __slots__ = ("scope", "outer", "pid")

    def __init__(self, scope: Scope, outer: _Entered | None) -> None:
        self.scope = scope
        self.outer = outer
        self.pid = os.getpid()


def _not_over(entered: _Entered | None) -> _Entered | None:
    """The last one whose scope has not ended in this thread.

    A thread that runs in a copy of the context may go on in a scope that has.
    """
    while entered is not None and entered.scope.is_over():
        entered = entered.outer
    return entered


class ContextExtension(Extension):
    """The calls of one app, with its settings.

    :param config: any mapping with ``HYDRACACHE_`` keys, as ``os.environ``; others are
        not looked at. The keys are those of the Flask extension, but for those that
        only it, or a command, can heed: they are refused.
    :param commands: there are commands that have these settings.
    :raises ConfigurationError: keys are missing, unknown or wrong, or have no effect.
    """

    def __init__(self, config: Mapping[str, Any], *, commands: bool = False) -> None:
        self._entered: ContextVar[_Entered | None] = ContextVar(
            "hydracache_scope", default=None
        )
        abandon_in_children(self)
        self.config = AppConfig(config, commands=commands)
        guard = SnapshotGuard(
            self.config[app_settings.SNAPSHOT],
            self.collected_if_any,
            self._scope_began,
            self.request_writes,
            lambda: self.runtime.replica_reads,
            lambda: self.runtime.read_only_reads,
        )
        self._runtime = Runtime(
            self.config,
            snapshot=guard,
            kinds=self.kinds,
            memo=self.request_memo,
            request=self._served,
        )

    @property
    def runtime(self) -> Runtime:
        return self._runtime

    @property
    def current_scope(self) -> Scope | None:
        """What is being served in this thread; None if nothing is."""
        entered = _not_over(self._entered.get())
        return None if entered is None else entered.scope

    def abandon_inherited(self) -> None:
        """In a forked child, leave the parent's scope: the child never ends that scope,
        and would lose what it collects there."""
        entered = self._entered.get()
        if entered is not None and entered.pid != os.getpid():
            self._entered.set(None)

    def collected(self) -> RequestState:
        scope = self.current_scope
        if scope is None:
            raise ConfigurationError(
                "nothing is being served here: the app is not wrapped, or this is"
                " another thread, or a process that was forked from the one that"
                " serves; elsewhere put it into `with hydracache.collecting():`"
            )
        if scope.collected is None:
            scope.collected = new_collector(self._runtime, scope.where)
        return scope.collected

    def collected_if_any(self) -> RequestState | None:
        scope = self.current_scope
        return None if scope is None else scope.collected

    def request_writes(self) -> RequestWrites | None:
        scope = self.current_scope
        return None if scope is None else self._writes_of(scope)

    def _writes_of(self, scope: Scope) -> RequestWrites:
        if scope.writes is None:
            scope.writes = RequestWrites(
                scope.connection_of,
                safe=scope.safe,
                followed=self.transactions_are_followed,
                thread=scope.thread,
            )
        return scope.writes

    def request_memo(self) -> ReadMemo | None:
        scope = self.current_scope
        return scope.memo if scope and scope.collected is None else None

    @contextlib.contextmanager
    def collecting(
        self, where: str = "a script", *, is_request: bool = False
    ) -> Iterator[None]:
        """Serve a block that is no request: of a script, a task, a consumer.

        At its end what was collected and not written goes out on an own connection,
        with a warning. No pool is started. Within a request, in its thread, the block
        is part of that, whose reads are to know what it has written. It is part of
        another such block while that one has a ``transaction()`` open, or something
        that is not published.

        :param is_request: it ends soon and may change something, as a POST does: a task
            of a queue.
        """
        outer = self.current_scope
        if outer is not None and outer.thread == threading.get_ident():
            if outer.is_request or self._is_under_way(outer):
                yield
                return
        scope = Scope(self._runtime, where, safe=not is_request, is_request=is_request)
        try:
            with self.current(scope):
                yield
        finally:
            scope.end()

    @contextlib.contextmanager
    def current(self, scope: Scope) -> Iterator[None]:
        """Collect into ``scope`` within the block."""
        entered = _Entered(scope, _not_over(self._entered.get()))
        self._entered.set(entered)
        try:
            yield
        finally:
            if self._entered.get() is entered:
                self._entered.set(_not_over(entered.outer))

    def _is_under_way(self, scope: Scope) -> bool:
        collected = scope.collected
        if collected is not None and collected.open_blocks:
            return True
        return not self.reads_own_writes()

    def begin(
        self, method: str, path: str, connection_of: ConnectionOf | None = None
    ) -> Scope:
        """Begin to serve a request, in a process that may have a pool then."""
        self._runtime.ensure()
        scope = Scope(
            self._runtime,
            f"{method} {path}",
            safe=method in SAFE_METHODS,
            is_request=True,
            connection_of=connection_of,
        )
        if connection_of is not None:
            self._writes_of(scope).begin()
        return scope

    def _served(self) -> str | None:
        scope = self.current_scope
        return None if scope is None else printable(scope.where, LONGEST_PLACE)

    def _scope_began(self) -> float:
        scope = self.current_scope
        return NEVER if scope is None else scope.began

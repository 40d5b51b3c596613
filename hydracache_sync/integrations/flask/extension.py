"""The Flask extension: one line in the app factory, one line beside each change.

Keeps to Flask's order of things: teardown functions run in the reverse order of their
registration and before the first byte of the response; ``exc`` is no sign of success;
with a streamed response teardown may run twice. Commits nothing of the app's.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any, Callable

from flask import Flask, Response, current_app, g, has_app_context
from flask import has_request_context as serving_a_request
from flask import request

from hydracache_sync.app import app_settings, open_transactions
from hydracache_sync.app.config import AppConfig
from hydracache_sync.app.extension import Extension
from hydracache_sync.app.receipt_cookie import ReceiptCookie
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
from hydracache_sync.cli.program import app_commands
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.integrations.attaching import attach, intents_of
from hydracache_sync.integrations.flask import cookie_reads
from hydracache_sync.integrations.flask.metrics import serve_metrics
from hydracache_sync.integrations.flask.pages import cached_page
from hydracache_sync.integrations.flask.request_reads import noted_reads
from hydracache_sync.integrations.flask.state import NAME, FlaskState, state_of
from hydracache_sync.pool import WorkerPool
from hydracache_sync.printable import printable, printable_logger
from hydracache_sync.snapshots import NEVER, LocalMoment

#: Names on ``flask.g``.
_COLLECTED = "_hydracache_collected"
_BEGAN = "_hydracache_began"
_MADE = "_hydracache_made"
_ASKED = "_hydracache_asked"
_WRITES = "_hydracache_writes"
_MEMO = "_hydracache_memo"
_THREAD = "_hydracache_thread"
_SERVED = "_hydracache_served"
_PID = "_hydracache_pid"

logger = printable_logger(__name__)


class HydraCache(Extension):
    """Cache invalidation in the transactions of a Flask app.

    Make one beside the app and call :meth:`init_app`; several apps may share it. The
    keys of the app's config are in docs/reference/settings.md; they are checked at
    once.

    :param app: the same as calling ``init_app(app, connection=connection)``.
    """

    attach = attach
    intents_of = intents_of
    cached_page = cached_page
    noted_reads = staticmethod(noted_reads)

    def __init__(
        self, app: Flask | None = None, *, connection: ConnectionOf | None = None
    ) -> None:
        if app is not None:
            self.init_app(app, connection=connection)
        elif connection is not None:
            raise TypeError("give connection= to init_app(), it belongs to one app")

    def init_app(self, app: Flask, *, connection: ConnectionOf | None = None) -> None:
        """Serve ``app`` too; connects nothing and starts no thread.

        :param connection: returns the connection of the request that is being served,
            or None if it has not opened one: ``lambda: g.get("db")``. It is called when
            a request begins, too, so it must not open one. What the view has
            collected and not written is then written, at teardown, into the transaction
            that is open on it, which the app commits or rolls back afterwards. For
            that, register your own teardown functions *before* this call. May return a
            list of all that the request writes through, the one of the outbox's
            database first: what they have changed and not committed is not cached.
        :raises ConfigurationError: ``HYDRACACHE_`` keys are missing, unknown or wrong,
            or the app has the extension already. Nothing was registered.
        """
        if NAME in app.extensions:
            raise ConfigurationError(f"{app} has this extension already")
        if connection is not None and not callable(connection):
            raise TypeError("connection must be a function that returns the connection")
        config = AppConfig(app.config, flask=True)
        guard = SnapshotGuard(
            config[app_settings.SNAPSHOT],
            _collected,
            _request_began,
            self.request_writes,
            lambda: self.runtime.replica_reads,
            lambda: self.runtime.read_only_reads,
        )
        runtime = Runtime(
            config,
            snapshot=guard,
            kinds=self.kinds,
            memo=self.request_memo,
            request=_served,
        )
        cookie = ReceiptCookie(runtime, lambda: app.secret_key)
        state = FlaskState(self, runtime, connection, cookie)
        app.extensions[NAME] = state
        _Hooks(app, state).register()
        app.cli.add_command(app_commands(config.texts))
        if config[app_settings.METRICS] is not None:
            serve_metrics(app, runtime, config[app_settings.METRICS])

    def start_pool(self, app: Flask | None = None) -> WorkerPool | None:
        """Start the pool of this process now and not at its first request.

        For a server's hook after its fork, see docs/operations/servers.md. Does what
        ``HYDRACACHE_POOL`` says, and nothing the second time.

        :param app: whose pool; by default that of the app context.
        """
        state = self._state if app is None else state_of(app)
        return state.runtime.placement.start()

    @property
    def runtime(self) -> Runtime:
        return self._state.runtime

    @property
    def _state(self) -> FlaskState:
        # Past the proxy, as in _kept().
        app: Any = current_app._get_current_object()  # type: ignore[attr-defined]
        return state_of(app)

    def collected(self) -> RequestState:
        collected = _own_collector()
        if collected is None:
            # An app without the extension has no teardown either.
            collected = _new_collector(self._state.runtime)
        return collected

    def collected_if_any(self) -> RequestState | None:
        return _collected()

    def request_writes(self) -> RequestWrites | None:
        if not has_app_context():
            return None
        kept = _kept()
        writes: RequestWrites | None = kept.get(_WRITES)
        if writes is None:
            writes = kept[_WRITES] = RequestWrites(
                self._state.connection_of,
                safe=not serving_a_request() or _request().method in SAFE_METHODS,
                followed=self.transactions_are_followed,
                thread=kept.get(_THREAD),
            )
        return writes

    def request_memo(self) -> ReadMemo | None:
        if not has_app_context():
            return None
        kept = _kept()
        return kept.get(_MEMO) if kept.get(_COLLECTED) is None else None

    def earlier_are_published(self) -> bool:
        """Whether what the same browser wrote in its last requests is published."""
        if not serving_a_request():
            return True
        setattr(g, _ASKED, True)
        return self._state.cookie.is_published(cookie_reads.unwatched_environ())


def _kept() -> dict[str, Any]:
    """What ``flask.g`` has. Past the proxy, which costs more at each attribute.

    :raises RuntimeError: there is no app context.
    """
    found: dict[str, Any] = g._get_current_object().__dict__
    return found


def _request() -> Any:
    """The request that is being served, past the proxy as well."""
    return request._get_current_object()  # type: ignore[attr-defined]


def _own_collector() -> RequestState | None:
    collected: RequestState | None = _kept().get(_COLLECTED)
    if collected is not None and collected.pid != os.getpid():
        return None  # of the process that this one was forked from
    return collected


def _new_collector(runtime: Runtime) -> RequestState:
    kept = _kept()
    collected = kept[_COLLECTED] = new_collector(runtime, _where())
    if kept.get(_PID, collected.pid) != collected.pid:
        logger.warning(
            "%s collects in a process that was forked from its own, and nothing ends"
            " it here: what it does not write is written when this process exits. Put"
            " `with app.app_context():` around what a child does",
            collected.where,
        )
    return collected


def _where() -> str:
    if not serving_a_request():
        return "an app context without a request"
    served = _request()
    return f"{served.method} {served.endpoint or served.path}"


def _served() -> str | None:
    """The request by its path, for an audit; the query string may hold secrets."""
    if not serving_a_request():
        return None
    return printable(f"{request.method} {request.path}", LONGEST_PLACE)


class _Hooks:
    """What runs around the requests of one app."""

    def __init__(self, app: Flask, state: FlaskState) -> None:
        self._app = app
        self._state = state
        self._runtime = state.runtime
        self._ensure_threads = state.runtime.ensure

    def register(self) -> None:
        app, state = self._app, self._state
        app.app_ctx_globals_class = _dated(app.app_ctx_globals_class)
        app.before_request(self.begin)
        cookie_reads.watch(app, lambda: state.calls.caches_pages)
        # Not after_request(): a function of the app that was registered before would
        # run after ours, and may be the one that writes and commits.
        app.process_response = (  # type: ignore[method-assign]
            self.with_answer(app.process_response)
        )
        if self._runtime.memoizes:
            # Of a request whose exception is let out; its app context may be older.
            app.teardown_request(lambda exc: g.pop(_MEMO, None))
        if self._state.connection_of is not None:
            # Run before the app's own that are registered already: their transaction
            # is still open then. The second is for contexts without a request.
            app.teardown_request(self.offer)
            app.teardown_appcontext(self.offer)
        # Flask has no hook for this: it calls no further teardown function, and sends
        # no appcontext_tearing_down and no appcontext_popped, once a function of the
        # app has raised. What the request collected would be lost with it.
        app.do_teardown_appcontext = (  # type: ignore[method-assign]
            self.with_save(app.do_teardown_appcontext)
        )

    def begin(self) -> None:
        self._ensure_threads()
        kept = _kept()
        # A view that asks its own app, by a test client, shares its app context with
        # that request. It is as old as its own begin all the same.
        within = kept.get(_SERVED, 0)
        kept[_SERVED] = within + 1
        kept[_PID] = os.getpid()
        if not within:
            # Not now: what ran before this hook may have begun a transaction. But an
            # app context that is older than the request has only one first request.
            kept[_BEGAN] = kept.pop(_MADE, None) or LocalMoment.now()
        kept.pop(_WRITES, None)  # of an app context that is older than the request
        if self._state.connection_of is not None and not within:
            writes = self._state.calls.request_writes()
            if writes is not None:
                writes.begin()
        if self._runtime.memoizes:
            served = _request()
            if served.method in SAFE_METHODS:
                kept[_MEMO] = ReadMemo(served.endpoint)
        collected: RequestState | None = kept.get(_COLLECTED)
        if collected is not None:
            # The app context is older than the request: around a test client, say.
            # What an earlier request did not find to write into, this one may.
            collected.serve(_where())
            collected.why = ""

    def with_answer(self, process: Callable[..., Response]) -> Callable[..., Response]:
        """Answer after ``process``: after each function of the app, and its session."""

        @functools.wraps(process)
        def run(*args: Any) -> Response:
            response: Response = args[-1]  # Flask may give its context before it
            try:
                response = process(*args)
            finally:
                # Of an error page Flask sends what it has, also if that raises.
                self.answer(response)
            return response

        return run

    def answer(self, response: Response) -> None:
        kept = _kept()
        kept.pop(_MEMO, None)  # what is streamed from here on may last
        if kept.get(_SERVED):
            kept[_SERVED] -= 1
            if kept[_SERVED]:
                kept.pop(_WRITES, None)  # the view that has asked may be no safe one
        collected: RequestState | None = kept.get(_COLLECTED)
        if collected is None and open_transactions.writing():
            # A teardown may commit it, which is to be in the cookie.
            collected = _new_collector(self._runtime)
        if collected is None and _ASKED not in kept:
            return  # most requests, at the cost of two looks
        if collected is not None and self._runtime.mode == "inline":
            self._runtime.publish_in_time(collected.written)
        self._state.cookie.answer(cookie_reads.unwatched_environ(), collected, response)

    def offer(self, exc: BaseException | None = None) -> None:
        """Write what was collected into the transaction that the app will end."""
        collected: RequestState | None = _kept().get(_COLLECTED)
        connection_of = self._state.connection_of
        if collected is None or connection_of is None or collected.why:
            return
        if not collected and not self._runtime.strict:
            return
        collected.why = write_into_open_transaction(
            self._runtime,
            collected,
            connection_of,
            ran_before=self._ran_before(),
        )

    def with_save(self, teardown: Callable[..., None]) -> Callable[..., None]:
        """Have what is left written after ``teardown``, whatever becomes of that.

        After all functions of the app: its own write transaction would lock our
        connection out of a SQLite file.
        """

        @functools.wraps(teardown)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                teardown(*args, **kwargs)
            finally:
                # Popped: with a streamed response this runs twice.
                end_request(self._runtime, _kept().pop(_COLLECTED, None))

        return run

    def _ran_before(self) -> list[str]:
        """Teardown functions that ran before ours, and may have ended a transaction."""
        found: list[Any] = []
        for blueprint, functions in self._app.teardown_request_funcs.items():
            found += functions if blueprint else _after(functions, self.offer)
        if not serving_a_request():
            found = _after(self._app.teardown_appcontext_funcs, self.offer)
        return [
            f"{function.__module__}.{getattr(function, '__qualname__', function)}"
            for function in found
        ]


def _after(functions: list[Any], ours: Any) -> list[Any]:
    place = functions.index(ours) if ours in functions else len(functions)
    return functions[place + 1 :]


def _dated(kind: type[Any]) -> type[Any]:
    """Return a class for ``g`` that notes when it is made, and by which thread.

    Of a request that is before anything of the app runs: functions that were registered
    before ours, and a session that is kept in the database.
    """

    class Globals(kind):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            kept = self.__dict__
            kept[_MADE] = LocalMoment.now()
            kept[_THREAD] = threading.get_ident()
            kept[_PID] = os.getpid()

    return Globals


def _collected() -> RequestState | None:
    return _own_collector() if has_app_context() else None


def _request_began() -> float:
    """Of an app context that serves no request, when it was made."""
    if not has_app_context():
        return NEVER
    began: float = g.get(_BEGAN) or g.get(_MADE, NEVER)
    return began

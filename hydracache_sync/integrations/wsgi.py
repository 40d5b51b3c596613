"""A middleware for WSGI apps that have neither Flask nor SQLAlchemy.

The end of a request is the moment when the server closes the response. Until then the
app's code may run: in a generator, in a ``close()`` of its own. Knows no framework and
no server.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator

from hydracache_sync.app.context_extension import ContextExtension, Scope
from hydracache_sync.app.teardown import ConnectionOf
from hydracache_sync.integrations.attaching import attach, intents_of

#: An app as PEP 3333 has it.
WSGIApp = Callable[[Any, Any], Iterable[bytes]]


class HydraCache(ContextExtension):
    """Cache invalidation in the transactions of a WSGI app.

    Make one beside the app, for the app's code to call, and wrap the app with it::

        hydracache = HydraCache(os.environ)
        application = hydracache.middleware(application)

    :param config: as for ``ContextExtension``.
    """

    attach = attach
    intents_of = intents_of

    def middleware(
        self, app: WSGIApp, *, connection: ConnectionOf | None = None
    ) -> WSGIApp:
        """Wrap ``app``; connects nothing and starts no thread before a request.

        :param connection: returns the connection of the request that is being served,
            or None if it has not opened one. It is called when a request begins, too,
            so it must not open one. Intents that were collected and not
            written are written when the response is closed, into the transaction that
            is open on it. That is before the ``close()`` of the app's own response,
            which may commit it. May return a list of all that the request writes
            through, the one of the outbox's database first.
        """
        if connection is not None and not callable(connection):
            raise TypeError("connection must be a function that returns the connection")
        return _Middleware(self, app, connection)


class _Middleware:
    def __init__(
        self, calls: HydraCache, app: WSGIApp, connection_of: ConnectionOf | None
    ) -> None:
        self._calls = calls
        self._app = app
        self._connection_of = connection_of

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        calls = self._calls
        method, path = environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", "")
        scope = calls.begin(method, path, self._connection_of)
        try:
            with calls.current(scope):
                body = self._app(environ, start_response)
        except BaseException:
            # Handled outside, or by the server; nobody will close a response.
            self._end(scope)
            raise
        if type(body) in (list, tuple) or _is_file(body, environ):
            # No code of the app runs after this, and servers look at what they get:
            # at its length, or for a file to send.
            self._end(scope)
            return body
        scope.memo = None
        if calls.runtime.mode == "inline" and scope.collected is not None:
            # Before the first byte: what the client does next sees its write.
            calls.runtime.settle(scope.collected.written)
        return _Body(calls, scope, body)

    def _end(self, scope: Scope) -> None:
        try:
            with self._calls.current(scope):
                scope.offer()
        finally:
            scope.end()


class _Body:
    """The app's response; its end is the end of the request."""

    def __init__(self, calls: HydraCache, scope: Scope, body: Iterable[bytes]) -> None:
        self._calls = calls
        self._scope = scope
        self._body = body
        self._iterator: Iterator[bytes] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._calls.current(self._scope):
            if self._iterator is None:
                self._iterator = iter(self._body)
            return next(self._iterator)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with self._calls.current(self._scope):
                self._scope.offer()
                close = getattr(self._body, "close", None)
                if close is not None:
                    close()
        finally:
            self._scope.end()


def _is_file(body: object, environ: Any) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)

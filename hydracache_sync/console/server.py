"""The console that stands alone: an app of its own, and its server."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from typing import Any, Iterator, Mapping, Sequence

from flask import Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server

from hydracache_sync.console.blueprint import console_blueprint
from hydracache_sync.console.guard import HEADERS
from hydracache_sync.console.login import Logins
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.worker.worker import OutboxWorker

#: Seconds that a client may take to send its request.
REQUEST_TIMEOUT = 30.0

#: Bytes of a request's body at most; a form has a few hundred.
MAX_BODY = 100_000


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT
    server_version = "hydracache"
    sys_version = ""

    def log_request(self, *args: object) -> None:
        """Nothing: paths have keys in them, and that of a login has its token."""


def console_app(
    outboxes: Mapping[str, InvalidationOutbox],
    logins: Logins,
    *,
    writable: bool,
    namespaces: Sequence[str] = (),
    workers: Sequence[OutboxWorker] = (),
) -> Flask:
    """Return an app that is nothing but the console, with its login."""
    app = Flask("hydracache_console", static_folder=None)
    app.secret_key = secrets.token_bytes(32)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    logins.register(app)
    app.register_blueprint(
        console_blueprint(
            outboxes,
            authenticate=logins.authenticate,
            writable=writable,
            namespaces=namespaces,
            workers=workers,
            logout="logout",
        )
    )

    @app.after_request
    def protect(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers[name] = value
        return response

    @app.errorhandler(HTTPException)
    def refused(exc: HTTPException) -> Any:
        if exc.response is not None or (exc.code or 500) < 400:
            return exc
        return Response(f"{exc.name}\n", exc.code, content_type="text/plain")

    return app


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens there.

    :param port: 0 for any.
    :raises ConfigurationError: it is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as exc:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {exc.strerror or exc}"
        ) from exc
    return listener


@contextlib.contextmanager
def serving(app: Flask, host: str, listener: socket.socket) -> Iterator[None]:
    """Answer in threads of their own, until the end of the block."""
    server = make_server(
        host,
        listener.getsockname()[1],
        app,
        threaded=True,
        request_handler=_Handler,
        fd=listener.fileno(),
    )
    thread = threading.Thread(
        target=server.serve_forever, name="hydracache-console", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""A few pages by HTTP, for a load balancer and for Prometheus.

Each request has a thread of its own, so that a page answers whatever else hangs.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from typing import Callable, Mapping, Tuple

from hydracache_sync.cli.logs import LOGGER
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.pool import PoolHealth

#: Status code, content type and body.
Answer = Tuple[int, str, bytes]

#: Seconds that a client may take to send its request.
REQUEST_TIMEOUT = 10.0


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    pages: Mapping[str, Callable[[], Answer]]

    def handle_error(self, request: object, client_address: object) -> None:
        # The client is answered by the end of its connection, or has gone.
        LOGGER.debug("a request of %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "hydracache"
    sys_version = ""
    timeout = REQUEST_TIMEOUT

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        status, kind, body = (404, "text/plain", b"") if page is None else page()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: probes come every few seconds."""


def serve(host: str, port: int, pages: Mapping[str, Callable[[], Answer]]) -> None:
    """Serve ``pages`` by their paths, in threads that end with the process.

    :raises ConfigurationError: the port is not to be had.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    server_class = type("_Server", (_Server,), {"address_family": kind})
    try:
        server: _Server = server_class((host, port), _Handler)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {exc.strerror}"
        ) from exc
    server.pages = pages
    threading.Thread(
        target=server.serve_forever, name=f"hydracache-http-{port}", daemon=True
    ).start()


def health_page(health: PoolHealth) -> Answer:
    """What a load balancer is told: 503 if a restart would fix something.

    Without the errors, which may quote what a database has said.
    """
    body = {
        "status": health.status,
        "pid": health.pid,
        "replaced": health.replaced,
        "threads": [
            {
                "name": thread.name,
                "state": thread.state.value,
                "seconds": round(thread.seconds, 3),
                "namespace": thread.namespace,
            }
            for thread in health.threads
        ],
        "outages": [
            {"what": each.what, "namespace": each.namespace, "node": each.node}
            for each in health.outages
        ],
    }
    code = 200 if health.status in health.FINE else 503
    return code, "application/json", json.dumps(body).encode()

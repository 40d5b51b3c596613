"""A WSGI app behind a real server of this process, on a port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Iterator

from werkzeug.serving import WSGIRequestHandler, make_server


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing of requests: what they did is what a test looks at."""


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve ``app`` in threads; yield its URL, without a slash at the end."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

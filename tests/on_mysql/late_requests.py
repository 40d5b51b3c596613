"""A link on which a request arrives after its sender has given it up."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Any

from mysql_databases import PATIENCE


class LateLink:
    """Carries bytes between clients and a server; keeps a client's next ones back.

    After :meth:`hold` the first client that sends something loses its connection; the
    server's side stays open. :meth:`deliver` gives the server what was sent. Other
    connections are carried all the time.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._ended = threading.Event()
        self._holding = threading.Event()
        self._deliver = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def hold(self) -> None:
        self._holding.set()

    def deliver(self) -> None:
        self._deliver.set()

    def _start(self, run: Any, *args: Any) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                client, _ = self._listener.accept()
                self._start(self._carry, client)

    def _carry(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            with socket.create_connection(self._server) as server:
                while not self._ended.is_set():
                    for source in select.select([client, server], [], [], 0.05)[0]:
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        if source is client and self._holding.is_set():
                            self._holding.clear()
                            client.close()
                            self._deliver.wait(PATIENCE)
                            server.sendall(data)
                            server.recv(1 << 16)
                            return
                        (server if source is client else client).sendall(data)

    def __enter__(self) -> LateLink:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._deliver.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()

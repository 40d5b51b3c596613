"""What stands between clients and a server: a firewall, a name that moves."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Any, Callable

#: Seconds until a thread of a proxy that was told to end counts as lost.
PATIENCE = 30.0


class Proxy:
    """Carries bytes between clients and a server, well or badly.

    :ivar target: where new connections lead; those that are there stay where they are.
    :ivar swallowing: accepts connections and bytes, and passes nothing on.
    :ivar delay: seconds that each answer is held back.
    :ivar drip: seconds between two bytes of an answer; 0 passes them on as they come.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.swallowing = False
        self.delay = 0.0
        self.drip = 0.0
        self._forgotten: set[int] = set()
        self._alive: set[int] = set()
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def forget(self) -> None:
        """Pass nothing more of the connections there are, as a firewall does."""
        self._forgotten |= self._alive

    def _start(self, run: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                client, _ = self._listener.accept()
                self._start(self._carry, client)

    def _carry(self, client: socket.socket) -> None:
        me = threading.get_ident()
        self._forgotten.discard(me)
        self._alive.add(me)
        try:
            with client, contextlib.suppress(OSError):
                with socket.create_connection(self.target) as server:
                    while not self._ended.is_set():
                        for source in select.select([client, server], [], [], 0.05)[0]:
                            data = source.recv(1 << 16)
                            if not data:
                                return
                            if source is server:
                                self._answer(client, data)
                            elif not self._swallows():
                                server.sendall(data)
        finally:
            self._alive.discard(me)

    def _swallows(self) -> bool:
        return self.swallowing or threading.get_ident() in self._forgotten

    def _answer(self, client: socket.socket, data: bytes) -> None:
        if self.delay:
            self._ended.wait(self.delay)
        if not self.drip:
            if not self._swallows():
                client.sendall(data)
            return
        for n in range(len(data)):
            if self._ended.wait(self.drip):
                return
            client.sendall(data[n : n + 1])

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()

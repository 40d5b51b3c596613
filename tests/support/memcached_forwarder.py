"""A forwarder before one memcached or several, as a proxy or a balancer is.

Each connection goes to the next server in turn. What a proxy does not know ends the
connection, as with twemproxy. Knows nothing of pytest and nothing of the library.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from types import TracebackType
from typing import Callable, Sequence


class Forwarder:
    """Forward connections of a free port of 127.0.0.1 to ``ports``, in turn.

    :param unknown: beginnings of lines at which the connection is ended.
    """

    def __init__(self, ports: Sequence[int], unknown: Sequence[bytes] = ()) -> None:
        self._ports = itertools.cycle(ports)
        self._unknown = tuple(unknown)
        #: Every line that a client has sent, values included.
        self.lines: list[bytes] = []
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def forward_to(self, ports: Sequence[int]) -> None:
        """Forward the connections that come from now on to these ports."""
        self._ports = itertools.cycle(ports)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        for each in (self._listener, *self._open):
            _end(each)

    def __enter__(self) -> Forwarder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", next(self._ports)))
                self._open += [client, server]
                self._start(self._pass_on, client, server, True)
                self._start(self._pass_on, server, client, False)

    def _pass_on(self, source: socket.socket, to: socket.socket, look: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                lines = data.split(b"\r\n") if look else []
                self.lines += lines
                if not data or any(line.startswith(self._unknown) for line in lines):
                    break
                to.sendall(data)
        for each in (source, to):
            _end(each)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

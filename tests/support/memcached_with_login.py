"""A memcached that wants a login (``-Y``)."""

from __future__ import annotations

import socket
from pathlib import Path

from support.servers import Memcached


class MemcachedWithLogin(Memcached):
    """Has the logins of ``lines``, each ``user:password``.

    :param directory: for the file of them.
    """

    def __init__(
        self, directory: Path, *lines: str, unix_socket: bool | str = False
    ) -> None:
        users = directory / "users"
        users.write_text("\n".join(lines) + "\n", encoding="utf-8")
        super().__init__(arguments=("-Y", str(users)), unix_socket=unix_socket)

    def _answering_pid(self) -> int | None:
        # It tells nobody without a login; no other process has this address.
        kind = socket.AF_UNIX if self.address.startswith("/") else socket.AF_INET
        try:
            with socket.socket(kind) as connection:
                connection.settimeout(5)
                at_port = kind == socket.AF_INET and ("127.0.0.1", self.port)
                connection.connect(at_port or self.address)
        except OSError:
            return None
        return self._pid

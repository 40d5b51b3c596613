"""Asking a server on its socket, and whether a process has ended."""

from __future__ import annotations

import os
import socket

#: Seconds within which anything in this file has happened, or has gone wrong.
PATIENCE = 10.0


def connect(address: str) -> socket.socket:
    if address.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
    else:
        host, port = address.split(":")
        connection = socket.create_connection((host, int(port)))
    connection.settimeout(PATIENCE)
    return connection


def ask(address: str, request: bytes) -> bytes:
    """The first bytes of the answer on a new connection; empty if it is closed."""
    with connect(address) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False

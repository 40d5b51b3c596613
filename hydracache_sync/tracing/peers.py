"""The parts of a node's name, as spans have them."""

from __future__ import annotations


def host_and_port(node: str) -> tuple[str, int | None]:
    """Split ``host:port``; what has no port is the path of a socket."""
    host, colon, port = node.rpartition(":")
    if colon and port.isdigit():
        return host.strip("[]"), int(port)
    return node, None

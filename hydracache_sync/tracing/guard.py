"""What spans of every kind need: failures kept from what is traced, a node's name."""

from __future__ import annotations

from typing import Callable, TypeVar

from hydracache_sync.outage import LoggedOutage
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

T = TypeVar("T")


class Guard:
    """Runs what may raise, a processor of spans of the user's for one. Thread-safe."""

    def __init__(self) -> None:
        self._tracing = LoggedOutage(logger, "tracing")

    def run(self, function: Callable[[], T]) -> T | None:
        """Return what ``function`` does; None if it raised, which is logged once."""
        try:
            result = function()
        except Exception as exc:
            # The span is lost, or a part of it. What it is about goes on.
            self._tracing.begin(exc)
            return None
        self._tracing.end()
        return result


def host_and_port(node: str) -> tuple[str, int | None]:
    """Split ``host:port``; what has no port is the path of a socket."""
    host, colon, port = node.rpartition(":")
    if colon and port.isdigit():
        return host.strip("[]"), int(port)
    return node, None

"""A StatsD of a test's own: a UDP socket, and what was sent there."""

from __future__ import annotations

import re
import select
import socket
from typing import Any

#: Name, value, type, and the rate of a sample.
LINE = re.compile(
    r"(?P<name>[A-Za-z0-9_.-]+):(?P<value>\d+(\.\d+)?)\|(?P<kind>c|g|ms)"
    r"(\|@(?P<rate>0\.\d+))?"
)

#: What the system keeps for a socket, in bytes: the most that any user may have.
BUFFER = 200_000


class StatsDServer:
    """Listens on loopback, until the end of the block.

    :ivar counts: sums of counters by name.
    :ivar gauges: the last value of each.
    :ivar timers: milliseconds by name, with how many each stands for.
    :ivar packets: their sizes.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.counts: dict[str, float] = {}
        self.gauges: dict[str, float] = {}
        self.timers: dict[str, list[tuple[float, float]]] = {}
        self.packets: list[int] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> StatsDServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def read(self) -> StatsDServer:
        """Take in what has come. What this host has sent is there at once."""
        while select.select([self._socket], [], [], 0)[0]:
            packet = self._socket.recv(65536)
            self.packets.append(len(packet))
            for line in packet.decode("ascii").split("\n"):
                found = LINE.fullmatch(line)
                assert found is not None, line
                self._take(**found.groupdict())
        return self

    def _take(self, name: str, value: str, kind: str, rate: str | None) -> None:
        number, each = float(value), 1 / float(rate or 1)
        if kind == "c":
            self.counts[name] = self.counts.get(name, 0) + number * each
        elif kind == "g":
            self.gauges[name] = number
        else:
            self.timers.setdefault(name, []).append((number, each))

    def timed(self, name: str) -> float:
        """How many things were timed."""
        return sum(each for _, each in self.timers.get(name, ()))

    def names(self) -> set[Any]:
        return {*self.counts, *self.gauges, *self.timers}

"""Stands in for the system's resolver: it hangs, and answers, when a test says so."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from support.processes import DEADLINE


class Resolver:
    """Answers for names below ``test``, with this host; leaves others to the system.

    :ivar asked: names that it was asked for, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self._really = socket.getaddrinfo
        self._go_on = threading.Event()
        self._go_on.set()
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __enter__(self) -> Resolver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.answer()

    def hang(self) -> None:
        self._go_on.clear()

    def answer(self) -> None:
        self._go_on.set()

    def hangs(self) -> bool:
        return not self._go_on.is_set()

    def __call__(self, host: str, port: int, *more: Any) -> Any:
        if host.endswith(".test"):
            self.asked.append(host)
            assert self._go_on.wait(DEADLINE)
            host = "127.0.0.1"
        return self._really(host, port, *more)

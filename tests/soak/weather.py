"""Outages, one after the other, drawn from the seed: who is hit, how, for how long."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Callable, Sequence

from support.servers import Server

#: Seconds of an outage, and of the calm after it.
AWAY = (0.5, 6.0)
CALM = (1.0, 6.0)


@dataclass(frozen=True)
class Outage:
    """One way to be away: ``begin`` and ``end`` are called once each."""

    name: str
    begin: Callable[[], object]
    end: Callable[[], object]


def killed(name: str, server: Server) -> Outage:
    """Gone, refuses connections, comes back; a memcached comes back empty."""
    return Outage(f"{name} killed", server.kill, server.start)


def hung(name: str, server: Server) -> Outage:
    """Takes connections and answers nothing."""
    return Outage(f"{name} hung", server.pause, server.resume)


def stopped(name: str, process: subprocess.Popen[str]) -> Outage:
    """A process of ours that holds claims and does not go on."""
    return Outage(
        f"{name} stopped",
        lambda: process.send_signal(signal.SIGSTOP),
        lambda: process.send_signal(signal.SIGCONT),
    )


def flapping(name: str, server: Server) -> Outage:
    """Back and away again, as often as there is time for."""

    def begin() -> None:
        for _ in range(3):
            server.kill()
            server.start()

    return Outage(f"{name} flapping", begin, lambda: None)


class Weather(threading.Thread):
    """Draws and plays outages until :meth:`clear_up`.

    :ivar seen: how often each came.
    :ivar failure: what ended it before its time.
    """

    def __init__(
        self,
        outages: Sequence[Outage],
        together: Sequence[Outage],
        rng: random.Random,
    ) -> None:
        super().__init__(name="weather", daemon=True)
        self.seen: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self._outages = outages
        self._together = together
        self._rng = rng
        self._clear = threading.Event()

    def run(self) -> None:
        try:
            while not self._clear.is_set():
                all_at_once = self._rng.random() < 0.1
                hit = self._together if all_at_once else [self._drawn()]
                self._play(hit, "all at once" if all_at_once else hit[0].name)
                self._clear.wait(self._rng.uniform(*CALM))
        except BaseException as exc:
            # The soak reports it as its own failure: nothing was shown.
            self.failure = exc

    def _drawn(self) -> Outage:
        # Each as often as the others: the least seen, and of those any.
        least = min(self.seen[each.name] for each in self._outages)
        return self._rng.choice(
            [each for each in self._outages if self.seen[each.name] == least]
        )

    def _play(self, hit: Sequence[Outage], name: str) -> None:
        begun = []
        try:
            for outage in hit:
                begun.append(outage)
                outage.begin()
            self._clear.wait(self._rng.uniform(*AWAY))
        finally:
            for outage in begun:
                outage.end()
        self.seen[name] += 1

    def clear_up(self) -> None:
        """End the outage that is on, and draw no other. Returns when all is back."""
        self._clear.set()
        self.join(60.0)
        if self.is_alive():
            raise RuntimeError("an outage does not end")
        if self.failure is not None:
            raise self.failure

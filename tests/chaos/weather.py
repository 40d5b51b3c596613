"""The weather of one host's links: what it sends, or what it is answered, is late.

A host that is cut off is so from all nodes, or from one. What was sent meanwhile comes
when the cut is over, although its sender has given up long before.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from contextlib import ExitStack
from typing import Sequence

from chaos.records import Log
from support.late_link import REPLIES, REQUESTS, Link

#: Seconds between two cuts of a host, on average, and how long one takes.
CUT_EVERY = 2.5
LATE = (0.1, 5.0)

#: Seconds for which a cut after a first reply waits for one.
WAIT_FOR_REPLY = 2.0

#: Seconds over which connections come back after a cut, one before the other.
SPREAD = (0.0, 0.0, 0.2, 1.0)

#: Part of the cuts that are of all nodes at once.
WHOLE = 0.6


class Weather:
    """Holds and delivers at random, by ``dice``.

    :param ports: where the links to ``nodes`` listen.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        ports: Sequence[int],
        dice: random.Random,
        log: Log,
        *,
        calm: bool = False,
    ) -> None:
        self._nodes = nodes
        self._ports = ports
        self._random = dice
        self._log = log
        self._calm = calm
        self._told: Counter[str] = Counter()

    def run(self, stop: threading.Event) -> None:
        with ExitStack() as stack:
            links = [
                stack.enter_context(Link(node, port=port, seed=self._random.random()))
                for node, port in zip(self._nodes, self._ports)
            ]
            while not stop.wait(self._random.expovariate(1 / CUT_EVERY)):
                if not self._calm:
                    self._cut(links, stop)
                self._tell(links)
            for link in links:
                link.release()

    def _cut(self, links: list[Link], stop: threading.Event) -> None:
        dice = self._random
        hit = links if dice.random() < WHOLE else [dice.choice(links)]
        kind = dice.choice(("requests", "after a reply", "after a reply", "replies"))
        for link in hit:
            if kind == "requests":
                link.hold(REQUESTS)
            elif kind == "replies":
                link.hold(REPLIES)
            else:
                link.hold_after_reply()
        if kind == "after a reply":
            # Of whichever node comes first; the others follow by themselves.
            dice.choice(hit).wait_until_holding(WAIT_FOR_REPLY)
        stop.wait(dice.uniform(*LATE))
        for link in dice.sample(hit, len(hit)):
            link.release(spread=dice.choice(SPREAD))

    def _tell(self, links: list[Link]) -> None:
        """Write down what has happened since the last time."""
        counts: Counter[str] = Counter()
        for link in links:
            counts.update(link.counts)
        for what, number in (counts - self._told).items():
            self._log.count(f"{what} (links)", number)
        self._told = counts

"""Compares ways to run one thing that differ in a switch, in one process."""

from __future__ import annotations

import statistics
import time
from typing import Callable, Mapping

#: Runs one side for a round, and returns the seconds that it took.
Side = Callable[[], float]


def timed(
    work: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    started = clock()
    work()
    return clock() - started


def compare(what: str, sides: Mapping[str, Side], rounds: int) -> None:
    """Run the sides in turn, the first round not counted, and print the ratios.

    Each is to the first side, taken round by round; the median is told.

    :param sides: by their names.
    """
    times = []
    order = list(sides.values())
    for round_ in range(rounds + 1):
        took = [0.0] * len(order)
        for side in range(len(order)) if round_ % 2 else reversed(range(len(order))):
            took[side] = order[side]()
        if round_:
            times.append(took)
    found = [
        f"{name} {statistics.median(took[side] / took[0] for took in times):.3f}"
        for side, name in enumerate(sides)
        if side
    ]
    print(f"{what}: {', '.join(found)}, {rounds} rounds", flush=True)

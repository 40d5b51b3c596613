"""Compares ways to run one thing that differ in a switch, in one process."""

from __future__ import annotations

import gc
import statistics
import time
from typing import Callable, Mapping, Optional, Sequence

#: Runs one side, and returns the seconds that it took.
Side = Callable[[], float]


def timed(
    work: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    # A collection hits whoever happens to run, for what the others have left.
    gc.collect()
    gc.disable()
    started = clock()
    try:
        work()
        return clock() - started
    finally:
        gc.enable()


def compare(
    what: str,
    sides: Mapping[str, Side],
    rounds: int,
    slices: int = 1,
    *,
    calls: int,
    saved: Optional[list[list[str]]] = None,
) -> None:
    """Run the sides in turn, the first round not counted, and print the ratios.

    Each is to the first side, taken round by round; the median is told, and between
    what it is by 95 of 100 such runs.

    :param sides: by their names.
    :param slices: how often each side runs in a round, in turn with the others: what
        the machine does beside it hits all of them.
    :param calls: in a slice; the time of one, of the first side, is printed as well.
    :param saved: takes what is printed, as a row of a table.
    """
    times = []
    order = list(sides.values())
    for round_ in range(rounds + 1):
        took = [0.0] * len(order)
        for slice_ in range(slices):
            first = round_ + slice_
            turn = [(first + n) % len(order) for n in range(len(order))]
            for side in turn if slice_ % 2 else reversed(turn):
                took[side] += order[side]()
        if round_:
            times.append(took)
    base = statistics.median(took[0] for took in times) / slices / calls
    each = f"{base * 1e6:.1f} us"
    ratios = [
        _said([took[side] / took[0] for took in times]) for side in range(1, len(order))
    ]
    found = [f"{name} {ratio}" for name, ratio in zip(list(sides)[1:], ratios)]
    print(
        f"{what}: {each}, {', '.join(found)}, {rounds} rounds of {slices}", flush=True
    )
    if saved is not None:
        saved.append([what, each, *ratios])


def _said(ratios: Sequence[float]) -> str:
    """The median, and where that of the whole is by the order of what was seen."""
    ordered = sorted(ratios)
    count = len(ordered)
    out = max(0, int((count - 1.96 * count**0.5) / 2))
    low, high = ordered[out], ordered[count - 1 - out]
    return f"{statistics.median(ordered):.3f} ({low:.3f} to {high:.3f})"

"""What a process takes of the system, read from /proc, and whether it stays so."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

#: What may be more at the end than after the warm-up: room for the largest batch, and a
#: connection or two that an outage has closed or not yet closed.
SLACK = {"memory_kb": 4 * 1024, "threads": 0, "descriptors": 6}


@dataclass(frozen=True)
class Reading:
    """One look at a process; ``at`` is of ``time.monotonic``."""

    at: float
    memory_kb: int
    threads: int
    descriptors: int
    cpu_seconds: float


def read(pid: int) -> Reading:
    """Look at a process that is there."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.split()
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Reading(
        at=time.monotonic(),
        memory_kb=int(fields["VmRSS"][0]),
        threads=int(fields["Threads"][0]),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        cpu_seconds=(int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK"),
    )


def growth(readings: Sequence[Reading]) -> dict[str, tuple[float, float]]:
    """Medians of the second quarter and of the last one, for each gauge.

    The first quarter is the warm-up. Medians, because in an outage connections go.
    """
    quarter = max(1, len(readings) // 4)
    early, late = readings[quarter : 2 * quarter], readings[-quarter:]
    return {
        name: (
            statistics.median(getattr(each, name) for each in early),
            statistics.median(getattr(each, name) for each in late),
        )
        for name in SLACK
    }


def rising(readings: Sequence[Reading]) -> list[str]:
    """Say of each gauge that is not flat what it was and what it came to."""
    return [
        f"{name} rose from {early:g} to {late:g}"
        for name, (early, late) in growth(readings).items()
        if late > early + SLACK[name]
    ]

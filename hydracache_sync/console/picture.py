"""The last hour of a namespace as a picture: rows published, and how late they were."""

from __future__ import annotations

from typing import NamedTuple, Sequence

from hydracache_sync.outbox.row import PublishedPart
from hydracache_sync.wording.moments import duration, utc

WIDTH, HEIGHT = 600, 120

#: Between two bars.
_GAP = 2


class Bar(NamedTuple):
    """One part of the hour, in the picture's units, and in words."""

    x: float
    width: float
    y: float
    height: float
    capped: bool
    text: str


class Picture(NamedTuple):
    """:ivar lag: lines of the mean lag, each of points of parts that follow one another
        and have rows: x and y.

    :ivar parts: what it was made of, for the table beside it.
    """

    bars: Sequence[Bar]
    lag: Sequence[Sequence[tuple[float, float]]]
    parts: Sequence[PublishedPart]
    most_rows: int
    longest_lag_ms: int
    capped: bool

    @property
    def total(self) -> int:
        return sum(part.estimate for part in self.parts)


def picture_of(parts: Sequence[PublishedPart]) -> Picture:
    most = max(part.estimate for part in parts)
    longest = max(part.mean_lag_ms for part in parts)
    step = WIDTH / len(parts)
    bars = []
    lines: list[list[tuple[float, float]]] = []
    for place, part in enumerate(parts):
        height = round(HEIGHT * part.estimate / most, 1) if most else 0.0
        about = "about " if part.capped else ""
        bars.append(
            Bar(
                round(place * step + _GAP / 2, 1),
                round(step - _GAP, 1),
                round(HEIGHT - height, 1),
                height,
                part.capped,
                f"{utc(part.from_ms)}: {about}{part.estimate} rows, mean lag"
                f" {duration(part.mean_lag_ms / 1000)}",
            )
        )
        if part.rows:
            y = HEIGHT - HEIGHT * part.mean_lag_ms / longest if longest else HEIGHT
            if not place or not parts[place - 1].rows:
                lines.append([])
            lines[-1].append((round(place * step + step / 2, 1), round(y, 1)))
    return Picture(
        bars,
        # A line of one point is a dot: twice the same.
        [points * 2 if len(points) == 1 else points for points in lines],
        parts,
        most,
        longest,
        any(part.capped for part in parts),
    )

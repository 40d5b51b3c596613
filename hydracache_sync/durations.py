"""Durations: seconds at the API, whole milliseconds inside."""

from __future__ import annotations

#: Longest duration taken, a hundred years: beyond it stored milliseconds overflow.
MAX_SECONDS = 100 * 365 * 86400.0


def duration_ms(name: str, seconds: float) -> int:
    """Check a duration in seconds and return it in whole milliseconds."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(
            f"{name} must be seconds as a number, not {type(seconds).__name__}"
        )
    if not 0 <= seconds <= MAX_SECONDS:  # nan is not
        raise ValueError(
            f"{name} must be 0 to {MAX_SECONDS:.0f} seconds, not {seconds}"
        )
    return round(seconds * 1000)

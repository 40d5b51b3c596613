"""Durations: seconds at the API, whole milliseconds inside."""

from __future__ import annotations

#: Longest duration taken, a hundred years: beyond it stored milliseconds overflow.
MAX_SECONDS = 100 * 365 * 86400.0

#: Shortest duration that is not 0: what is stored has no fractions of a millisecond.
MIN_SECONDS = 0.001


def duration_ms(name: str, seconds: float) -> int:
    """Check a duration in seconds, 0 or more; return it in whole milliseconds.

    :raises TypeError: it is no number.
    :raises ValueError: it is negative, not a number or above ``MAX_SECONDS``.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(
            f"{name} must be seconds as a number, not {type(seconds).__name__}"
        )
    if not 0 <= seconds <= MAX_SECONDS:  # nan is not
        raise ValueError(
            f"{name} must be 0 to {MAX_SECONDS:.0f} seconds, not {seconds}"
        )
    return round(seconds * 1000)


def positive_ms(name: str, seconds: float) -> int:
    """Check a duration in seconds that is not 0, as :func:`duration_ms`.

    :raises ValueError: it is below a millisecond, or as for :func:`duration_ms`.
    """
    found = duration_ms(name, seconds)
    if found == 0:
        raise ValueError(f"{name} must be at least {MIN_SECONDS}, not {seconds}")
    return found

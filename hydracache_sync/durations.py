"""Durations and moments: seconds at the API, whole milliseconds in a database.

Every check of seconds that a caller gives is here.
"""

from __future__ import annotations

from math import isfinite

#: Longest duration that is stored, a hundred years: beyond it milliseconds overflow.
MAX_SECONDS = 100 * 365 * 86400.0

#: Shortest stored duration that is not 0: no fractions of a millisecond are kept.
MIN_SECONDS = 0.001


def checked_number(name: str, seconds: object) -> float:
    """Return ``seconds`` if it is a finite number: a duration, or a Unix moment.

    :raises TypeError: it is no number.
    :raises ValueError: it is infinite or not a number (nan).
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(
            f"{name} must be seconds as a number, not {type(seconds).__name__}"
        )
    if not isfinite(seconds):
        raise ValueError(f"{name} must be a finite number of seconds, not {seconds!r}")
    return seconds


def checked_seconds(name: str, seconds: object, *, above_zero: bool = False) -> float:
    """Return a duration that is kept in memory only, 0 or more.

    :param above_zero: refuse 0.
    :raises TypeError: it is no number.
    :raises ValueError: it is negative, not finite, or 0 where that is refused.
    """
    found = checked_number(name, seconds)
    if found < 0 or (above_zero and found == 0):
        least = "above 0" if above_zero else "0 or more"
        raise ValueError(f"{name} must be {least} seconds, not {seconds!r}")
    return found


def duration_ms(name: str, seconds: float) -> int:
    """Check a duration in seconds, 0 or more; return it in whole milliseconds.

    :raises TypeError: it is no number.
    :raises ValueError: it is negative, not a number or above ``MAX_SECONDS``.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        checked_number(name, seconds)
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

"""Moments, durations and counts as people read them; machines use milliseconds."""

from __future__ import annotations

import datetime
import re

from hydracache_sync.durations import MAX_SECONDS

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def utc(moment_ms: int) -> str:
    moment = _moment(moment_ms // 1000 * 1000, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ") if moment else f"{moment_ms} ms"


def both(moment_ms: int) -> str:
    """Local time and UTC: the one for the clock on the wall, the other for logs."""
    moment = _moment(moment_ms, datetime.timezone.utc)
    if moment is None:
        return f"{moment_ms} ms"
    local = moment.astimezone().isoformat(timespec="milliseconds")
    return f"{local} ({moment.replace(tzinfo=None).isoformat('T', 'milliseconds')}Z)"


def _moment(moment_ms: int, zone: datetime.timezone) -> datetime.datetime | None:
    """None for what no calendar has: a foreign hand may have written the row."""
    try:
        return datetime.datetime.fromtimestamp(moment_ms / 1000, zone)
    except (ValueError, OverflowError, OSError):
        return None


def duration(seconds: float) -> str:
    """The two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), 0
    days = hours // 24
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds % 60)} s"


def counted(count: int | str, noun: str) -> str:
    """ "1 row", "2 rows", "10000+ rows"."""
    return f"{count} {noun}{'' if str(count) == '1' else 's'}"


def parse_duration(text: str) -> float:
    """Read "90", "90s", "15m", "2h" or "3d" as seconds.

    :raises ValueError: it is none of these.
    """
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)([smhd]?)", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else -1.0
    if 0 <= seconds <= MAX_SECONDS:
        return seconds
    raise ValueError(
        f"{text!r} is not allowed: seconds, or a number with m, h or d, such as 2h"
    )

"""Moments and durations as people read them; machines are given milliseconds."""

from __future__ import annotations

import datetime


def utc(moment_ms: int) -> str:
    moment = datetime.datetime.fromtimestamp(moment_ms // 1000, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


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

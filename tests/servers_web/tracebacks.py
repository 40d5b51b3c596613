"""Tracebacks in what a web server has said."""

from __future__ import annotations

import re
from pathlib import Path

import hydracache_sync

_OURS = f'File "{Path(hydracache_sync.__file__).parent}/'


def tracebacks_of_ours(said: str) -> list[str]:
    """Those with a line of our package in them.

    A server has tracebacks of its own: gunicorn logs one when it is told to end while
    it sends an answer.
    """
    found = re.findall(
        r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*.*", said, re.M
    )
    return [each for each in found if _OURS in each]

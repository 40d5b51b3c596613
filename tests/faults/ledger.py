"""The diary of a process: what it was about to do and what it has done.

A line is in the file before the next step is taken, so it survives SIGKILL (not a loss
of power, which no storm causes). What was killed between two lines is decided by the
database, never by the ledger.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any


class Ledger:
    """Appends lines to a file of this process's own. Safe for threads."""

    def __init__(self, directory: Path, name: str) -> None:
        self._file = os.open(
            directory / f"{name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )

    def note(self, what: str, **facts: Any) -> None:
        line = json.dumps([what, time.time_ns() // 1_000_000, facts]) + "\n"
        os.write(self._file, line.encode("ascii"))


class Entry(dict):  # type: ignore[type-arg]
    """The facts of one line.

    :ivar process: whose line it is.
    :ivar at_ms: Unix milliseconds, for people; no verdict rests on them.
    """

    process: str
    at_ms: int


def read_ledgers(directory: Path) -> dict[str, list[Entry]]:
    """All entries of all processes by what they are about."""
    entries: dict[str, list[Entry]] = defaultdict(list)
    for path in sorted(directory.glob("*.jsonl")):
        *lines, torn = path.read_bytes().split(b"\n")
        # What follows the last line's end was cut off by SIGKILL: it was not noted.
        for line in lines:
            what, at_ms, facts = json.loads(line)
            entry = Entry(facts)
            entry.process, entry.at_ms = path.stem, at_ms
            entries[what].append(entry)
    return entries

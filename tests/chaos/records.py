"""What processes write down: reads in binary, since there are millions, facts in JSON.

Times are ``time.monotonic_ns``, which on Linux is one clock for all processes.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from pathlib import Path
from typing import Any, Iterator, NamedTuple

#: How a reader came by a value.
CACHED, LOADED, LOADED_IN_OLD_SNAPSHOT = range(3)

#: Reads kept before they are written. What a killed process had not written is lost,
#: which makes no read fresher.
AT_ONCE = 100

_READ = struct.Struct("<HIqqB")


class Read(NamedTuple):
    """One read: which version of which item, when it began and ended, and how."""

    item: int
    version: int
    began: int
    ended: int
    how: int


class Fact(NamedTuple):
    """From ``at`` on a version of an item is committed, published or waited for."""

    kind: str
    item: int
    version: int
    at: int


class Log:
    """The files of one process. Safe for threads."""

    def __init__(self, folder: str, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._reads = os.open(Path(folder) / f"{name}.reads", flags, 0o600)
        self._facts = os.open(Path(folder) / f"{name}.facts", flags, 0o600)
        self._kept: list[bytes] = []
        self._lock = threading.Lock()

    def read(self, item: int, version: int, began: int, ended: int, how: int) -> None:
        with self._lock:
            self._kept.append(_READ.pack(item, version, began, ended, how))
            if len(self._kept) >= AT_ONCE:
                self._write()

    def fact(self, kind: str, item: int, version: int, at: int) -> None:
        line = json.dumps([kind, item, version, at]) + "\n"
        os.write(self._facts, line.encode("ascii"))

    def count(self, what: str, number: int = 1) -> None:
        """Note that something happened, for the figures."""
        self.fact(f"count {what}", 0, number, 0)

    def flush(self) -> None:
        with self._lock:
            self._write()

    def _write(self) -> None:
        os.write(self._reads, b"".join(self._kept))
        self._kept.clear()


def reads(folder: str) -> Iterator[Read]:
    for path in sorted(Path(folder).glob("*.reads")):
        data = path.read_bytes()
        whole = len(data) - len(data) % _READ.size
        for fields in _READ.iter_unpack(data[:whole]):
            yield Read(*fields)


def facts(folder: str) -> Iterator[Fact]:
    for path in sorted(Path(folder).glob("*.facts")):
        *lines, _torn = path.read_bytes().split(b"\n")
        for line in lines:
            fields: list[Any] = json.loads(line)
            yield Fact(*fields)


def count_reads(folder: str) -> int:
    """Reads written down so far."""
    sizes = [path.stat().st_size for path in Path(folder).glob("*.reads")]
    return sum(sizes) // _READ.size

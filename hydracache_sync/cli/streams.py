"""Standard streams that are closed, or whose reader has gone.

The work of a command, and its exit code, must not depend on whether its output can be
read. cron, a service manager or a shell may have closed any of the three.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

_NAMES = ("stdin", "stdout", "stderr")


def prepare_streams() -> None:
    """Open what is closed as ``/dev/null``, and let a reader go. Harmless to repeat.

    The descriptors themselves are opened: the next file to be opened would get the
    number else, and what some library writes to "stderr" would go into a database.
    """
    for number, name in enumerate(_NAMES):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nothing(number))
        elif number and _writes_straight_to(stream, number):
            setattr(sys, name, _until_the_reader_goes(stream, number))


def reader_is_gone() -> bool:
    """Whether what has been printed to stdout was no longer read by anybody."""
    raw = _raw(sys.stdout)
    return isinstance(raw, _Outlet) and raw.reader_is_gone


def _nothing(number: int) -> TextIO:
    descriptor = os.open(os.devnull, os.O_RDWR)
    try:
        os.fstat(number)
    except OSError:
        # Where it is free still; an app that lends us its command line may have opened
        # a file there.
        os.dup2(descriptor, number)
        os.close(descriptor)
        descriptor = number
    # The descriptor stays open until the process ends, as those of a terminal do.
    return open(
        descriptor,
        "w" if number else "r",
        encoding="utf-8",
        errors="backslashreplace",
        closefd=False,
    )


class _Outlet(io.FileIO):
    """Writes to a descriptor; to ``/dev/null`` from when its reader has gone."""

    reader_is_gone = False

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            self.reader_is_gone = True
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            return super().write(data)


def _writes_straight_to(stream: TextIO, number: int) -> bool:
    """Whether it is the one that Python has made: tests and apps put others there."""
    raw = _raw(stream)
    return (
        type(stream) is io.TextIOWrapper
        and type(raw) is io.FileIO
        and raw.fileno() == number
    )


def _raw(stream: Any) -> Any:
    """What is below its buffer; ``python -u`` has none."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _until_the_reader_goes(stream: TextIO, number: int) -> TextIO:
    assert isinstance(stream, io.TextIOWrapper)
    outlet = _Outlet(number, "w", closefd=False)
    try:
        stream.flush()
    except BrokenPipeError:
        pass  # An app has printed before us. Our own first line meets the same.
    unbuffered = isinstance(stream.buffer, io.FileIO)
    return io.TextIOWrapper(
        outlet if unbuffered else io.BufferedWriter(outlet),
        encoding=stream.encoding,
        # A namespace may be any text, and cron may give us an ASCII terminal.
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )

"""Rows of an answer, taken out of what was received with fewer calls than by PyMySQL.

PyMySQL makes an object of each packet and calls three functions for each column, which
was half of what a worker that drains a backlog did in Python. Whatever is not plain is
left to it: a column of 251 bytes or more, a packet of which a part has not come yet,
the end, an error.
"""

from __future__ import annotations

import struct
from typing import Any, Callable, Sequence

#: For each column its encoding, None for bytes, and what makes a value of it.
Converters = Sequence["tuple[str | None, Callable[[Any], Any] | None]"]

#: The first byte of a column is its length, or one of these.
_NULL = 251
_LONG = 252

#: Length in two parts, and number, of a packet.
_header = struct.Struct("<HBB").unpack_from
_HEADER = 4


def plain_rows(
    received: bytes, at: int, number: int, converters: Converters
) -> tuple[list[tuple[Any, ...]], int, int]:
    """Take rows from ``at`` on, up to one that is not plain.

    :param number: of the packet that must begin there, modulo 256.
    :returns: the rows, where the next packet begins, and its number.
    :raises UnicodeDecodeError, ValueError: of a column, as PyMySQL would.
    """
    rows: list[tuple[Any, ...]] = []
    # The shortest packet has one byte.
    while at + _HEADER < len(received):
        low, high, turn = _header(received, at)
        place = at + _HEADER
        end = place + low + (high << 16)
        if end > len(received) or turn != number:
            break
        row: list[Any] = []
        for encoding, converter in converters:
            length = received[place] if place < end else _LONG
            place += 1
            if length >= _NULL:
                if length != _NULL:
                    return rows, at, number
                row.append(None)
                continue
            start, place = place, place + length
            data: Any = received[start:place]
            if encoding is not None:
                data = data.decode(encoding)
            row.append(data if converter is None else converter(data))
        if place != end:
            break
        rows.append(tuple(row))
        at, number = end, (number + 1) % 256
    return rows, at, number

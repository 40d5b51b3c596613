"""What is fuzzed: each target takes any bytes and raises only if something is wrong.

``python -m fuzz`` drives them with coverage feedback, the suite with Hypothesis.
"""

from __future__ import annotations

import json
import math
import re
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Callable, Sequence
from uuid import UUID
from zlib import crc32

from hydracache_sync.cache import Codec, PickleCodec
from hydracache_sync.cache.codecs.codec import MISS
from hydracache_sync.cache.entry_format import tag_digest, token_prefix_of
from hydracache_sync.memcached.replies import Replies

KEYS = (b"a", b"key:2", b"k" * 40)

DIGEST = tag_digest(["a", "b"])
TOKENS = [b"L" + bytes([n]) * 8 + bytes(8) for n in range(4)]
BASIS = token_prefix_of(DIGEST, TOKENS)

FAST = Codec(use_orjson=True)
PLAIN = Codec(use_orjson=False)
SIGNED = PickleCodec(key=b"a key that is nowhere in the data")


class Stream:
    """Gives ``data`` in pieces of these sizes, in turn, and then its end."""

    def __init__(self, data: bytes, sizes: Sequence[int]) -> None:
        self._data = data
        self._sizes = sizes
        self._turn = 0
        self.given = b""

    def recv(self, limit: int) -> bytes:
        size = min(limit, self._sizes[self._turn % len(self._sizes)])
        self._turn += 1
        piece = self._data[len(self.given) :][:size]
        self.given += piece
        return piece


def reference(data: bytes, keys: Sequence[bytes]) -> list[bytes | None] | None:
    """The answer to a ``get`` read in the plainest way, None if it is none."""
    found: dict[bytes, bytes] = {}
    while data != b"END\r\n":
        head = re.match(rb"VALUE ([^ \r\n]+) [0-9]+ ([0-9]{1,10})\r\n", data)
        if head is None or head.group(1) not in keys:
            return None
        start, size = head.end(), int(head.group(2))
        if len(data) < start + size + 2 or data[start + size :][:2] != b"\r\n":
            return None
        value = data[start : start + size]
        if found.setdefault(head.group(1), value) != value:
            return None
        data = data[start + size + 2 :]
    return [found.get(key) for key in keys]


def replies(data: bytes) -> None:
    """Whatever comes, in whatever pieces: the one right answer, or a refusal."""
    if len(data) < 4:
        return
    sizes = [1 + data[0], 1 + data[1] % 7]
    keys = KEYS[: 1 + data[2] % len(KEYS)]
    data = data[3:]
    for pieces in (sizes, [len(data) + 1], [1]):
        stream = Stream(data, pieces)
        try:
            values = Replies(stream.recv).values(keys)
        except ConnectionError:
            assert reference(data, keys) is None, (data, pieces)
        else:
            # What comes after the end is seen if it came with the end, else by whoever
            # uses the connection next.
            assert values == reference(stream.given, keys), (data, pieces)


def lines(data: bytes) -> None:
    """Acknowledgements: as many as there are, whole ones, in order."""
    if len(data) < 2:
        return
    size, data = 1 + data[0] % 40, data[1:]
    reader = Replies(Stream(data, [size]).recv)
    read: list[bytes] = []
    try:
        while True:
            alike = reader.skip(b"STORED", 3)
            read += [b"STORED"] * alike or [reader.line()]
    except ConnectionError:
        pass
    assert data.startswith(b"".join(line + b"\r\n" for line in read))


def foreign_entry(data: bytes) -> None:
    """In place of an entry: a value or a miss, and no code is run."""
    for entry in (data, BASIS + data, _sealed(data)):
        for codec in (FAST, PLAIN, SIGNED):
            value = codec.decode(entry, DIGEST, TOKENS)
            assert codec is not SIGNED or value is MISS


def _sealed(body: bytes) -> bytes:
    """``body`` on the right tokens, with the right checksum before it."""
    return BASIS + crc32(body).to_bytes(4, "big") + body


def json_value(data: bytes) -> None:
    """Any JSON comes back the same, whoever wrote it and whoever reads it."""
    try:
        value = json.loads(data.decode("utf-8", "surrogatepass"))
        entries = [codec.encode(value, BASIS) for codec in (FAST, PLAIN)]
    except (ValueError, RecursionError):
        return
    for entry in entries:
        for codec in (FAST, PLAIN):
            assert same(codec.decode(entry, DIGEST, TOKENS), value), value


def same(one: Any, other: Any) -> bool:
    """Equal, with equal types all the way down, -0.0 and the order of keys included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "replies": replies,
    "lines": lines,
    "foreign_entry": foreign_entry,
    "json_value": json_value,
}

#: What each begins with, so that the first seconds are not spent on finding the words.
SEEDS: dict[str, list[bytes]] = {
    "replies": [
        b"\x10\x03\x01VALUE a 0 5\r\nvalue\r\nVALUE key:2 0 2\r\n\r\n\r\nEND\r\n",
        b"\x01\x01\x00END\r\n",
        b"\x07\x02\x02SERVER_ERROR out of memory\r\n",
    ],
    "lines": [b"\x08STORED\r\nSTORED\r\nNOT_STORED\r\nSTORED\r\n"],
    "foreign_entry": [
        FAST.encode(value, BASIS)[len(BASIS) + 4 :]
        for value in (
            *(b"bytes", "text", None, [1, {"a": 2.5}], 2**70),
            *((1, {2: {"a"}}), [Decimal("1.5"), date(2026, 1, 1), timedelta(1)]),
            [datetime(2026, 1, 1, tzinfo=timezone.utc), UUID(int=1), frozenset()],
        )
    ]
    + [PickleCodec(key=bytes(32)).encode((1, 2), BASIS)[len(BASIS) + 4 :]],
    "json_value": [
        b'{"a": [1, -0.0, 1e300, true, null, "\\ud800", 18446744073709551616]}'
    ],
}

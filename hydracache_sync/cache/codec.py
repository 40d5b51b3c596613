"""Entries: a value packed together with the tokens it was loaded under.

Decoding never raises and never guesses. An entry that is damaged, cut short, foreign,
of another version, for other tags or under other tokens is a miss. A value comes back
equal and of the same types, or it is refused when it is stored. Knows no store.

Layout, big-endian:

    2    magic "HC"
    1    version
    16   digest of the sorted tags
    9n   kind and random part of each token: namespace, key, tags in sorted order
         -- so far the *basis*: a reader knows it, and compares it whole
    4    CRC-32 of all that follows
    1    format of the payload
    1    flags, 0 in this version; what they mean would change how to read
    8    soft expiry in Unix milliseconds, 0 for none
    ...  payload
"""

from __future__ import annotations

import json
import struct
from hashlib import blake2b
from math import isfinite
from operator import itemgetter
from typing import Any, Sequence
from zlib import crc32

from hydracache_sync.cache.tokens import TOKEN_ID_SIZE

#: Magic and version. Another version is another basis, hence a miss.
_MAGIC = b"HC\x01"

_token_id = itemgetter(slice(TOKEN_ID_SIZE))

_HEAD = struct.Struct(">IBBQ")
_FIELDS = struct.Struct(">BBQ")
_CHECKSUM_SIZE = 4

_BYTES, _TEXT, _JSON, _NONE = range(1, 5)

#: Given back by ``decode``, since None is a value.
MISS: Any = object()

_json_encoder = json.JSONEncoder(
    # Escapes would join two lone surrogates to one character on the way back.
    ensure_ascii=False,
    allow_nan=False,
    separators=(",", ":"),
)


def tag_digest(tags: Sequence[str]) -> bytes:
    """Sixteen bytes that stand for a set of tags.

    :param tags: sorted and without repetition.
    """
    digest = blake2b(digest_size=16)
    for tag in tags:
        data = tag.encode("utf-8")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def basis_of(digest: bytes, tokens: Sequence[bytes]) -> bytes:
    """What an entry rests on: its tags and the tokens it was loaded under.

    An entry may be *stored* only on live tokens. Their kind is in the basis, so that
    the same bytes found in the store later are live as well.

    :param tokens: namespace, key, then tags in the order of the digest.
    """
    return b"".join([_MAGIC, digest, *map(_token_id, tokens)])


def encode(value: object, basis: bytes) -> bytes:
    """Pack ``value`` so that :func:`decode` gives back its equal, types included.

    Takes ``bytes``, ``str``, None, and what JSON keeps: ``bool``, ``int``, finite
    ``float``, and ``list`` and ``dict`` of these with ``str`` keys.

    :raises TypeError: the value, or something in it, is of another type or of a
        subclass, which would come back as something else; the message names it.
    :raises ValueError: a number is not finite, or the value holds itself, is nested
        too deeply, or has an integer too long for text.
    """
    form, payload = _payload(value)
    body = _FIELDS.pack(form, 0, 0) + payload
    return b"".join([basis, crc32(body).to_bytes(_CHECKSUM_SIZE, "big"), body])


def decode(entry: bytes | None, digest: bytes, tokens: Sequence[bytes | None]) -> Any:
    """Return the value of ``entry`` if it rests on these, else :data:`MISS`.

    :param tokens: as they are in the store now, None where there is none.
    """
    if entry is None or None in tokens:
        return MISS
    basis = basis_of(digest, tokens)  # type: ignore[arg-type]
    start = len(basis) + _CHECKSUM_SIZE
    if not entry.startswith(basis) or len(entry) < start + _FIELDS.size:
        return MISS
    checksum, form, flags, _soft_ms = _HEAD.unpack_from(entry, start - _CHECKSUM_SIZE)
    body = entry[start:]
    if flags or crc32(body) != checksum:
        return MISS
    payload = body[_FIELDS.size :]
    if form == _BYTES:
        return payload
    try:
        if form == _JSON:
            return json.loads(payload.decode("utf-8", "surrogatepass"))
        if form == _TEXT:
            return payload.decode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        # Deeper or longer than this process's limits, which may be tighter than those
        # of the process that stored it.
        return MISS
    if form == _NONE and not payload:
        return None
    return MISS


def _payload(value: object) -> tuple[int, bytes]:
    kind = type(value)
    if kind is bytes:
        assert isinstance(value, bytes)
        return _BYTES, value
    if kind is str:
        assert isinstance(value, str)
        return _TEXT, value.encode("utf-8", "surrogatepass")
    if value is None:
        return _NONE, b""
    _check_json(value)
    try:
        text = _json_encoder.encode(value)
    except RecursionError as exc:
        raise ValueError(
            f"cannot cache this {kind.__name__}: it is nested too deeply"
        ) from exc
    except ValueError as exc:
        # It holds itself, or has an integer of more digits than Python turns to text.
        raise ValueError(f"cannot cache this {kind.__name__}: {exc}") from exc
    return _JSON, text.encode("utf-8", "surrogatepass")


_SCALARS = frozenset([str, int, bool, type(None)])


def _check_json(value: object) -> None:
    """Raise unless JSON gives back ``value`` with the types it has now.

    JSON itself would turn a tuple into a list and the key 1 into "1" in silence, and
    the second reader of a page would get something else than the first.
    """
    # A stack of our own: values may be nested deeper than Python's recursion goes.
    pending: list[tuple[object, tuple[Any, ...] | None]] = [(value, None)]
    seen = set()
    while pending:
        item, path = pending.pop()
        kind = type(item)
        if kind in _SCALARS:
            continue
        if isinstance(item, float) and kind is float:
            if not isfinite(item):
                raise ValueError(
                    f"cannot cache {item!r}{_where(path)}: JSON has no such number"
                )
        elif isinstance(item, dict) and kind is dict:
            if id(item) in seen:
                continue
            seen.add(id(item))
            for key, child in item.items():
                if type(key) is not str:
                    raise TypeError(
                        f"cannot cache a dict with the key {key!r}{_where(path)}: it"
                        f" is {type(key).__name__} and would come back as str"
                    )
                if type(child) not in _SCALARS:
                    pending.append((child, (path, key)))
        elif isinstance(item, list) and kind is list:
            if id(item) in seen:
                continue
            seen.add(id(item))
            for index, child in enumerate(item):
                if type(child) not in _SCALARS:
                    pending.append((child, (path, index)))
        else:
            raise TypeError(
                f"cannot cache {kind.__name__}{_where(path)}: it would not come back"
                " as the same type; return bytes, str, None, bool, int, float, or list"
                " and dict of these, from the loader"
            )


def _where(path: tuple[Any, ...] | None) -> str:
    steps: list[str] = []
    while path is not None:
        path, step = path
        steps.append(f"[{step!r}]")
    return " at value" + "".join(reversed(steps)) if steps else ""

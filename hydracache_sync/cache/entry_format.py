"""Entries: a payload packed together with the tokens it was loaded under.

Unpacking never raises and never guesses. An entry that is damaged, cut short, foreign,
of another version, for other tags or under other tokens is no entry. Knows no store,
and of a payload only its bytes.

Layout, big-endian::

    2    magic "HC"
    1    version
    16   digest of the sorted tags
    9n   kind and random part of each token: namespace, key, tags in sorted order
         -- so far the *token prefix*: a reader knows it, and compares it whole
    4    CRC-32 of all that follows
    1    form of the payload
    1    flags, 0 in this version; what they mean would change how to read
    8    soft expiry in Unix milliseconds, 0 for none
    ...  payload
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import blake2b
from typing import Callable, Sequence
from zlib import crc32

from hydracache_sync.cache.tokens.token import TOKEN_ID_SIZE

#: Magic and version. Another version is another prefix, so a miss.
_MAGIC = b"HC\x01"

_DIGEST_SIZE = 16

_HEAD = struct.Struct(">IBBQ")
_FIELDS = struct.Struct(">BBQ")
_CHECKSUM_SIZE = 4
_HEAD_SIZE = _HEAD.size
_unpack_head = _HEAD.unpack_from
_BEFORE_TOKENS = len(_MAGIC) + _DIGEST_SIZE
_BEFORE_SOFT = _CHECKSUM_SIZE + 2


def tag_digest(tags: Sequence[str]) -> bytes:
    """Sixteen bytes that stand for a set of tags.

    :param tags: sorted and without repetition.
    """
    digest = blake2b(digest_size=_DIGEST_SIZE)
    for tag in tags:
        data = tag.encode("utf-8")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def token_prefix_of(digest: bytes, tokens: Sequence[bytes]) -> bytes:
    """What an entry rests on: its tags and the tokens it was loaded under.

    An entry may be *stored* only on live tokens. Their kind is in the prefix, so that
    the same bytes found in the store later are live as well.

    :param tokens: namespace, key, then tags in the order of the digest.
    """
    return _prefix_packer(len(tokens))(_MAGIC, digest, *tokens)


@lru_cache(maxsize=128)
def _prefix_packer(tokens: int) -> Callable[..., bytes]:
    """Joins magic, digest and so many tokens, each cut to what is compared."""
    parts = [len(_MAGIC), _DIGEST_SIZE, *[TOKEN_ID_SIZE] * tokens]
    return struct.Struct("".join(f"{size}s" for size in parts)).pack


def pack(token_prefix: bytes, form: int, payload: bytes, soft_ms: int = 0) -> bytes:
    """Make an entry.

    :param form: 0 to 255, says how the payload is to be read.
    :param soft_ms: Unix milliseconds from which one reader should load it again, 0 for
        never.
    """
    body = _FIELDS.pack(form, 0, soft_ms) + payload
    return b"".join([token_prefix, crc32(body).to_bytes(_CHECKSUM_SIZE, "big"), body])


def unpack(
    entry: bytes | None, digest: bytes, tokens: Sequence[bytes | None]
) -> tuple[int, int, bytes] | None:
    """Return what is in ``entry`` if it is whole and rests on these, else None.

    :param tokens: as they are in the store now, None where there is none.
    :return: form, soft expiry and payload.
    """
    if entry is None:
        return None
    try:
        token_prefix = _prefix_packer(len(tokens))(_MAGIC, digest, *tokens)
    except struct.error:
        return None  # one of the tokens is missing
    start = len(token_prefix)
    if not entry.startswith(token_prefix) or len(entry) < start + _HEAD_SIZE:
        return None
    checksum, form, flags, soft_ms = _unpack_head(entry, start)
    if flags or crc32(entry[start + _CHECKSUM_SIZE :]) != checksum:
        return None
    return form, soft_ms, entry[start + _HEAD_SIZE :]


def soft_ms_of(entry: bytes, token_count: int) -> int:
    """When one reader should load an entry again: Unix milliseconds, 0 for never.

    Much cheaper than to take it apart a second time.

    :param entry: one that was a hit.
    :param token_count: how many tokens it rests on.
    """
    at = _BEFORE_TOKENS + token_count * TOKEN_ID_SIZE + _BEFORE_SOFT
    return int.from_bytes(entry[at : at + 8], "big")


def tokens_in(entry: bytes, token_count: int) -> list[bytes]:
    """What an entry rests on, of each token what is compared; for outdated entries."""
    ends = range(_BEFORE_TOKENS, len(entry), TOKEN_ID_SIZE)
    return [entry[at : at + TOKEN_ID_SIZE] for at in ends[:token_count]]

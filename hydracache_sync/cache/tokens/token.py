"""Tokens: what an entry must agree with to be served.

A token is never equal to one made before it, by any process at any time. A counter, a
row id or a time alone would come back after an eviction, a restart or a late worker.
Every entry that was loaded under it would come back too.

On the wire: one byte of kind, 64 random bits, and the token's *stamp* in Unix
milliseconds. Every change that the token stands for was committed before its stamp.
What is not exactly that is not live, and what is not live neither serves nor allows a
fill. ``replacing.py`` has the only ways in which a token is written.
"""

from __future__ import annotations

import os
from struct import unpack

#: Bytes of a token.
TOKEN_SIZE = 17

#: Bytes of it, from the front, that an entry is compared by: kind and random part.
TOKEN_ID_SIZE = 9

#: The kind that may serve and be filled under.
LIVE = b"L"

#: The stamp of a placeholder, which is later than every moment. A placeholder may
#: arrive long after it was made, when its true moment would be a promise that the
#: token does not keep. So no older snapshot is stored under it, and it is never warm.
UNKNOWN_MS = 2**64 - 1

#: Strict namespaces have a kind of their own, so that a reader which is not strict by
#: mistake does not take it for live. Nor does a strict reader take the other's token
#: for live. It is live once the hold-off since its stamp is over.
COLD = b"C"


def fresh_token(stamp_ms: int) -> bytes:
    """Make a live token that was never there before.

    :param stamp_ms: now, in Unix milliseconds. Only ``since`` and hold-offs
        look at it.
    """
    # The kernel's randomness, because a generator of our own could be seeded, by
    # Hypothesis for one, and a fork would copy its state.
    return LIVE + os.urandom(8) + stamp_ms.to_bytes(8, "big")


def fresh_tokens(count: int, stamp_ms: int, kind: bytes = LIVE) -> list[bytes]:
    """Make ``count`` tokens at once, each different."""
    tokens = bytearray((kind + bytes(8) + stamp_ms.to_bytes(8, "big")) * count)
    randomness = os.urandom(8 * count)
    # Column by column: a worker makes two tokens for every row that it carries.
    for place in range(8):
        tokens[1 + place :: TOKEN_SIZE] = randomness[place::8]
    return list(unpack(f"{TOKEN_SIZE}s" * count, tokens))


def placeholders(count: int, kind: bytes = LIVE) -> list[bytes]:
    """Make ``count`` tokens, each different, for places where none is."""
    return fresh_tokens(count, UNKNOWN_MS, kind)


def stamped(token: bytes, stamp_ms: int) -> bytes:
    """Return the same token with a stamp."""
    return token[:TOKEN_ID_SIZE] + stamp_ms.to_bytes(8, "big")


def is_placeholder(token: bytes | None) -> bool:
    """Tell whether ``token`` has no stamp yet. None has none either."""
    return token is None or token[TOKEN_ID_SIZE:] == _UNKNOWN


def is_live(token: bytes | None, kind: bytes = LIVE) -> bool:
    """Tell whether what a store gave back is a token that may serve.

    :param kind: the kind that does; strict namespaces have another.
    """
    return token is not None and len(token) == TOKEN_SIZE and token[:1] == kind


def stamp_ms(token: bytes) -> int:
    """The stamp of a token, in Unix milliseconds of its maker's clock."""
    return int.from_bytes(token[TOKEN_ID_SIZE:], "big")


_UNKNOWN = UNKNOWN_MS.to_bytes(8, "big")

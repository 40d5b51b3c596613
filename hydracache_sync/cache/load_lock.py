"""Who loads a key, agreed on by all processes through the store.

The lock only saves loads, it protects nothing: a reader that loads without it stores
under the tokens that it has read, and those keep the entry right. So the lock may be
lost, end too early, or be held by two. Taking it never replaces another's.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from math import ceil
from time import monotonic

from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.store import GONE, Write

_NONCE_SIZE = 8


class LoadLock:
    """One try of one reader to be the one who loads.

    :param token_prefix: of the entry, None if it is not known yet. Readers that see
        other tokens by then need not wait for it.
    :param seconds: how long it is kept at most, which is for how long the others wait
        for a holder that was killed.
    """

    __slots__ = ("address", "_value", "_seconds", "_taken_at")

    def __init__(
        self, address: Address, token_prefix: bytes | None, seconds: float
    ) -> None:
        self.address = address
        self._value = os.urandom(_NONCE_SIZE) + _herd_of(token_prefix)
        self._seconds = seconds
        self._taken_at = monotonic()

    def request(self) -> Write:
        """What to ``add`` in order to take it."""
        self._taken_at = monotonic()
        # The grain of memcached is a second: it may end up to one early.
        return self.address, self._value, ceil(self._seconds) + 1

    def is_mine(self, answer: bytes | None) -> bool:
        """Tell by what is there after the ``add`` whether it was taken."""
        return answer == self._value

    def releases(self) -> list[Write]:
        """What to ``set`` in order to give it back; nothing if it may have ended.

        It could be another's by then.
        """
        if monotonic() - self._taken_at >= self._seconds:
            return []
        return [(self.address, b"", GONE)]


def is_worth_waiting_for(held: bytes, token_prefix: bytes) -> bool:
    """Return whether the holder of a lock loads what a reader of these tokens may use.

    :param held: the lock's value in the store.
    """
    herd = held[_NONCE_SIZE:]
    return not herd or herd == _herd_of(token_prefix)


def _herd_of(token_prefix: bytes | None) -> bytes:
    return (
        b"" if token_prefix is None else blake2b(token_prefix, digest_size=8).digest()
    )

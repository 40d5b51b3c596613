"""A store that overwrites tokens, as the library did before it replaced them.

A token is stamped and then sent, in one ``set`` whatever is there, or by a reader in
one ``add``. A run that is to find what a late token does must find it with this store,
and a benchmark shows by it what the second round trip costs.
"""

from __future__ import annotations

import time
from typing import Sequence

from hydracache_sync import MemcachedStore
from hydracache_sync.cache.store import Copy, Maker, Write
from hydracache_sync.cache.tokens.token import TOKEN_ID_SIZE, is_placeholder, stamped
from hydracache_sync.errors import ApplyError


class PlainSetStore(MemcachedStore):
    """As a ``MemcachedStore``, but for how tokens are written."""

    def replace_many(
        self, copies: Sequence[Copy], placeholders: Sequence[bytes], make: Maker
    ) -> list[bool | ApplyError]:
        tokens = make(copies, placeholders)
        writes = [
            (address, token, None)
            for (address, _), token in zip(copies, tokens)
            if token is not None
        ]
        first, placeholder = tokens[0], placeholders[0]
        if first is not None and first[:TOKEN_ID_SIZE] == placeholder[:TOKEN_ID_SIZE]:
            # A reader has stamped what is there.
            self.add_many(writes)
            return [True] * len(copies)
        # What is on every node has a copy on each, and is written once.
        failures = self.set_many(
            list(dict((write[0], write) for write in writes).values())
        )
        return [failures.get(address, True) for address, _ in copies]

    def add_many(self, writes: Sequence[Write]) -> list[bytes | None]:
        now_ms = int(time.time() * 1000)
        return super().add_many(
            [(address, _stamped(value, now_ms), ttl) for address, value, ttl in writes]
        )


def _stamped(value: bytes, now_ms: int) -> bytes:
    """The token with a stamp, if it is one that has none."""
    return stamped(value, now_ms) if is_placeholder(value) else value

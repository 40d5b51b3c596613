"""Tokens that this process has found in the store, and when.

A stamp tells by the clock of another host what a token stands for, so a snapshot has to
be younger than it by the skew. A token that was there before the snapshot began, and is
there still, needs no clock: it was not replaced meanwhile, since none comes back. So it
was as if it had been reserved before the snapshot.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Sequence, Tuple

from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.tokens import TOKEN_ID_SIZE

#: Tokens that are remembered. With more all are forgotten, which costs a few loads.
LIMIT = 4096

#: Tokens as they are in the store.
Found = Sequence[Tuple[Address, bytes]]


class SeenTokens:
    """Tokens that have kept a value from being stored. Safe for threads and forks."""

    def __init__(self) -> None:
        # Whatever is done with it is one step of the interpreter.
        self._seen: dict[Address, tuple[bytes, float]] = {}

    def add(self, found: Found) -> None:
        """State that these were there a moment ago."""
        now = monotonic()
        if len(self._seen) >= LIMIT:
            self._seen.clear()
        for address, token in found:
            token_id = token[:TOKEN_ID_SIZE]
            known = self._seen.get(address)
            if known is None or known[0] != token_id:
                self._seen[address] = token_id, now

    def others(self, found: Found, since: float) -> list[bytes]:
        """Those of ``found`` that were not seen before a snapshot of ``since``.

        :param since: a ``LocalMoment``; of another clock's moment all are others.
        """
        began = getattr(since, "steady", -inf)
        return [
            token
            for address, token in found
            if (known := self._seen.get(address)) is None
            or known[0] != token[:TOKEN_ID_SIZE]
            or known[1] >= began
        ]

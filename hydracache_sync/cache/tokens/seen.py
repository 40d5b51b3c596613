"""Tokens that this process has found in the store, and those a request was given.

A stamp tells by the clock of another host what a token stands for, so a snapshot has to
be younger than it by the skew. A token that was there before the snapshot began, and is
there still, needs no clock: it was not replaced meanwhile, since none comes back. So it
was as if it had been reserved before the snapshot.

A thread was given cached values under other tokens. A later load of the request may
return such a value, and a hit may lack a commit whose tokens are not written yet. These
may be stamped before the request began, and delayed for any time. So what the load
returns is not stored under a token that the request has seen as another one. If it is
still the one that was there at the hit, what replaces it is yet to come, and ends the
entry that rests on it. ``tests/model/earlier_reads.py`` walks that.

The namespace's token has a copy on each node, and these differ: an entry rests on that
of its own node. A flush may have come there, and not where the hit was. It replaces all
copies a second time then, after this hit, and so within the request.
"""

from __future__ import annotations

from collections import deque
from math import inf
from time import monotonic
from typing import Callable, Deque, Optional, Sequence, Tuple

from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.tokens.token import TOKEN_ID_SIZE
from hydracache_sync.fork import ProcessLocal

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


#: Hits of a thread that are remembered. A request of more stores nothing afterwards
#: that it may not load as fresh.
MOST_HITS = 1000

#: Addresses of an entry and its tokens.
Addresses = Tuple[Address, ...]
Tokens = Sequence[Optional[bytes]]


class EarlierHits:
    """Safe for threads and forks; what another thread was given is not seen.

    :param request_began: returns when the request of the moment began, which is a
        ``LocalMoment``. Another moment says that there is none, and no hit counts.
    """

    def __init__(self, request_began: Callable[[], float]) -> None:
        self._request_began = request_began
        self._local = ProcessLocal()

    def note(self, addresses: Addresses, tokens: Tokens) -> None:
        """State that a value under ``tokens`` is given to this thread."""
        local = self._local.mine()
        try:
            hits = local.hits
        except AttributeError:
            hits = local.hits = deque(maxlen=MOST_HITS)
        hits.append((monotonic(), addresses, tokens))

    def were_under_others(
        self,
        found: Found,
        nodes_of: Callable[[Address], Sequence[str]],
    ) -> bool:
        """Whether this request had a value while a token of ``found`` was another.

        :param nodes_of: the store's, since one copy is not compared with another.
        """
        hits: Deque[Tuple[float, Addresses, Tokens]]
        hits = getattr(self._local.mine(), "hits", deque())
        began = getattr(self._request_began(), "steady", inf)
        if len(hits) == hits.maxlen and hits[0][0] >= began:
            return True
        # By their names: what chooses the copy of a namespace's token is the entry.
        there = {address[1]: (address, token) for address, token in found}
        for at, some, seen in reversed(hits):
            if at < began:
                break
            for address, token in zip(some[1:], seen):
                here, now = there.get(address[1], (address, None))
                if not now or not token or now[:TOKEN_ID_SIZE] == token[:TOKEN_ID_SIZE]:
                    continue
                if here == address or nodes_of(here) == nodes_of(address):
                    return True
        return False

"""The only ways in which a token is written: it is replaced, never overwritten.

memcached may execute a command long after its sender gave up. The network may deliver
it late, the server may have been stopped, or the sender itself between two of its
steps. A token that was stamped before then would bring its old stamp back over a newer
token. So each write is two round trips: read what is there, *then* take the stamp, then
store on condition that nothing has changed. A late write finds another version, and
does nothing. One that finds the same version had nothing acknowledged before it, so its
stamp is older than no acknowledged change.

What is not there cannot be compared. A placeholder is added first, which has no stamp
and so may arrive at any time. The model in ``tests/model`` walks through what breaks
without each of these.
"""

from __future__ import annotations

from time import monotonic
from typing import Sequence

from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.store import CacheStore, Failures, Maker, note
from hydracache_sync.cache.tokens.token import placeholders
from hydracache_sync.errors import ApplyUnavailable


def replace(
    store: CacheStore,
    addresses: Sequence[Address],
    make: Maker,
    kind: bytes,
    *,
    again: bool = True,
) -> Failures:
    """Replace the tokens at ``addresses``, all copies; two round trips to all nodes.

    Where another writer was faster it begins again, with a new stamp, for the store's
    ``patience``. A write that was not acknowledged is not repeated here, and may be
    carried out later.

    :param make: makes tokens that were never there before, stamped when it is called.
    :param kind: of the placeholders.
    :param again: False to leave alone what another writer has replaced meanwhile.
    :return: what was not acknowledged, and why.
    """
    failures: Failures = {}
    copies = store.copies(addresses)
    until = monotonic() + store.patience
    while copies:
        added = placeholders(len(copies), kind)
        outcomes = store.replace_many(copies, added, make)
        if outcomes.count(True) == len(outcomes):
            break
        overtaken = []
        for copy, outcome in zip(copies, outcomes):
            if outcome is False:
                overtaken.append(copy)
            elif outcome is not True:
                note(failures, copy[0], outcome)
        copies = overtaken if again else []
        if copies and monotonic() >= until:
            for address, _ in copies:
                note(failures, address, _overtaken(store, address))
            break
    if failures and again:
        _remove_refused(store, failures)
    return failures


def _remove_refused(store: CacheStore, failures: Failures) -> None:
    """Remove tokens that a server refuses to replace, for want of memory.

    The write has failed in any case. Without a token readers load meanwhile, and with
    the old one they would be served what it stands for. A removal that is late is as
    harmless as an eviction.
    """
    refused = [
        address
        for address, error in failures.items()
        if isinstance(error, ApplyUnavailable) and error.answered
    ]
    if refused:
        store.delete_many(refused)


def _overtaken(store: CacheStore, address: Address) -> ApplyUnavailable:
    nodes = store.nodes_of(address)
    return ApplyUnavailable(
        f"the token at {address[1]!r} was replaced by others, or evicted, again and"
        f" again for {store.patience:g} s; it will be tried again",
        node=nodes[0] if len(nodes) == 1 else None,
    )

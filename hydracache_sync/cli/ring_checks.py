"""Whether what workers have published is in the ring that readers use.

A worker with another ring, or another server list, publishes each row in all honesty,
and no reader here is told of one. Changes nothing.
"""

from __future__ import annotations

import math
from typing import Iterator

from hydracache_sync.cache.keyspace import Keyspace
from hydracache_sync.cache.tokens.token import (
    TOKEN_ID_SIZE,
    TOKEN_SIZE,
    UNKNOWN_MS,
    is_placeholder,
)
from hydracache_sync.cli.exit_codes import ExitCode
from hydracache_sync.cli.findings import Finding, problem, warning
from hydracache_sync.cli.outbox_checks import CLOCK_SKEW
from hydracache_sync.errors import ApplyUnavailable, OutboxError
from hydracache_sync.memcached.store import MemcachedStore
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import OutboxRow, OutboxState
from hydracache_sync.printable import printable
from hydracache_sync.wording.moments import counted

#: Rows of a namespace that are looked at, the last ones that were published.
LAST_ROWS = 100


def examine_published(
    outbox: InvalidationOutbox, store: MemcachedStore, namespace: str
) -> Iterator[Finding]:
    """Compare the last published rows with the tokens of their targets.

    A token that is older than its row was not replaced for it. One that is not there
    says nothing: no reader has asked for it, or it was evicted. One without a stamp was
    made by a reader, after the token was lost, or because no worker has made it.
    """
    keyspace = Keyspace(store.ring, namespace)
    try:
        found = outbox.rows(
            namespace, state=OutboxState.PUBLISHED, limit=LAST_ROWS, newest=True
        )
        rows = [each for each in found if _has_token(each)]
        addresses = [
            keyspace.target(*each.intent.to_cache_invalidation())
            for each in rows
            if each.intent is not None
        ]
        tokens = store.get_many(addresses) if addresses else []
        kept_since_ms = _kept_since_ms(store)
    except (OutboxError, ApplyUnavailable):
        return  # told of by the checks of the database, or of the node
    known = [(row, token) for row, token in zip(rows, tokens) if token]
    old = [row for row, token in known if _stamp_ms(token) < _began_ms(row)]
    check = f"namespace {printable(namespace)}"
    mend = (
        "have workers and drains use the --ring and server list of the apps, or"
        f" correct them here; then `hydracache flush {printable(namespace)}`"
    )
    if old:
        yield problem(
            check,
            f"{len(old)} of the last {counted(len(rows), 'published row')} did not"
            f" reach ring {store.ring}: readers of this ring are served what row"
            f" {old[0].id} has invalidated",
            mend,
            ExitCode.FAILED,
        )
        return
    for row, token in known[:1]:
        if not is_placeholder(token) or _began_ms(row) <= kept_since_ms:
            continue
        yield warning(
            check,
            f"row {row.id} was published, and no worker has written its token"
            f" in ring {store.ring}, though memcached has lost nothing since",
            f"if this ring was in use by then: {mend}",
        )


def _has_token(row: OutboxRow) -> bool:
    """Whether the row is about one token, and its moments are to be believed."""
    if row.intent is None or row.intent.kind == "flush":
        return False
    # One that is dated ahead says nothing of when it was written.
    return row.created_at_ms <= (row.published_at_ms or 0)


def _kept_since_ms(store: MemcachedStore) -> float:
    """Since when no node has lost anything, in Unix milliseconds."""
    since = 0.0
    for stats in store.stats().values():
        if isinstance(stats, ApplyUnavailable):
            raise stats
        try:
            lost = int(stats["evictions"]) + int(stats["cmd_flush"])
            started = int(stats["time"]) - int(stats["uptime"])
        except (KeyError, ValueError):
            return math.inf  # a proxy, or another server: not known
        since = max(since, math.inf if lost else started * 1000.0)
    return since


def _stamp_ms(token: bytes) -> int:
    """When it was made; of one without a stamp, or that is none, later than all."""
    if len(token) != TOKEN_SIZE:
        return UNKNOWN_MS
    return int.from_bytes(token[TOKEN_ID_SIZE:], "big")


def _began_ms(row: OutboxRow) -> float:
    """What was made before that is older than the row, whose clock is another."""
    return row.created_at_ms - CLOCK_SKEW * 1000

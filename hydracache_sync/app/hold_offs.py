"""Quarantines of what was written: mode strict, in an app and in a program without one.

Knows no framework, and no outbox: only receipts, and the cache that is to hold off.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Iterable, Iterator

from hydracache_sync.app.request_state import EnqueuedBatch
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.intents import InvalidationIntentBatch


@contextlib.contextmanager
def held_off(
    cache: TaggedCache, written: Iterable[EnqueuedBatch], *, degrade: bool
) -> Iterator[None]:
    """Hold off what was ``written``, in a block around its COMMIT.

    For what is held off already the block does nothing. The receipts say afterwards
    what came of it.

    :param degrade: commit all the same while memcached is away.
    :raises QuarantineError: do not commit; roll back.
    """
    new = [each for each in written if each.receipt.strict is None]
    if not new:
        yield
        return
    block = cache.quarantine(_joined(new), degrade=degrade)
    with block:
        yield
    # Not where the commit has failed: then it is written, and held off, again.
    _note_strict(new, bool(block.strict))


def hold_off_late(cache: TaggedCache, late: Iterable[EnqueuedBatch]) -> None:
    """Hold off what is committed already; its receipts say that it was too late."""
    late = list(late)
    with cache.quarantine(_joined(late), degrade=True):
        _note_strict(late, False)


def _joined(written: Iterable[EnqueuedBatch]) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch()
    for each in written:
        for intent in each.receipt.batch or ():
            batch.intent(intent)
    return batch


def _note_strict(written: Iterable[EnqueuedBatch], strict: bool) -> None:
    for each in written:
        each.receipt = dataclasses.replace(each.receipt, strict=strict)

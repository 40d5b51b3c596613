"""What this thread is writing and has not committed, so that its reads go round it.

A transaction that has written sees its own rows, and nobody else does until it commits.
What it would store could be rolled back, and what it finds is what it has just changed.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Collection, Iterable, Iterator, Sequence, Tuple

from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch


class OpenWrites(threading.local):
    """The batches of this thread's open transactions; each thread has its own.

    :ivar batches: empty most of the time, which is all that a read looks at then.
    """

    batches: Tuple[InvalidationIntentBatch, ...] = ()

    @contextlib.contextmanager
    def of(self, batch: InvalidationIntentBatch) -> Iterator[None]:
        """Hold ``batch`` open; what is added to it meanwhile counts."""
        self.batches += (batch,)
        try:
            yield
        finally:
            batches = list(self.batches)
            # By identity, and the last one: batches are equal when their intents are.
            index = max(at for at, each in enumerate(batches) if each is batch)
            del batches[index]
            self.batches = tuple(batches)

    def touch(self, key: str, tags: Sequence[str]) -> bool:
        """Tell whether an entry of ``key`` with ``tags`` rests on what is written."""
        return any(touch(batch, key, tags) for batch in self.batches)


def touch(
    intents: Iterable[InvalidationIntent], key: str, tags: Collection[str]
) -> bool:
    """Tell whether one of ``intents`` invalidates an entry of ``key`` with ``tags``."""
    for intent in intents:
        kind, value = intent.to_cache_invalidation()
        if (
            kind == "flush"
            or (kind == "key" and value == key)
            or (kind == "tag" and value in tags)
        ):
            return True
    return False

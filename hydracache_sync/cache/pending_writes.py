"""What this thread is writing and has not committed, so that its reads go round it.

A transaction that has written sees its own rows, and nobody else does until it commits.
What it would store could be rolled back, and what it finds is what it has just changed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Collection, Dict, Iterable, Iterator, Sequence, Tuple

from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch

#: Process and thread, or greenlet. A fork copies what the parent's threads had open.
_Writer = Tuple[int, int]


class PendingWrites:
    """The batches of open transactions; each thread has its own.

    Not a ``threading.local``: see ``hydracache_sync.fork``.
    """

    def __init__(self) -> None:
        #: Empty most of the time, which is all that a read looks at then.
        self._open: Dict[_Writer, Tuple[InvalidationIntentBatch, ...]] = {}

    @property
    def batches(self) -> Tuple[InvalidationIntentBatch, ...]:
        """Those of this thread, in order."""
        return self._open.get(_this_one(), ()) if self._open else ()

    @contextlib.contextmanager
    def of(self, batch: InvalidationIntentBatch) -> Iterator[None]:
        """Hold ``batch`` open; what is added to it meanwhile counts."""
        writer = _this_one()
        self._open[writer] = self._open.get(writer, ()) + (batch,)
        try:
            yield
        finally:
            batches = list(self._open.pop(writer))
            # By identity, and the last one: batches are equal when their intents are.
            index = max(at for at, each in enumerate(batches) if each is batch)
            del batches[index]
            if batches:
                self._open[writer] = tuple(batches)

    def affects(self, key: str, tags: Sequence[str]) -> bool:
        """Return whether a pending write invalidates an entry of ``key``, ``tags``."""
        return any(affects(batch, key, tags) for batch in self.batches)


def affects(
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


def _this_one() -> _Writer:
    return os.getpid(), threading.get_ident()

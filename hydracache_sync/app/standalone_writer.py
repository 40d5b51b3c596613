"""An outbox and a namespace, for transactions of programs that are no web app.

With the namespace's cache where that is strict: then commits are held off.
"""

from __future__ import annotations

import contextlib
from typing import Any, ContextManager, Iterable, Sequence

from hydracache_sync.app.hold_offs import held_off
from hydracache_sync.app.request_state import EnqueuedBatch, RequestState
from hydracache_sync.cache.entity_kinds import EntityKinds
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.keys import checked_namespace
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt


class StandaloneWriter:
    """Writes to the outbox, and announces commits to the pools that subscribe to it.

    :param cache: that of a strict namespace.
    """

    transactions_are_followed = False

    def __init__(
        self,
        outbox: InvalidationOutbox,
        namespace: str,
        cache: TaggedCache | None = None,
    ) -> None:
        if not isinstance(outbox, InvalidationOutbox):
            raise TypeError(
                "attach() takes an outbox and a namespace, or the HydraCache of an app,"
                f" not {type(outbox).__name__}"
            )
        self.outbox = outbox
        self.namespace = checked_namespace(namespace)
        self._cache = cache
        self.kinds = EntityKinds() if cache is None else cache.kinds
        if cache is not None:
            if cache.namespace != self.namespace:
                raise ConfigurationError(
                    f"the cache is of namespace {cache.namespace}, not {namespace}"
                )
            cache.quarantine(InvalidationIntentBatch())  # says whether it is strict

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StandaloneWriter):
            return NotImplemented
        return self.outbox is other.outbox and self.namespace == other.namespace

    def __hash__(self) -> int:
        return hash((id(self.outbox), self.namespace))

    @property
    def runtime(self) -> StandaloneWriter:
        return self

    def collected(self) -> RequestState | None:
        return None

    def collected_if_any(self) -> RequestState | None:
        return None

    def write(
        self,
        connection: Any,
        batch: InvalidationIntentBatch,
        position: CommitPosition | None = None,
    ) -> InvalidationReceipt:
        return self.outbox.enqueue_in(
            connection, self.namespace, batch, commit_position=position
        )

    def quarantine(self, written: Iterable[EnqueuedBatch]) -> ContextManager[None]:
        if self._cache is None:
            return contextlib.nullcontext()
        return held_off(self._cache, written, degrade=False)

    def committed(self, written: EnqueuedBatch) -> None:
        written.committed = True
        self.settle([written])

    def settle(self, written: Sequence[EnqueuedBatch]) -> None:
        self.outbox.announce_commit([self.namespace])

"""What an app that is switched off has for an outbox, a memcached and a pool.

The rest of the library runs as ever: what is wrong with a call is wrong here, too.
"""

from __future__ import annotations

import sys
from typing import Any, Mapping, Sequence

from hydracache_sync.app import app_settings, settings
from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.memory import MemoryStore
from hydracache_sync.cache.store import Copy, Failures, Maker, Write
from hydracache_sync.errors import ApplyError
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox.arguments import checked_batch, checked_position
from hydracache_sync.outbox.memory import MemoryOutbox
from hydracache_sync.outbox.row import CommitStatus
from hydracache_sync.receipts import InvalidationReceipt


def replaced() -> Mapping[str, Any]:
    """Values of settings, by name, in place of what an app was set to that is off."""
    return {
        settings.OUTBOX.name: NoOutbox(),
        settings.MEMCACHED.name: NoStore(),
        settings.PREVIOUS_MEMCACHED.name: None,
        settings.TRACING.name: None,
        settings.STATSD.name: None,
        app_settings.POOL.name: "none",
        # Nothing is stored, however old it is.
        app_settings.SNAPSHOT.name: "fresh",
    }


class NoOutbox(MemoryOutbox):
    """Checks what it is given, drops it, and says that it is published."""

    def enqueue(
        self, namespace: str, batch: InvalidationIntentBatch, **options: Any
    ) -> InvalidationReceipt:
        batch = checked_batch(namespace, batch, self.max_batch)
        position, _ = checked_position(options.get("commit_position"))
        count = len(batch.distinct())
        return InvalidationReceipt(
            namespace, position, self.now_ms(), count, batch, count, _over=True
        )

    def enqueue_in(
        self,
        connection: Any,
        namespace: str,
        batch: InvalidationIntentBatch,
        **options: Any,
    ) -> InvalidationReceipt:
        return self.enqueue(namespace, batch, **options)

    def sees(self, connection: Any, receipt: InvalidationReceipt) -> bool:
        return True

    def status_for_commit(self, *commit: Any, **options: Any) -> CommitStatus:
        return CommitStatus(published=sys.maxsize)  # of any batch all

    def publish_commit(self, receipt: InvalidationReceipt, **options: Any) -> int:
        return receipt.targets


class NoStore(MemoryStore):
    """Acknowledges all, and has lost it at the next read, as any store may."""

    def get_many(self, addresses: Sequence[Address]) -> list[bytes | None]:
        return [None] * len(addresses)

    def add_many(self, writes: Sequence[Write]) -> list[bytes | None]:
        return [value for _, value, _ in writes]

    def set_many(self, writes: Sequence[Write]) -> Failures:
        return {}

    def replace_many(
        self, copies: Sequence[Copy], placeholders: Sequence[bytes], make: Maker
    ) -> list[bool | ApplyError]:
        make(copies, placeholders)
        return [True] * len(copies)

"""The library's worker, with a diary and a fate: what it claims, tries and applies.

An acknowledged apply is noted together with the rows that it was made for. Those were
claimed, or committed by the writer itself, before: hence it came after their commit,
and no clock has to be asked.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence, Union

from faults.caches import evict, open_applier
from faults.fate import APPLIED, APPLYING, CLAIMED, MARKED, Fates
from faults.job import CLAIM_TTL, NAMESPACE, Job
from faults.ledger import Ledger
from faults.workload import target
from hydracache_sync import (
    InvalidationApplier,
    InvalidationIntent,
    InvalidationOutbox,
    InvalidationReceipt,
    OutboxRow,
    OutboxWorker,
    PublishReport,
)
from hydracache_sync.cache import CacheStore

#: Rows of a claim: few, so that there are many claims to be killed in.
BATCH_SIZE = 16

#: Share of applies after which a token that was just set is evicted, before anyone
#: knows that it was set: the worst moment for it.
EVICTED = 0.05

#: Share of inline publishes for which the receipt has travelled as text. The worker
#: then finds in the table what to apply.
AS_TEXT = 0.3

#: What an intent stands for: ids of claimed rows, or the position of an own commit.
Rows = dict[InvalidationIntent, list[Union[int, str]]]

Failures = list[Union[Exception, None]]


class WatchedOutbox:
    """An outbox that tells what was claimed. For one thread.

    :param on_claim: called with the rows of each claim.
    """

    def __init__(
        self,
        outbox: InvalidationOutbox,
        fates: Fates,
        on_claim: Callable[[Sequence[OutboxRow]], None],
    ) -> None:
        self._outbox = outbox
        self._fates = fates
        self._on_claim = on_claim

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outbox, name)

    def claim(self, *arguments: Any, **options: Any) -> list[OutboxRow]:
        rows = self._outbox.claim(*arguments, **options)
        if rows:
            self._on_claim(rows)
            self._fates.reach(CLAIMED)
        return rows

    def mark_published(self, rows: Sequence[OutboxRow]) -> int:
        marked = self._outbox.mark_published(rows)
        self._fates.reach(MARKED)
        return marked


class NotedApplier(InvalidationApplier):
    """Notes each apply before it is tried and after it was acknowledged.

    :ivar rows: what the intents of the next batch stand for.
    """

    def __init__(
        self, job: Job, store: CacheStore, ledger: Ledger, fates: Fates
    ) -> None:
        self._applier = applier = open_applier(job, store)
        self._store = store
        self._ledger = ledger
        self._fates = fates
        self._dropped_share = job.drop_intents
        self._random = job.random("apply")
        self.namespace = applier.namespace
        self.can_flush = applier.can_flush
        self.rows: Rows = {}

    def apply_batch(self, intents: Sequence[InvalidationIntent]) -> Failures:
        self._ledger.note("try", targets=[target(intent) for intent in intents])
        self._fates.reach(APPLYING)
        failures, applied = self._apply(intents)
        if applied and self._random.random() < EVICTED:
            evict(self._store, self._random.choice(applied))
            self._ledger.note("evicted")
        self._fates.reach(APPLIED)
        self._ledger.note(
            "applied",
            targets=[
                [*target(intent), self.rows.get(intent, [])] for intent in applied
            ],
            failed=sum(failure is not None for failure in failures),
        )
        return failures

    def _apply(
        self, intents: Sequence[InvalidationIntent]
    ) -> tuple[Failures, list[InvalidationIntent]]:
        """Return the failures, and what the cache has really acknowledged.

        With ``--drop-intents`` some are only said to be applied.
        """
        kept = [
            intent
            for intent in intents
            if not self._random.random() < self._dropped_share
        ]
        failed = dict(zip(kept, self._applier.apply_batch(kept) if kept else []))
        applied = [intent for intent in kept if failed[intent] is None]
        return [failed.get(intent) for intent in intents], applied


class Carrier:
    """A worker of the storm: run it in a loop, once, or inline after a commit."""

    def __init__(
        self,
        job: Job,
        outbox: InvalidationOutbox,
        store: CacheStore,
        ledger: Ledger,
        fates: Fates,
    ) -> None:
        self._random = job.random("publish")
        self._applier = NotedApplier(job, store, ledger, fates)
        self.worker = OutboxWorker(
            WatchedOutbox(outbox, fates, self._claimed),  # type: ignore[arg-type]
            self._applier,
            NAMESPACE,
            batch_size=BATCH_SIZE,
            claim_ttl=CLAIM_TTL,
            backoff=0.2,
            max_backoff=1.0,
        )

    def publish(self, receipt: InvalidationReceipt) -> PublishReport:
        """Publish the writer's own commit, which has returned."""
        assert receipt.batch is not None
        position = receipt.commit_position.value
        self._applier.rows = {intent: [position] for intent in receipt.batch}
        if self._random.random() < AS_TEXT:
            receipt = InvalidationReceipt.from_string(receipt.to_string())
        return self.worker.publish(receipt)

    def _claimed(self, rows: Sequence[OutboxRow]) -> None:
        of_intent: Rows = {}
        for row in rows:
            if row.intent is not None:
                of_intent.setdefault(row.intent, []).append(row.id)
        self._applier.rows = of_intent

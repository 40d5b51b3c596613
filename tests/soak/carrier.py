"""One process of pools: ``python -m soak.carrier JOB``. SIGTERM ends it.

Its exit code says whether the batches in flight were finished; dead letters are on
stdout, one line each.
"""

from __future__ import annotations

import json
import logging
import random
import sys
from dataclasses import asdict, dataclass
from typing import Sequence

from faults.process import die_with, set_at_sigterm
from hydracache_sync import (
    InvalidationIntent,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    WorkerPool,
    open_outbox,
)
from hydracache_sync.events import DeadLettered, Event

#: Seconds that the batches in flight have at the end.
STOP_TIMEOUT = 20.0


@dataclass(frozen=True)
class Job:
    """What a carrier is told.

    :ivar parent: ends the carrier with it, in whatever way.
    :ivar claim_ttl: short, so that a soak sees claims end under stopped processes.
    :ivar drop_intents: share of intents that are acknowledged and not applied.
    """

    parent: int
    database: str
    nodes: tuple[str, ...]
    namespaces: tuple[str, ...]
    threads: int
    claim_ttl: float
    drop_intents: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        values = json.loads(text)
        for name in ("nodes", "namespaces"):
            values[name] = tuple(values[name])
        return cls(**values)


class Dropping(MemcachedApplier):
    """Says that it has applied what it has not: the soak must find that out."""

    share = 0.0

    def apply_batch(
        self, intents: Sequence[InvalidationIntent]
    ) -> list[Exception | None]:
        kept = [intent for intent in intents if random.random() >= self.share]
        outcomes = dict(zip(kept, super().apply_batch(kept)))
        return [outcomes.get(intent) for intent in intents]


def tell_dead_letters(event: Event) -> None:
    if isinstance(event, DeadLettered):
        print(f"{event.namespace}: {event.count} dead: {event.error}", flush=True)


def main() -> None:
    job = Job.from_json(sys.argv[1])
    die_with(job.parent)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(threadName)s %(message)s"
    )
    stop = set_at_sigterm()
    outbox = open_outbox(job.database)
    store = MemcachedStore(list(job.nodes))
    Dropping.share = job.drop_intents
    applier = Dropping if job.drop_intents else MemcachedApplier
    workers = [
        OutboxWorker(outbox, applier(store, name), claim_ttl=job.claim_ttl)
        for name in job.namespaces
    ]
    pool = WorkerPool(*workers, threads=job.threads, purge_every=5.0)
    pool.subscribe(tell_dead_letters)
    pool.start()
    stop.wait()
    sys.exit(0 if pool.stop(STOP_TIMEOUT) else 1)


if __name__ == "__main__":
    main()

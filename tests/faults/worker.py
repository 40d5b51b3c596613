"""Workers: one that runs in a loop, the one that cron starts, and the last of all."""

from __future__ import annotations

import threading
from dataclasses import asdict

from faults.caches import open_store
from faults.carrying import Carrier
from faults.database import open_database
from faults.fate import Fates
from faults.job import NAMESPACE, Job
from faults.ledger import Ledger
from hydracache_sync import OutboxError, PublishReport

#: Seconds until an idle worker looks again.
IDLE = 0.01

#: Seconds that a drain of cron goes on at most.
CRON_SECONDS = 5.0


def run_worker(job: Job, stop: threading.Event) -> None:
    """Claim, apply and mark until told to stop."""
    worker = _Worker(job)
    rng = job.random()
    while not stop.is_set():
        if rng.random() < 0.2:
            report = worker.drain(stop, max_seconds=0.5)
        else:
            report = worker.run_once(stop)
        if report.published == 0:
            stop.wait(IDLE)


def run_cron(job: Job, stop: threading.Event) -> None:
    """Drain once, beside the workers."""
    _Worker(job).drain(stop, max_seconds=CRON_SECONDS)


def run_last_drain(job: Job, stop: threading.Event) -> None:
    """Drain until nothing is pending, what dead workers hold included."""
    worker = _Worker(job)
    while not stop.is_set() and worker.has_pending():
        worker.drain(stop)
        stop.wait(IDLE)


class _Worker:
    """A carrier that notes its reports and outlives faults of the database."""

    def __init__(self, job: Job) -> None:
        self._ledger = Ledger(job.ledgers, job.name)
        self._outbox = open_database(job.database).open_outbox()
        store = open_store(job)
        fates = Fates(job.fate)
        self._carrier = Carrier(job, self._outbox, store, self._ledger, fates)

    def has_pending(self) -> bool:
        try:
            return self._outbox.status(NAMESPACE).pending > 0
        except OutboxError as exc:
            self._failed(exc)
            return True

    def run_once(self, stop: threading.Event) -> PublishReport:
        try:
            return self._noted(self._carrier.worker.run_once(stop=stop))
        except OutboxError as exc:
            return self._failed(exc)

    def drain(
        self, stop: threading.Event, *, max_seconds: float | None = None
    ) -> PublishReport:
        try:
            report = self._carrier.worker.drain(max_seconds=max_seconds, stop=stop)
            return self._noted(report)
        except OutboxError as exc:
            return self._failed(exc)

    def _noted(self, report: PublishReport) -> PublishReport:
        if report.claimed:
            self._ledger.note("report", **asdict(report))
        return report

    def _failed(self, error: OutboxError) -> PublishReport:
        self._ledger.note("outbox error", error=f"{type(error).__name__}: {error}")
        return PublishReport()

"""Writers: transactions that change items and enqueue what they invalidate.

Each is noted before COMMIT is sent and after it has returned. Some are rolled back on
purpose; some writers publish inline, or wait, and then read what they have written.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing

from faults.caches import open_cache, open_store
from faults.carrying import Carrier
from faults.database import PATIENCE, Database, Session, open_database
from faults.fate import COMMITTED, INTENDED, Fates
from faults.job import NAMESPACE, Job
from faults.ledger import Ledger
from faults.reading import P4, CheckedReads
from faults.workload import Transaction, draw
from hydracache_sync import (
    CommitPosition,
    InvalidationIntentBatch,
    InvalidationReceipt,
    InvalidationWait,
    OutboxError,
)

#: Shares of commits that are published inline, and that are waited for.
INLINE = 0.10
WAITED = 0.05

#: Seconds to wait for: beyond a claim's time, so that most waits end well even where
#: the row was held by a worker that has died.
WAIT_TIMEOUT = 2.5

#: Seconds that a writer waits for a lock. The impatient ones meet a locked database, in
#: all that they do.
PATIENCES = (PATIENCE, PATIENCE, PATIENCE, 0.0)

#: Seconds until a transaction that failed is run again.
AGAIN = 0.005


def run_writer(job: Job, stop: threading.Event) -> None:
    """Commit until the slot's quota is in the database."""
    database = open_database(job.database)
    with closing(database.reader()) as session:
        _Writer(job, database, session).run(stop)


class _Writer:
    def __init__(self, job: Job, database: Database, reads: Session) -> None:
        self._job = job
        self._database = database
        self._ledger = Ledger(job.ledgers, job.name)
        self._fates = Fates(job.fate)
        self._random = rng = job.random()
        self._outbox = database.open_outbox()
        store = open_store(job)
        self._carrier = Carrier(job, self._outbox, store, self._ledger, self._fates)
        self._reads = reads
        self._checked = CheckedReads(open_cache(job, store), reads, self._ledger, rng)
        self._wait = InvalidationWait.local(WAIT_TIMEOUT)
        self._style = rng.choice(database.styles)
        self._patience = rng.choice(PATIENCES)

    def run(self, stop: threading.Event) -> None:
        left = self._job.quota - self._reads.committed(self._job.slot)
        session = self._connect()
        faults: tuple[type[Exception], ...] = (OutboxError, *self._database.errors)
        due = time.monotonic()
        number = 0
        try:
            while left > 0 and not stop.is_set():
                stop.wait(max(0.0, due - time.monotonic()))
                id = f"{self._job.slot}.{self._job.life}.{number}"
                number += 1
                transaction = draw(self._random, id, self._job.items)
                try:
                    left -= self._run(session, transaction)
                except faults as exc:
                    if not self._database.is_fault(exc):
                        raise
                    self._ledger.note("fault", txn=id, error=str(exc))
                    session = self._recovered(session)
                    stop.wait(AGAIN)
                    # Whether it is committed, the database has to say.
                    left = self._job.quota - self._reads.committed(self._job.slot)
                else:
                    if self._job.rate:
                        due += self._random.uniform(0.0, 2.0 / self._job.rate)
        finally:
            session.close()

    def _connect(self) -> Session:
        return self._database.writer(self._style, patience=self._patience)

    def _recovered(self, session: Session) -> Session:
        """Roll back, to run the next transaction on the same connection if it lives."""
        try:
            session.roll_back()
        except self._database.errors:
            session.close()
            return self._connect()
        return session

    def _run(self, session: Session, transaction: Transaction) -> int:
        """Run one transaction; return how many were committed, 1 or 0."""
        session.begin()
        receipt = None
        if transaction.enqueue_first:
            receipt = self._enqueue(session, transaction)
        changed = session.change(transaction)
        if receipt is None:
            receipt = self._enqueue(session, transaction)
        if transaction.enqueue_twice:
            self._enqueue(session, transaction)
        position = receipt.commit_position
        session.write_down(transaction, self._job.slot, changed, position)
        if transaction.roll_back:
            session.roll_back()
            self._ledger.note("rolled back", txn=transaction.id)
            return 0
        self._ledger.note("intend", txn=transaction.id)
        self._fates.reach(INTENDED)
        session.commit()
        self._fates.reach(COMMITTED)
        self._ledger.note("committed", txn=transaction.id)
        chance = self._random.random()
        if chance < INLINE:
            self._publish(receipt, changed)
        elif chance < INLINE + WAITED:
            self._wait_for(receipt, changed)
        return 1

    def _enqueue(
        self, session: Session, transaction: Transaction
    ) -> InvalidationReceipt:
        batch = InvalidationIntentBatch(reason=transaction.id)
        for intent in transaction.intents:
            batch.intent(intent)
        position = None
        if transaction.given_position:
            position = CommitPosition(f"storm:{transaction.id}")
        return self._outbox.enqueue_in(
            session.connection, NAMESPACE, batch, commit_position=position
        )

    def _publish(
        self, receipt: InvalidationReceipt, changed: list[tuple[int, int]]
    ) -> None:
        report = self._carrier.publish(receipt)
        self._ledger.note("inline", complete=report.complete)
        if report.complete:
            self._read_back(changed)

    def _wait_for(
        self, receipt: InvalidationReceipt, changed: list[tuple[int, int]]
    ) -> None:
        # As the next request gets it, perhaps in another process.
        text = receipt.to_string()
        outcome = self._wait.wait(self._outbox, InvalidationReceipt.from_string(text))
        self._ledger.note(
            "wait",
            satisfied=outcome.satisfied,
            timed_out=outcome.timed_out,
            dead_lettered=outcome.dead_lettered,
            elapsed_ms=outcome.elapsed_ms,
        )
        if outcome.satisfied:
            self._read_back(changed)

    def _read_back(self, changed: list[tuple[int, int]]) -> None:
        for item, version in changed:
            self._checked.read(item, version, P4)
            self._ledger.note("read back")

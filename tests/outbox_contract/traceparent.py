"""A row keeps the trace context of its enqueue, which is no part of what it is."""

from __future__ import annotations

import contextlib
import pickle
from typing import Iterator

import pytest

from hydracache_sync.outbox import OutboxState
from hydracache_sync.receipts import InvalidationReceipt
from outbox_contract.common import SHOP, OutboxHooks, batch_of, numbered

#: Of one request, and of another.
FIRST = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECOND = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


class FixedTracer:
    """Has the context that a test gives it, and keeps the receipts."""

    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent
        self.noted: list[InvalidationReceipt] = []

    @contextlib.contextmanager
    def enqueue(self, namespace: str) -> Iterator[FixedTracer]:
        yield self

    def note(self, receipt: InvalidationReceipt) -> None:
        self.noted.append(receipt)


def claimed(outbox, limit: int = 10):
    return outbox.claim(SHOP, "w", limit=limit, claim_ttl=30)


class TraceparentContract(OutboxHooks):
    """From the enqueue to the claim."""

    @pytest.fixture
    def tracer(self, outbox) -> FixedTracer:
        tracer = FixedTracer(FIRST)
        outbox.trace(tracer)
        return tracer

    def test_without_a_tracer_the_column_is_null(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        found = self.sql(outbox, f"select traceparent from {outbox.table}")
        assert found == [(None,)]
        assert [row.traceparent for row in claimed(outbox)] == [None]

    def test_a_claim_has_what_was_enqueued(self, outbox, tracer):
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        tracer.traceparent = SECOND
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("c"))
        tracer.traceparent = None
        outbox.enqueue(SHOP, batch_of("d"))

        rows = claimed(outbox)

        assert [row.traceparent for row in rows] == [FIRST, FIRST, SECOND, None]
        assert [row.intent.value for row in rows] == ["a", "b", "c", "d"]
        assert tracer.noted[0] is receipt
        assert pickle.loads(pickle.dumps(rows)) == rows

    def test_it_is_read_later_where_the_claim_did_not(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        [row] = claimed(outbox)
        marked = f"update {outbox.table} set traceparent = '{FIRST}'"
        self.sql(outbox, marked)

        [listed] = outbox.rows(SHOP)

        assert row.traceparent == listed.traceparent == FIRST

    def test_a_row_that_failed_keeps_it(self, outbox, tracer, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.mark_failed(claimed(outbox), "no", backoff=0.0, dead=False)
        clock.advance(1.0)

        [row] = claimed(outbox)

        assert (row.attempts, row.traceparent) == (1, FIRST)

    def test_it_widens_no_identity(self, outbox, tracer):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:1")
        [before] = outbox.rows(SHOP)
        tracer.traceparent = SECOND

        again = outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:1")

        after, other = outbox.rows(SHOP)
        assert again.inserted == 1
        assert (after.id, after.row_id) == (before.id, before.row_id)
        # Of its last enqueue, as the row is carried for that as well.
        assert after.traceparent == other.traceparent == SECOND

    def test_a_finished_row_is_carried_for_the_request_that_asks_again(
        self, outbox, tracer
    ):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:1")
        outbox.mark_published(claimed(outbox))
        tracer.traceparent = None

        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:1")

        [row] = outbox.rows(SHOP)
        assert (row.state, row.traceparent) == (OutboxState.PENDING, None)

    def test_a_large_batch_keeps_it_in_every_row(self, outbox, tracer):
        outbox.enqueue(SHOP, batch_of(*numbered(4000)))

        found = self.sql(
            outbox,
            f"select count(*), count(distinct traceparent), min(traceparent)"
            f" from {outbox.table}",
        )

        [(rows, contexts, context)] = found
        assert (rows, contexts) == (4000, 1)
        assert context in (FIRST, FIRST.encode())

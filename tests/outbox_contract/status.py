"""What an outbox says of itself."""

from __future__ import annotations

from hydracache_sync.outbox import (
    CommitStatus,
    OutboxStatus,
)
from outbox_contract.common import SHOP, OutboxHooks, batch_of, numbered


class StatusContract(OutboxHooks):
    """What is on its way is counted, per namespace and per commit."""

    def test_empty_namespace_has_an_empty_status(self, outbox):
        outbox.enqueue("other", batch_of("theirs"))

        assert outbox.status(SHOP) == OutboxStatus()

    def test_status_counts_what_is_not_published(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("done", "dead", "failed", "held"))
        clock.advance(5)
        outbox.enqueue(SHOP, batch_of("waiting"))
        done, dead, failed, held = outbox.claim(SHOP, "w", limit=4, claim_ttl=30)
        published_at_ms = clock.now_ms
        outbox.mark_published([done])
        outbox.mark_failed([dead], "e", backoff=0, dead=True)
        outbox.mark_failed([failed], "e", backoff=60, dead=False)
        clock.advance(2)

        status = outbox.status(SHOP)

        assert status == OutboxStatus(
            pending=3,
            oldest_pending_age_ms=7000,
            dead_lettered=1,
            last_published_at_ms=published_at_ms,
            failed_attempts=2,
            capped=False,
            claimed=1,
            backoff=1,
        )
        assert status.due == 1

    def test_attempts_of_published_rows_are_not_counted(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=False)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))

        assert outbox.status(SHOP).failed_attempts == 0

    def test_age_is_that_of_the_oldest_row_whenever_it_is_due(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("oldest"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=3600, dead=False)
        clock.advance(10)
        outbox.enqueue(SHOP, batch_of("younger"))

        assert outbox.status(SHOP).oldest_pending_age_ms == 10_000

    def test_a_row_from_the_future_is_told(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("now"))
        clock.advance(86_400)
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(-86_390)

        status = outbox.status(SHOP)

        assert status.oldest_pending_age_ms == 10_000
        assert status.ahead_ms == 86_390_000

    def test_a_row_from_the_future_ages_since_a_worker_found_it(self, outbox, clock):
        clock.advance(86_400)
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(-86_400)
        before = outbox.status(SHOP).oldest_pending_age_ms
        outbox.release(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))
        clock.advance(5)

        assert before == 0
        assert outbox.status(SHOP).oldest_pending_age_ms == 5000

    def test_counts_beyond_the_cap_are_marked_capped(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of(*numbered(10_000)))

        exact = outbox.status(SHOP)
        outbox.enqueue(SHOP, batch_of("one more"))
        capped = outbox.status(SHOP)

        assert (exact.pending, exact.capped) == (10_000, False)
        assert (capped.pending, capped.capped) == (10_000, True)
        assert outbox.publish_commit(receipt) == 10_000
        assert outbox.status(SHOP).pending == 1

    def test_dead_letters_beyond_the_cap_are_marked_capped(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(10_001)))
        rows = outbox.claim(SHOP, "w", limit=20_000, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)

        status = outbox.status(SHOP)

        assert (status.dead_lettered, status.capped) == (10_000, True)
        assert status.pending == 0

    def test_commit_is_counted_by_state(self, outbox, clock):
        receipt = outbox.enqueue(SHOP, batch_of("done", "dead", "held", "waiting"))
        done, dead, held = outbox.claim(SHOP, "w", limit=3, claim_ttl=30)
        outbox.mark_published([done])
        outbox.mark_failed([dead], "e", backoff=0, dead=True)

        status = outbox.status_for_commit(SHOP, receipt.commit_position)

        assert status == CommitStatus(
            pending=2, published=1, dead_lettered=1, now_ms=clock.now_ms
        )

    def test_commit_that_is_not_visible_counts_nothing(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.enqueue("other", batch_of("a"), commit_position="tx:8")

        assert outbox.status_for_commit(SHOP, "tx:8") == (0, 0, 0, clock.now_ms)

    def test_discarded_row_is_seen_no_more(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7")
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)
        outbox.discard_dead_letters(SHOP, [rows[0].id])

        assert outbox.status_for_commit(SHOP, "tx:7")[:3] == (1, 0, 0)

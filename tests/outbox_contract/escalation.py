"""A row that cannot be carried becomes a flush."""

from __future__ import annotations

from hydracache_sync.intents import InvalidationIntent
from outbox_contract.common import SHOP, OutboxHooks
from support.processes import in_threads


class EscalationContract(OutboxHooks):
    """A flush stands in for an invalidation that was given up, once a minute."""

    def test_escalation_enqueues_a_flush_that_is_due_now(self, outbox):
        assert outbox.escalate(SHOP) is True

        [row] = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        assert row.intent == InvalidationIntent.flush()
        assert row.reason

    def test_flush_that_still_waits_covers_the_next_escalation(self, outbox):
        outbox.escalate(SHOP)

        assert outbox.escalate(SHOP) is False

        assert len(outbox.rows(SHOP)) == 1

    def test_flush_in_backoff_covers_the_next_escalation(self, outbox):
        outbox.escalate(SHOP)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=3600, dead=False)

        assert outbox.escalate(SHOP) is False

    def test_flush_that_a_worker_holds_does_not_cover_the_next_escalation(self, outbox):
        """It may have been applied already, before what is given up now was written."""
        outbox.escalate(SHOP)
        held = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert outbox.escalate(SHOP) is True

        outbox.mark_published(held)
        assert outbox.status(SHOP).pending == 1

    def test_flush_already_applied_is_followed_by_one_a_minute_later(
        self, outbox, clock
    ):
        outbox.escalate(SHOP)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))

        assert outbox.escalate(SHOP) is True
        assert outbox.escalate(SHOP) is False

        assert outbox.claim(SHOP, "w", limit=9, claim_ttl=30) == []
        clock.advance(60)
        [row] = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        assert row.intent == InvalidationIntent.flush()

    def test_dead_flush_is_no_cover(self, outbox):
        outbox.escalate(SHOP)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)

        assert outbox.escalate(SHOP) is True

    def test_next_minute_has_a_flush_of_its_own(self, outbox, clock):
        outbox.escalate(SHOP)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))
        clock.advance(60)

        assert outbox.escalate(SHOP) is True

        assert len(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == 1

    def test_namespaces_are_flushed_apart(self, outbox):
        assert outbox.escalate(SHOP) is True
        assert outbox.escalate("other") is True

        assert len(outbox.rows(SHOP)) == len(outbox.rows("other")) == 1

    def test_threads_that_escalate_at_once_add_one_flush(self, outbox):
        added = in_threads(8, lambda _: outbox.escalate(SHOP))

        assert sorted(added) == [False] * 7 + [True]
        assert len(outbox.rows(SHOP)) == 1

"""What is deleted, and what never is."""

from __future__ import annotations

from hydracache_sync.outbox import (
    InvalidationOutbox,
)
from outbox_contract.common import SHOP, OutboxHooks, batch_of, keys_of, numbered


class PurgeContract(OutboxHooks):
    """Finished rows go after their time, and no others."""

    def publish(self, outbox: InvalidationOutbox, *keys: str, namespace: str = SHOP):
        return outbox.publish_commit(outbox.enqueue(namespace, batch_of(*keys)))

    def test_only_rows_published_long_enough_ago_are_purged(self, outbox, clock):
        self.publish(outbox, "old")
        clock.advance(60)
        self.publish(outbox, "young")
        clock.advance(30.001)

        assert outbox.purge_published(SHOP, older_than=90) == 1

        assert keys_of(outbox.rows(SHOP)) == ["young"]

    def test_age_counts_from_the_publication_not_from_the_enqueue(self, outbox, clock):
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(100)
        outbox.publish_commit(receipt)
        clock.advance(1)

        assert outbox.purge_published(SHOP, older_than=50) == 0

    def test_purge_takes_the_oldest_up_to_its_limit(self, outbox, clock):
        for key in ("a", "b", "c"):
            self.publish(outbox, key)
            clock.advance(1)

        assert outbox.purge_published(SHOP, older_than=0, limit=2) == 2

        assert keys_of(outbox.rows(SHOP)) == ["c"]
        assert outbox.purge_published(SHOP, older_than=0, limit=2) == 1
        assert outbox.purge_published(SHOP, older_than=0, limit=2) == 0

    def test_purge_of_nothing_is_nothing(self, outbox, clock):
        self.publish(outbox, "a")
        clock.advance(1)

        assert outbox.purge_published(SHOP, older_than=0, limit=0) == 0

        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_pending_and_dead_rows_are_never_purged(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("dead", "held", "waiting"))
        dead, held = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_failed([dead], "e", backoff=0, dead=True)
        clock.advance(10**6)

        assert outbox.purge_published(SHOP, older_than=0) == 0

        assert keys_of(outbox.rows(SHOP)) == ["dead", "held", "waiting"]

    def test_purge_keeps_to_its_namespace(self, outbox, clock):
        self.publish(outbox, "theirs", namespace="other")
        clock.advance(1)

        assert outbox.purge_published(SHOP, older_than=0) == 0

        assert keys_of(outbox.rows("other")) == ["theirs"]

    def test_large_purge_counts_every_row(self, outbox, clock):
        self.publish(outbox, *numbered(1300))
        clock.advance(1)

        assert outbox.purge_published(SHOP, older_than=0, limit=1200) == 1200
        assert outbox.purge_published(SHOP, older_than=0) == 100

    def test_purged_position_can_be_used_again(self, outbox, clock):
        receipt = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.publish_commit(receipt)
        clock.advance(1)
        outbox.purge_published(SHOP, older_than=0)

        again = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        assert again.inserted == 1

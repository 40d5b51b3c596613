"""How a commit's rows stand."""

from __future__ import annotations

import pytest

from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import (
    OutboxState,
)
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
from outbox_contract.common import SHOP, OutboxHooks, batch_of, keys_of, numbered


class PublishCommitContract(OutboxHooks):
    """A writer that applied its own batch finishes its own rows."""

    def test_pending_rows_of_the_commit_are_published(self, outbox, clock):
        receipt = outbox.enqueue(SHOP, batch_of("a", "b", "a"))
        outbox.enqueue(SHOP, batch_of("later"))
        clock.advance(1)

        assert outbox.publish_commit(receipt) == 2

        rows = outbox.rows(SHOP, state=OutboxState.PUBLISHED)
        assert keys_of(rows) == ["a", "b"]
        assert {row.published_at_ms for row in rows} == {clock.now_ms}
        assert keys_of(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == ["later"]

    def test_claimed_rows_are_published_too_and_their_claim_is_over(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert outbox.publish_commit(receipt) == 2

        assert outbox.mark_failed(rows, "late", backoff=0, dead=True) == 0
        assert {row.state for row in outbox.rows(SHOP)} == {OutboxState.PUBLISHED}
        assert {row.claim_token for row in outbox.rows(SHOP)} == {None}

    def test_rows_in_backoff_that_were_seen_are_published_and_their_error_is_cleared(
        self, outbox
    ):
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=3600, dead=False)

        assert outbox.publish_commit(receipt) == 0
        assert outbox.publish_commit(receipt, seen=outbox.rows(SHOP)) == 1

        [row] = outbox.rows(SHOP)
        assert (row.last_error, row.attempts) == (None, 1)

    def test_a_row_that_was_enqueued_again_is_left_to_a_worker(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        again = outbox.enqueue(
            SHOP, batch_of("a"), commit_position=receipt.commit_position
        )

        assert outbox.publish_commit(receipt) == 1
        assert outbox.publish_commit(again) == 0

        assert keys_of(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == ["a"]

    def test_a_row_that_was_enqueued_again_is_left_also_after_it_died_and_was_reset(
        self, outbox
    ):
        receipt = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        held = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(held, "broken", backoff=0, dead=True)
        outbox.reset_dead_letters(SHOP)

        assert outbox.publish_commit(receipt) == 0

        assert keys_of(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == ["a"]

    @pytest.mark.parametrize("before", ["waiting", "published"])
    def test_a_row_that_was_enqueued_again_since_it_was_seen_is_left(
        self, outbox, before
    ):
        receipt = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        seen = outbox.rows(SHOP)
        if before == "published":
            held = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
            outbox.mark_published(held)

        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        assert outbox.publish_commit(receipt, seen=seen) == 0
        assert outbox.publish_commit(receipt, seen=outbox.rows(SHOP)) == 1

    def test_rows_of_another_batch_at_the_same_position_are_left(self, outbox):
        mine = outbox.enqueue(SHOP, batch_of("mine"), commit_position="tx:7")
        outbox.enqueue(SHOP, batch_of("theirs"), commit_position="tx:7")

        assert outbox.publish_commit(mine) == 1

        assert keys_of(outbox.rows(SHOP, state=OutboxState.PENDING)) == ["theirs"]

    def test_same_position_in_another_namespace_is_left(self, outbox):
        mine = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.enqueue("other", batch_of("a"), commit_position="tx:7")

        assert outbox.publish_commit(mine) == 1

        assert outbox.status("other").pending == 1

    def test_finished_rows_are_not_counted_again(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        done, dead = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_published([done])
        outbox.mark_failed([dead], "e", backoff=0, dead=True)

        assert outbox.publish_commit(receipt) == 1
        assert outbox.publish_commit(receipt) == 0

        assert outbox.row(dead.id).is_dead_lettered

    def test_rows_that_are_not_visible_are_not_counted(self, outbox):
        receipt = InvalidationReceipt(
            SHOP, CommitPosition("tx:7"), 0, 1, batch_of("rolled back")
        )

        assert outbox.publish_commit(receipt) == 0

    def test_receipt_of_an_empty_batch_has_nothing_to_publish(self, outbox):
        receipt = outbox.enqueue(SHOP, InvalidationIntentBatch())

        assert outbox.publish_commit(receipt) == 0

    def test_receipt_that_came_as_text_is_refused(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        travelled = InvalidationReceipt.from_string(receipt.to_string())

        with pytest.raises(ValueError, match="batch"):
            outbox.publish_commit(travelled)

        assert outbox.status(SHOP).pending == 1

    def test_more_rows_than_one_statement_takes_are_published(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of(*numbered(1200)))

        assert outbox.publish_commit(receipt) == 1200

        assert outbox.status(SHOP).pending == 0

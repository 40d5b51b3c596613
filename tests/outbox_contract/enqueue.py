"""Rows are written with the caller's change, and come back as they were."""

from __future__ import annotations

import copy
import pickle
import time

import pytest

from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import (
    OutboxState,
)
from hydracache_sync.outbox.row import ENQUEUED_AGAIN
from hydracache_sync.receipts import CommitPosition
from outbox_contract.common import (
    SHOP,
    OutboxHooks,
    batch_of,
    claim_of,
    keys_of,
    numbered,
)


class EnqueueContract(OutboxHooks):
    """Rows come into being once, whole and in order."""

    def test_enqueued_batch_becomes_pending_rows_in_its_order(self, outbox, clock):
        batch = batch_of("a", reason="user-write").invalidate_entity("user", "42")
        batch.invalidate_tag("users").invalidate_collection("users:active").flush()

        receipt = outbox.enqueue(SHOP, batch)

        rows = outbox.rows(SHOP)
        assert [row.intent for row in rows] == list(batch.intents)
        assert {row.state for row in rows} == {OutboxState.PENDING}
        assert {row.namespace for row in rows} == {SHOP}
        assert {row.reason for row in rows} == {"user-write"}
        assert {row.commit_position for row in rows} == {receipt.commit_position}
        assert {row.created_at_ms for row in rows} == {clock.now_ms}
        assert {row.available_at_ms for row in rows} == {clock.now_ms}
        assert {row.attempts for row in rows} == {0}
        assert {row.last_error for row in rows} == {None}
        assert {claim_of(row) for row in rows} == {None}
        assert [row.target_hash for row in rows] == [
            intent.target_hash_hex() for intent in batch.intents
        ]
        assert len({row.row_id for row in rows}) == 5

    def test_rows_are_stamped_with_the_present_by_default(self, storage):
        outbox = self.make_outbox(storage)
        outbox.install_schema()

        receipt = outbox.enqueue(SHOP, batch_of("a"))

        # A database on another host has a clock of its own.
        [row] = outbox.rows(SHOP)
        assert abs(row.created_at_ms - time.time() * 1000) < 60_000
        assert abs(receipt.created_at_ms - time.time() * 1000) < 60_000
        assert keys_of(outbox.claim(SHOP, "w", limit=1, claim_ttl=30)) == ["a"]
        outbox.close()

    def test_receipt_tells_what_was_enqueued(self, outbox, clock):
        batch = batch_of("a", "b", "a")

        receipt = outbox.enqueue(SHOP, batch, commit_position="tx:7")

        assert receipt.namespace == SHOP
        assert receipt.commit_position == CommitPosition("tx:7")
        assert receipt.created_at_ms == clock.now_ms
        assert receipt.targets == 2
        assert receipt.inserted == 2
        assert receipt.batch == batch

    def test_receipt_keeps_the_batch_as_it_was(self, outbox):
        batch = batch_of("a")
        receipt = outbox.enqueue(SHOP, batch)

        batch.invalidate_key("b")

        assert receipt.batch == batch_of("a")

    def test_position_may_be_given_as_text_or_as_a_position(self, outbox):
        first = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        second = outbox.enqueue(
            SHOP, batch_of("b"), commit_position=CommitPosition("tx:7")
        )

        assert first.commit_position == second.commit_position
        assert len(outbox.rows(SHOP, commit_position="tx:7")) == 2

    def test_a_batch_beyond_the_limit_is_refused_before_anything_is_written(
        self, storage, clock
    ):
        outbox = self.make_outbox(storage, clock=clock, max_batch=3)
        outbox.install_schema()

        outbox.enqueue(SHOP, batch_of("a", "b", "c", "a", "b"))
        with pytest.raises(ValueError, match="batch has 4 intents, limit 3"):
            outbox.enqueue(SHOP, batch_of("d", "e", "f", "g"))
        with pytest.raises(ValueError, match="max_batch"):
            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("d", "e", "f", "g"))

        assert keys_of(outbox.rows(SHOP)) == ["a", "b", "c"]
        outbox.close()

    @pytest.mark.parametrize("limit", [0, -1])
    def test_a_limit_that_no_batch_keeps_is_refused(self, storage, limit):
        with pytest.raises(ValueError, match="max_batch"):
            self.make_outbox(storage, max_batch=limit)

    @pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_a_copy_is_refused_with_what_to_do(self, outbox, take):
        with pytest.raises(TypeError, match=r"open_outbox\(url\)"):
            take(outbox)

    def test_duplicates_within_a_batch_are_one_row(self, outbox):
        outbox.enqueue(SHOP, batch_of("b", "a", "b", "b", "c", "a"))

        assert keys_of(outbox.rows(SHOP)) == ["b", "a", "c"]

    def test_same_position_and_target_is_enqueued_once(self, outbox):
        first = outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7")
        second = outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7")

        assert (first.inserted, second.inserted) == (2, 0)
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]

    def test_only_new_targets_of_a_known_position_are_added(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        receipt = outbox.enqueue(SHOP, batch_of("b", "a"), commit_position="tx:7")

        assert (receipt.targets, receipt.inserted) == (2, 1)
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]

    def test_a_row_that_waits_keeps_its_place_when_it_is_enqueued_again(
        self, outbox, clock
    ):
        outbox.enqueue(SHOP, batch_of("a", reason="first"), commit_position="tx:7")
        [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed([row], "e", backoff=60, dead=False)
        [before] = outbox.rows(SHOP)
        clock.advance(5)

        outbox.enqueue(SHOP, batch_of("a", reason="second"), commit_position="tx:7")

        [row] = outbox.rows(SHOP)
        assert (row.id, row.reason, row.attempts) == (before.id, "first", 1)
        assert row.available_at_ms == before.available_at_ms
        assert row.created_at_ms - before.created_at_ms <= 1
        assert row.last_error == ENQUEUED_AGAIN

    @pytest.mark.parametrize("end", ["published", "dead", "published inline"])
    def test_a_finished_row_is_carried_once_more_when_it_is_enqueued_again(
        self, outbox, clock, end
    ):
        first = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        if end == "published inline":
            outbox.publish_commit(first)
        else:
            [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
            if end == "dead":
                outbox.mark_failed([row], "e", backoff=0, dead=True)
            else:
                outbox.mark_published([row])
        clock.advance(5)

        again = outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7")

        status = outbox.status_for_commit(SHOP, "tx:7")
        assert (again.targets, again.inserted) == (2, 1)
        assert (status.pending, status.published, status.dead_lettered) == (2, 0, 0)
        assert outbox.status(SHOP).oldest_pending_age_ms == 0
        rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        assert sorted(keys_of(rows)) == ["a", "b"]
        assert {row.attempts for row in rows} == {0}
        assert {row.intent.value: row.last_error for row in rows} == {
            "a": ENQUEUED_AGAIN,
            "b": None,
        }

    def test_a_worker_that_holds_a_row_has_it_no_more_when_it_is_enqueued_again(
        self, outbox
    ):
        """It has applied the row, perhaps, before the second commit."""
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        held = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        assert outbox.mark_published(held) == 0
        [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        assert (row.attempts, row.was_abandoned) == (0, False)
        assert outbox.mark_published([row]) == 1

    def test_new_rows_between_known_ones_are_not_carried_again(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:1")
        outbox.enqueue(SHOP, batch_of("b", "a", "c"), commit_position="tx:1")

        errors = {row.intent.value: row.last_error for row in outbox.rows(SHOP)}

        assert errors["a"] is not None
        assert (errors["b"], errors["c"]) == (None, None)

    def test_many_rows_of_a_known_position_are_carried_again(self, outbox):
        keys = numbered(1200)
        first = outbox.enqueue(SHOP, batch_of(*keys), commit_position="tx:7")
        outbox.publish_commit(first)

        again = outbox.enqueue(
            SHOP, batch_of(*keys[600:], *"abc"), commit_position="tx:7"
        )

        assert (again.targets, again.inserted) == (603, 3)
        assert outbox.status(SHOP).pending == 603
        errors = [row.last_error for row in outbox.rows(SHOP, limit=2000)]
        assert errors == [None] * 600 + [ENQUEUED_AGAIN] * 600 + [None] * 3

    def test_a_position_in_another_namespace_is_another(self, outbox):
        outbox.publish_commit(
            outbox.enqueue("other", batch_of("a"), commit_position="tx:7")
        )

        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        assert outbox.status("other").pending == 0

    def test_a_flush_that_was_escalated_is_not_carried_again(self, outbox):
        outbox.escalate(SHOP)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))

        outbox.escalate(SHOP)

        states = [row.state for row in outbox.rows(SHOP)]
        assert states == [OutboxState.PUBLISHED, OutboxState.PENDING]

    def test_same_target_at_another_position_is_another_row(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        receipt = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:8")

        assert receipt.inserted == 1
        assert len(outbox.rows(SHOP)) == 2

    def test_enqueues_without_a_position_are_never_duplicates(self, outbox):
        receipts = [outbox.enqueue(SHOP, batch_of("a")) for _ in range(3)]

        assert [receipt.inserted for receipt in receipts] == [1, 1, 1]
        assert len({receipt.commit_position for receipt in receipts}) == 3

    def test_kinds_with_the_same_text_are_different_targets(self, outbox):
        batch = batch_of("x").invalidate_tag("x").invalidate_collection("x")
        batch.invalidate_entity("x", "").invalidate_entity("", "x").invalidate_key("")

        outbox.enqueue(SHOP, batch, commit_position="tx:7")

        assert [row.intent for row in outbox.rows(SHOP)] == list(batch.intents)

    def test_empty_batch_writes_nothing(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        receipt = outbox.enqueue(SHOP, InvalidationIntentBatch("nothing"))

        assert (receipt.targets, receipt.inserted) == (0, 0)
        assert statements == []
        outbox.close()

    def test_batch_is_one_insert_whatever_its_size(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        outbox.enqueue(SHOP, batch_of(*numbered(100)))

        assert len(statements) == 1
        assert statements[0].strip().lower().startswith("insert")
        outbox.close()

    def test_very_large_batch_is_enqueued_whole(self, outbox):
        keys = numbered(7501)

        receipt = outbox.enqueue(SHOP, batch_of(*keys), commit_position="tx:7")

        assert receipt.inserted == 7501
        assert keys_of(outbox.rows(SHOP, limit=10_000)) == keys

    def test_row_is_found_by_its_id(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        first, second = outbox.rows(SHOP)

        assert outbox.row(second.id) == second
        assert outbox.row(second.id + 1) is None
        assert outbox.row(0) is None
        assert first.id < second.id

    def test_rows_are_listed_page_by_page(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b", "c", "d", "e"))

        first = outbox.rows(SHOP, limit=2)
        second = outbox.rows(SHOP, limit=2, after=first[-1].id)
        third = outbox.rows(SHOP, limit=2, after=second[-1].id)

        assert keys_of(first + second + third) == ["a", "b", "c", "d", "e"]
        assert outbox.rows(SHOP, after=third[-1].id) == []
        assert outbox.rows(SHOP, limit=0) == []

    def test_the_newest_rows_are_listed_from_the_end(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b", "c"), commit_position="tx:1")
        first, second, third = outbox.rows(SHOP)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))
        pending = OutboxState.PENDING

        assert keys_of(outbox.rows(SHOP, newest=True)) == ["c", "b", "a"]
        assert keys_of(outbox.rows(SHOP, newest=True, limit=2)) == ["c", "b"]
        assert keys_of(outbox.rows(SHOP, newest=True, after=second.id)) == ["c"]
        assert keys_of(outbox.rows(SHOP, newest=True, state=pending)) == ["c", "b"]
        of_commit = outbox.rows(SHOP, newest=True, commit_position="tx:1", limit=1)
        assert keys_of(of_commit) == ["c"]

    def test_rows_are_listed_by_state_and_by_position(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:1")
        outbox.enqueue(SHOP, batch_of("c", "d"), commit_position="tx:2")
        rows = outbox.claim(SHOP, "w", limit=4, claim_ttl=30)
        outbox.mark_published([rows[0], rows[2]])

        done = OutboxState.PUBLISHED
        pending = OutboxState.PENDING
        assert keys_of(outbox.rows(SHOP, state=done)) == ["a", "c"]
        assert keys_of(outbox.rows(SHOP, state=pending)) == ["b", "d"]
        assert keys_of(outbox.rows(SHOP, commit_position="tx:2")) == ["c", "d"]
        assert keys_of(outbox.rows(SHOP, state=done, commit_position="tx:2")) == ["c"]
        assert outbox.rows(SHOP, commit_position="tx:3") == []

    def test_pages_of_a_state_and_of_a_position_follow_each_other(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b", "c"), commit_position="tx:1")
        first, second, third = outbox.rows(SHOP)

        for filters in ({"state": OutboxState.PENDING}, {"commit_position": "tx:1"}):
            assert outbox.rows(SHOP, limit=2, **filters) == [first, second]
            assert outbox.rows(SHOP, after=second.id, **filters) == [third]

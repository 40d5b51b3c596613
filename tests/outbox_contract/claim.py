"""A claim is one worker's, and ends."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from hydracache_sync.errors import OutboxError
from hydracache_sync.events import Published
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import (
    OutboxState,
)
from hydracache_sync.outbox.row import ABANDONED
from outbox_contract.common import (
    SHOP,
    OutboxHooks,
    batch_of,
    claim_of,
    claims,
    keys_of,
    numbered,
)
from support.processes import in_threads


class ClaimContract(OutboxHooks):
    """A due row is held by one claim at a time, for as long as that claim said."""

    def test_claimed_rows_carry_their_claim(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a", "b"))

        rows = outbox.claim(SHOP, "worker-1", limit=10, claim_ttl=30)

        assert keys_of(rows) == ["a", "b"]
        assert {row.claim_owner for row in rows} == {"worker-1"}
        assert {row.claimed_at_ms for row in rows} == {clock.now_ms}
        assert {row.claim_until_ms for row in rows} == {clock.now_ms + 30_000}
        assert len({row.claim_token for row in rows}) == 1
        assert {row.state for row in rows} == {OutboxState.PENDING}

    def test_what_a_claim_did_not_read_is_read_when_it_is_asked_for(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b", reason="why"), commit_position="tx:7")
        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        outbox.mark_published(rows)

        assert [row.reason for row in rows] == ["why", "why"]
        assert {row.commit_position.value for row in rows} == {"tx:7"}
        for row, stored in zip(rows, outbox.rows(SHOP)):
            assert (row.row_id, row.target_hash) == (stored.row_id, stored.target_hash)
            assert row.created_at_ms == stored.created_at_ms

    def test_rows_can_be_copied_and_sent_to_another_process(self, outbox):
        """As a subscriber does that takes an event apart with ``asdict``."""
        outbox.enqueue(SHOP, batch_of("a", "b", reason="why"), commit_position="tx:7")
        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        event = Published(SHOP, tuple(rows), 0, 0.1)

        taken_apart = dataclasses.asdict(event)["rows"]
        copied = copy.copy(rows[0]), copy.deepcopy(rows[1])
        sent = pickle.loads(pickle.dumps(event)).rows

        assert tuple(taken_apart) == copied == sent == tuple(rows)
        assert tuple(sent) == tuple(outbox.rows(SHOP))
        outbox.mark_published(rows)
        assert {row.reason for row in sent} == {"why"}
        assert [row.row_id for row in sent] == [row.row_id for row in rows]
        assert keys_of(sent) == ["a", "b"]

    def test_of_a_row_that_was_deleted_since_it_is_known_what_its_claim_read(
        self, outbox, clock
    ):
        outbox.enqueue(SHOP, batch_of("a"))
        [row] = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        outbox.mark_published([row])
        clock.advance(1)
        outbox.purge_published(SHOP, older_than=0)

        assert (keys_of([row]), row.namespace, row.attempts) == (["a"], SHOP, 0)
        assert (row.last_error, row.waits_for, row.was_abandoned) == (None, None, False)
        assert row.claim_owner == "w" and row.state is OutboxState.PENDING
        assert f"{row.id} pending" in repr(row)
        with pytest.raises(OutboxError, match=f"row {row.id} is not in the outbox any"):
            _ = row.reason

    def test_what_had_happened_to_a_row_is_as_it_was_when_it_was_claimed(
        self, outbox, clock
    ):
        outbox.enqueue(SHOP, batch_of("a", "b", "c", "d"))
        a, b, c, d = outbox.claim(SHOP, "w", limit=10, claim_ttl=1)
        outbox.mark_failed([a], "refused", backoff=0, dead=False)
        outbox.release([b], error="away", waits_for="one")
        clock.advance(2)
        outbox.enqueue(SHOP, batch_of("e"))

        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        stored = outbox.rows(SHOP)
        outbox.mark_published(rows)

        assert len(rows) == 5
        found = {row.intent.value: row for row in rows}
        assert (found["a"].attempts, found["a"].last_error) == (1, "refused")
        assert found["b"].waits_for == "one"
        assert found["c"].was_abandoned and found["d"].was_abandoned
        assert found["e"].last_error is None
        for row in stored[:4]:
            assert found[row.intent.value] == row

    def test_claimed_rows_are_the_stored_rows(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", reason="r").invalidate_entity("user", "1"))

        rows = outbox.claim(SHOP, "worker-1", limit=10, claim_ttl=30)

        assert rows == outbox.rows(SHOP)
        assert [claim_of(row) for row in rows] == [
            claim_of(row) for row in outbox.rows(SHOP)
        ]

    def test_claim_of_no_rows_does_not_touch_storage(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        assert outbox.claim(SHOP, "w", limit=0, claim_ttl=30) == []

        assert statements == []
        outbox.close()

    def test_claim_takes_the_longest_due_up_to_its_limit(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b", "c"))

        first = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        second = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)

        assert keys_of(first) == ["a", "b"]
        assert keys_of(second) == ["c"]
        assert outbox.claim(SHOP, "w", limit=2, claim_ttl=30) == []

    def test_large_claim_takes_everything_in_order(self, outbox):
        keys = numbered(1200)
        outbox.enqueue(SHOP, batch_of(*keys))

        rows = outbox.claim(SHOP, "w", limit=2**62, claim_ttl=30)

        assert keys_of(rows) == keys
        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []

    def test_rows_are_claimed_in_the_order_they_became_due(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("failed"))
        [failed] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed([failed], "e", backoff=10, dead=False)
        clock.advance(5)
        outbox.enqueue(SHOP, batch_of("later"))
        clock.advance(10)

        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)

        assert keys_of(rows) == ["later", "failed"]

    def test_rows_due_at_once_are_claimed_in_the_order_of_their_creation(
        self, outbox, clock
    ):
        """Order of creation and order of ids differ: the clock has been set back."""
        outbox.enqueue(SHOP, batch_of("created last"))
        clock.advance(-5)
        outbox.enqueue(SHOP, batch_of("created first"))
        clock.advance(5)
        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        outbox.release(rows, delay=1)
        clock.advance(1)

        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)

        assert keys_of(rows) == ["created first", "created last"]
        assert rows[0].id > rows[1].id

    def test_rows_due_and_created_at_once_are_claimed_by_id(self, outbox):
        for key in ("c", "a", "b"):
            outbox.enqueue(SHOP, batch_of(key))

        assert keys_of(outbox.claim(SHOP, "w", limit=2, claim_ttl=30)) == ["c", "a"]

    def test_claimed_row_is_not_claimed_again(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        clock.advance(29.999)

        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []

    def test_expired_claim_can_be_claimed_again(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        [first] = outbox.claim(SHOP, "w1", limit=1, claim_ttl=30)
        clock.advance(30)

        [second] = outbox.claim(SHOP, "w2", limit=1, claim_ttl=30)

        assert second.id == first.id
        assert second.claim_owner == "w2"
        assert second.claim_token != first.claim_token

    def test_shorter_ttl_of_another_cannot_steal_a_claim(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.claim(SHOP, "w1", limit=1, claim_ttl=30)
        clock.advance(29.999)

        assert outbox.claim(SHOP, "w2", limit=1, claim_ttl=0.001) == []

    def test_longer_ttl_of_another_does_not_have_to_wait(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.claim(SHOP, "w1", limit=1, claim_ttl=1)
        clock.advance(1)

        assert keys_of(outbox.claim(SHOP, "w2", limit=1, claim_ttl=3600)) == ["a"]

    @pytest.mark.parametrize("alone, attempts", [(True, 2), (False, 0)])
    def test_an_expired_claim_counts_an_attempt_if_the_row_was_tried_alone(
        self, outbox, clock, alone, attempts
    ):
        outbox.enqueue(SHOP, batch_of("a"))
        for _ in range(2):
            rows = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
            assert not alone or outbox.mark_tried_alone(rows) == 1
            clock.advance(31)

        [again] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)

        assert again.attempts == attempts
        assert again.last_error == ABANDONED
        assert again.was_abandoned
        assert outbox.row(again.id) == again

    def test_that_a_row_was_tried_alone_is_forgotten_with_its_claim(
        self, outbox, clock
    ):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        ends = (
            lambda rows: outbox.release(rows),
            lambda rows: outbox.release(rows, error="away"),
            lambda rows: outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7"),
            lambda rows: clock.advance(31),
        )
        attempts = []

        for end in ends:
            rows = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
            outbox.mark_tried_alone(rows)
            end(rows)
            outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
            clock.advance(31)
            [row] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
            attempts.append(row.attempts)
            outbox.release([row])

        assert attempts == [0, 0, 0, 1]

    def test_an_abandoned_row_that_was_not_tried_is_so_still(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        clock.advance(31)
        rows = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)

        outbox.release(rows)
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        [row] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        assert row.was_abandoned and outbox.row(row.id) == row

    def test_what_was_written_at_a_row_does_not_decide(self, outbox, clock):
        """However an error is worded: it is for people."""
        outbox.enqueue(SHOP, batch_of("a"))
        rows = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        outbox.release(rows, delay=60, error=ABANDONED, waits_for="one")

        outbox.make_due(SHOP, waits_for="two", limit=10)
        outbox.make_due(SHOP, waits_for=ABANDONED, limit=10)

        assert outbox.due_namespaces([SHOP]) == []
        [row] = outbox.rows(SHOP)
        assert (row.was_abandoned, row.waits_for) == (False, "one")

    def test_to_note_that_rows_are_tried_alone_is_for_their_holder(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        late = outbox.claim(SHOP, "worker", limit=1, claim_ttl=1)
        clock.advance(1)
        held = outbox.claim(SHOP, "worker", limit=1, claim_ttl=30)

        assert outbox.mark_tried_alone(held) == 1
        assert outbox.mark_tried_alone(late) == 0
        assert outbox.mark_tried_alone([]) == 0

        [row] = outbox.rows(SHOP)
        assert claim_of(row) == claim_of(held[0])
        assert outbox.mark_published(held) == 1

    def test_a_claim_that_was_given_back_counts_none(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        [row] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        outbox.release([row])
        clock.advance(31)

        [again] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)

        assert again.attempts == 0
        assert again.last_error is None
        assert not again.was_abandoned

    def test_an_error_after_it_takes_its_place(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        clock.advance(31)
        rows = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        outbox.mark_failed(rows, "refused", backoff=0, dead=False)

        [again] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)

        assert (again.attempts, again.last_error) == (1, "refused")
        assert not again.was_abandoned

    def test_expired_claims_are_taken_over_in_their_old_order(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        outbox.claim(SHOP, "w1", limit=1, claim_ttl=1)
        clock.advance(1)

        assert keys_of(outbox.claim(SHOP, "w2", limit=2, claim_ttl=30)) == ["a", "b"]

    def test_claims_keep_to_their_namespace(self, outbox):
        outbox.enqueue(SHOP, batch_of("mine"))
        outbox.enqueue("other", batch_of("theirs"))

        assert keys_of(outbox.claim(SHOP, "w", limit=10, claim_ttl=30)) == ["mine"]
        assert outbox.claim("third", "w", limit=10, claim_ttl=30) == []
        assert outbox.rows("other")[0].claim_owner is None

    def test_published_and_dead_rows_are_never_claimed(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        first, second = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_published([first])
        outbox.mark_failed([second], "e", backoff=0, dead=True)
        clock.advance(10**6)

        assert outbox.claim(SHOP, "w", limit=10, claim_ttl=30) == []

    def test_claimed_row_has_all_that_is_stored(self, outbox):
        batch = InvalidationIntentBatch("why, \0 \xe9\n").invalidate_entity(
            "a,b", "1\n"
        )
        outbox.enqueue(SHOP, batch, commit_position="tx,\xe9\n")
        [untried] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        stored_untried = outbox.row(untried.id)
        outbox.mark_failed([untried], "it, \xe9\n", backoff=0, dead=False)

        [tried] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert untried == stored_untried and untried.last_error is None
        assert tried == outbox.row(tried.id)
        assert (tried.attempts, tried.last_error) == (1, "it, \xe9\n")
        assert (tried.reason, tried.commit_position.value) == (
            "why, \0 \xe9\n",
            "tx,\xe9\n",
        )
        assert tried.target_hash == batch.intents[0].target_hash_hex()

    def test_each_claim_is_told_apart_by_its_token(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(20)))

        claims = [
            outbox.claim(SHOP, "same name", limit=1, claim_ttl=30) for _ in range(20)
        ]

        assert len({row.claim_token for [row] in claims}) == 20

    def test_threads_that_claim_at_once_never_share_a_row(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(400)))

        def claim_all(index: int) -> list[int]:
            taken: list[int] = []
            for rows in claims(outbox, limit=7):
                taken += [row.id for row in rows]
            return taken

        taken = in_threads(8, claim_all)

        ids = [id for each in taken for id in each]
        assert sorted(ids) == [row.id for row in outbox.rows(SHOP, limit=1000)]

    def test_threads_that_take_over_at_once_never_share_a_row(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of(*numbered(40)))
        outbox.claim(SHOP, "killed", limit=40, claim_ttl=1)
        clock.advance(1)

        taken = in_threads(
            8, lambda _: outbox.claim(SHOP, "same name", limit=10, claim_ttl=30)
        )

        ids = [row.id for rows in taken for row in rows]
        assert sorted(ids) == [row.id for row in outbox.rows(SHOP)]

    def test_threads_finish_every_row_once(self, outbox):
        """Each row fails once, is given back once, and is published then."""
        outbox.enqueue(SHOP, batch_of(*numbered(200)))

        def work(index: int) -> int:
            published = 0
            for rows in claims(outbox, limit=9):
                fresh = [row for row in rows if row.attempts == 0]
                outbox.mark_failed(fresh, "once more", backoff=0, dead=False)
                failed = [row for row in rows if row.attempts]
                outbox.release(failed[5:])
                published += outbox.mark_published(failed[:5])
            return published

        published = sum(in_threads(8, work))
        # A thread may have given rows back when the others had found nothing more.
        published += work(0)

        assert published == 200
        rows = outbox.rows(SHOP, limit=1000)
        assert {(row.state, row.attempts) for row in rows} == {
            (OutboxState.PUBLISHED, 1)
        }

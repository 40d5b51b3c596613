"""Rows that are given up, and brought back."""

from __future__ import annotations

from hydracache_sync.outbox import (
    InvalidationOutbox,
    OutboxState,
)
from outbox_contract.common import (
    SHOP,
    OutboxHooks,
    batch_of,
    claim_of,
    keys_of,
    numbered,
)


class DeadLetterContract(OutboxHooks):
    """Dead letters wait for an operator, who lists, retries or discards them."""

    def bury(self, outbox: InvalidationOutbox, *keys: str, namespace: str = SHOP):
        outbox.enqueue(namespace, batch_of(*keys))
        rows = outbox.claim(namespace, "w", limit=1000, claim_ttl=30)
        outbox.mark_failed(rows, "refused", backoff=0, dead=True)
        return rows

    def test_dead_letters_are_listed_page_by_page(self, outbox):
        self.bury(outbox, "a", "b", "c")
        outbox.enqueue(SHOP, batch_of("alive"))

        first = outbox.dead_letters(SHOP, limit=2)
        second = outbox.dead_letters(SHOP, limit=2, after=first[-1].id)

        assert keys_of(first) == ["a", "b"]
        assert keys_of(second) == ["c"]
        assert outbox.dead_letters(SHOP, after=second[-1].id) == []

    def test_dead_letters_are_listed_by_id_also_if_they_died_out_of_order(
        self, outbox, clock
    ):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        first, second = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_failed([second], "e", backoff=0, dead=True)
        clock.advance(1)
        outbox.mark_failed([first], "e", backoff=0, dead=True)

        assert keys_of(outbox.dead_letters(SHOP, limit=1)) == ["a"]
        assert keys_of(outbox.dead_letters(SHOP, after=first.id)) == ["b"]

    def test_all_dead_letters_are_retried(self, outbox, clock):
        self.bury(outbox, "a", "b")
        clock.advance(7)

        assert outbox.reset_dead_letters(SHOP) == 2

        rows = outbox.rows(SHOP)
        assert {row.state for row in rows} == {OutboxState.PENDING}
        assert {row.attempts for row in rows} == {0}
        assert {row.last_error for row in rows} == {None}
        assert {row.available_at_ms for row in rows} == {clock.now_ms}
        assert {claim_of(row) for row in rows} == {None}
        assert keys_of(outbox.claim(SHOP, "w", limit=2, claim_ttl=30)) == ["a", "b"]

    def test_some_dead_letters_are_retried(self, outbox):
        first, second, third = self.bury(outbox, "a", "b", "c")

        assert outbox.reset_dead_letters(SHOP, [third.id, first.id, third.id]) == 2

        assert keys_of(outbox.dead_letters(SHOP)) == ["b"]

    def test_no_dead_letters_are_retried_if_none_is_named(self, outbox):
        self.bury(outbox, "a")

        assert outbox.reset_dead_letters(SHOP, []) == 0

        assert keys_of(outbox.dead_letters(SHOP)) == ["a"]

    def test_ids_may_come_out_of_a_generator(self, outbox):
        rows = self.bury(outbox, "a", "b", "c")

        assert outbox.reset_dead_letters(SHOP, (row.id for row in rows[:2])) == 2
        assert outbox.discard_dead_letters(SHOP, (row.id for row in rows)) == 1

    def test_dead_letters_are_discarded_for_good(self, outbox):
        first, second = self.bury(outbox, "a", "b")

        assert outbox.discard_dead_letters(SHOP, [first.id]) == 1

        assert outbox.row(first.id) is None
        assert keys_of(outbox.rows(SHOP)) == ["b"]
        assert outbox.discard_dead_letters(SHOP, [first.id]) == 0

    def test_rows_that_are_not_dead_are_neither_retried_nor_discarded(self, outbox):
        outbox.enqueue(SHOP, batch_of("held", "done", "waiting"))
        held, done = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_published([done])
        before = outbox.rows(SHOP)
        ids = [row.id for row in before]

        assert outbox.reset_dead_letters(SHOP) == 0
        assert outbox.reset_dead_letters(SHOP, ids) == 0
        assert outbox.discard_dead_letters(SHOP, ids) == 0

        assert outbox.rows(SHOP) == before

    def test_dead_letters_of_another_namespace_are_left_alone(self, outbox):
        [other] = self.bury(outbox, "theirs", namespace="other")

        assert outbox.dead_letters(SHOP) == []
        assert outbox.reset_dead_letters(SHOP) == 0
        assert outbox.reset_dead_letters(SHOP, [other.id]) == 0
        assert outbox.discard_dead_letters(SHOP, [other.id]) == 0

        assert keys_of(outbox.dead_letters("other")) == ["theirs"]

    def test_more_dead_letters_than_one_statement_takes(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(1200)))
        rows = outbox.claim(SHOP, "w", limit=2000, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)

        assert outbox.reset_dead_letters(SHOP) == 1200

        rows = outbox.claim(SHOP, "w", limit=2000, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)
        ids = [row.id for row in rows]
        assert outbox.discard_dead_letters(SHOP, ids) == 1200
        assert outbox.rows(SHOP) == []

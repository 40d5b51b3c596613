"""Who is told of a commit."""

from __future__ import annotations

import pytest

from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import (
    InvalidationOutbox,
)
from outbox_contract.common import SHOP, OutboxHooks, batch_of, keys_of


class SubscriberContract(OutboxHooks):
    """Subscribers hear of committed rows, after the commit."""

    @pytest.fixture
    def heard(self, outbox: InvalidationOutbox) -> list[frozenset[str]]:
        heard: list[frozenset[str]] = []
        outbox.subscribe(heard.append)
        return heard

    def test_subscriber_hears_of_an_enqueue(self, outbox, heard):
        outbox.enqueue(SHOP, batch_of("a"))

        assert heard == [frozenset({SHOP})]

    def test_subscriber_can_see_what_it_hears_of(self, outbox):
        seen: list[int] = []
        outbox.subscribe(lambda namespaces: seen.append(outbox.status(SHOP).pending))

        outbox.enqueue(SHOP, batch_of("a"))
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

        assert seen == [1, 2]

    def test_subscriber_hears_once_of_a_transaction(self, outbox, heard):
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            outbox.enqueue_in(connection, "other", batch_of("b"))
            outbox.enqueue_in(connection, SHOP, batch_of("c"))
            assert heard == []

        assert heard == [frozenset({SHOP, "other"})]

    def test_subscriber_does_not_hear_of_a_rollback(self, outbox, heard):
        with pytest.raises(ZeroDivisionError):
            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                1 / 0
        with outbox.transaction():
            pass

        assert heard == []

    def test_subscriber_hears_of_dead_letters_that_are_retried(self, outbox, heard):
        outbox.enqueue(SHOP, batch_of("a"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)
        heard.clear()

        outbox.reset_dead_letters(SHOP)
        outbox.reset_dead_letters(SHOP)

        assert heard == [frozenset({SHOP})]

    def test_subscriber_hears_of_an_escalation(self, outbox, heard):
        outbox.escalate(SHOP)
        outbox.escalate(SHOP)

        assert heard == [frozenset({SHOP})]

    def test_subscriber_hears_of_rows_that_are_carried_again(self, outbox, heard):
        receipt = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.publish_commit(receipt)
        heard.clear()

        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        assert heard == [frozenset({SHOP})]

    def test_subscriber_does_not_hear_of_what_added_nothing(self, outbox, heard):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        heard.clear()

        outbox.enqueue(SHOP, InvalidationIntentBatch())
        with pytest.raises(ValueError):
            outbox.enqueue("", batch_of("a"))

        assert heard == []

    def test_enqueue_in_is_told_apart_from_a_commit(self, outbox, heard):
        expected: list[frozenset[str]] = []
        outbox.subscribe_enqueued(expected.append)

        outbox.enqueue(SHOP, batch_of("a"))
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

        assert heard == [frozenset({SHOP})] * 2
        assert expected == []

    def test_commit_of_a_caller_can_be_announced(self, outbox, heard):
        outbox.announce_commit(iter([SHOP, "blog", SHOP]))

        assert heard == [frozenset({SHOP, "blog"})]

    def test_commit_of_one_namespace_can_be_announced(self, outbox, heard):
        outbox.announce_commit(SHOP)

        assert heard == [frozenset({SHOP})]

    def test_subscriber_that_raises_hurts_nobody(self, outbox, caplog):
        heard: list[frozenset[str]] = []

        def broken(namespaces: frozenset[str]) -> None:
            raise RuntimeError("subscriber is broken")

        outbox.subscribe(broken)
        outbox.subscribe(heard.append)

        receipt = outbox.enqueue(SHOP, batch_of("a"))
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

        assert receipt.inserted == 1
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]
        assert heard == [frozenset({SHOP})] * 2
        assert [record.levelname for record in caplog.records] == ["ERROR"] * 2
        assert "subscriber is broken" in caplog.text

    def test_unsubscribed_callback_is_not_called(self, outbox):
        heard: list[frozenset[str]] = []
        unsubscribe = outbox.subscribe(heard.append)

        unsubscribe()
        unsubscribe()
        outbox.enqueue(SHOP, batch_of("a"))

        assert heard == []

    def test_each_subscription_ends_by_itself(self, outbox):
        heard: list[frozenset[str]] = []
        hear = heard.append
        outbox.subscribe(hear)
        unsubscribe = outbox.subscribe(hear)

        unsubscribe()
        outbox.enqueue(SHOP, batch_of("a"))

        assert heard == [frozenset({SHOP})]

"""A namespace that waits until it is resumed."""

from __future__ import annotations

import pytest

from hydracache_sync.outbox import (
    OutboxState,
    Pause,
)
from outbox_contract.common import (
    ODD_TEXTS,
    SHOP,
    OutboxHooks,
    batch_of,
    keys_of,
    numbered,
)
from support.processes import in_threads


class PauseContract(OutboxHooks):
    """A paused namespace is claimed by nobody, and nothing else of it changes."""

    def test_paused_namespace_is_not_claimed_until_it_is_resumed(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        outbox.pause(SHOP)
        paused = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        outbox.resume(SHOP)
        resumed = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)

        assert paused == []
        assert keys_of(resumed) == ["a"]

    def test_pause_stops_a_drain_between_two_full_claims(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"))

        before = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.pause(SHOP)
        after = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert keys_of(before) == ["a"]
        assert after == []

    def test_pause_says_since_when_and_why(self, outbox, clock):
        began = clock.now_ms
        outbox.pause(SHOP, "memcached moves")
        outbox.pause("caf\xe9")
        clock.advance(60)

        assert outbox.paused() == {
            SHOP: Pause(began, "memcached moves"),
            "caf\xe9": Pause(began, ""),
        }

    def test_second_pause_replaces_the_reason_and_keeps_the_beginning(
        self, outbox, clock
    ):
        began = clock.now_ms
        outbox.pause(SHOP, "first")
        clock.advance(60)

        outbox.pause(SHOP, "second")

        assert outbox.paused() == {SHOP: Pause(began, "second")}

    def test_resume_says_whether_the_namespace_was_paused(self, outbox):
        outbox.pause(SHOP)

        assert [outbox.resume(SHOP), outbox.resume(SHOP)] == [True, False]
        assert outbox.paused() == {}

    def test_pause_keeps_to_its_namespace(self, outbox):
        names = [SHOP, SHOP.upper(), f"{SHOP} "]
        for name in names:
            outbox.enqueue(name, batch_of("a"))

        outbox.pause(SHOP)

        claimed = [outbox.claim(name, "w", limit=1, claim_ttl=30) for name in names]
        assert [len(rows) for rows in claimed] == [0, 1, 1]

    def test_what_was_claimed_before_a_pause_is_finished(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)

        outbox.pause(SHOP)

        assert outbox.mark_published(rows[:1]) == 1
        assert outbox.mark_failed(rows[1:], "e", backoff=0, dead=False) == 1
        assert outbox.claim(SHOP, "w", limit=9, claim_ttl=30) == []

    def test_claim_that_ends_in_a_pause_is_taken_over_after_it(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        outbox.pause(SHOP)
        clock.advance(31)

        assert outbox.claim(SHOP, "v", limit=9, claim_ttl=30) == []
        outbox.resume(SHOP)
        assert keys_of(outbox.claim(SHOP, "v", limit=9, claim_ttl=30)) == ["a"]

    def test_writers_go_on_in_a_pause(self, outbox):
        outbox.pause(SHOP)

        receipt = outbox.enqueue(SHOP, batch_of("a"))
        assert outbox.status(SHOP).pending == 1
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

        assert outbox.publish_commit(receipt) == 1
        assert [row.state for row in outbox.rows(SHOP)] == [
            OutboxState.PUBLISHED,
            OutboxState.PENDING,
        ]

    def test_operators_go_on_in_a_pause(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        a, b, c = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        outbox.mark_failed([a, b], "e", backoff=0, dead=True)
        outbox.mark_published([c])
        outbox.pause(SHOP)
        clock.advance(10)

        assert outbox.reset_dead_letters(SHOP, [a.id]) == 1
        assert outbox.discard_dead_letters(SHOP, [b.id]) == 1
        assert outbox.purge_published(SHOP, older_than=5) == 1
        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_status_says_that_a_namespace_is_paused(self, outbox, clock):
        before = outbox.status(SHOP)
        outbox.pause(SHOP)

        assert before.paused_since_ms is None
        assert outbox.status(SHOP).paused_since_ms == clock.now_ms
        assert outbox.status("other").paused_since_ms is None
        outbox.resume(SHOP)
        assert outbox.status(SHOP) == before

    @pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
    def test_odd_text_is_kept_as_a_reason(self, outbox, text):
        outbox.pause(SHOP, text)

        assert outbox.paused()[SHOP].reason == text

    def test_what_does_not_fit_is_refused_before_anything_is_written(self, outbox):
        with pytest.raises(ValueError, match="namespace.*65.*1 to 64"):
            outbox.pause("n" * 65)
        with pytest.raises(ValueError, match="namespace"):
            outbox.resume("")
        with pytest.raises(ValueError, match="reason.*256.*0 to 255"):
            outbox.pause(SHOP, "r" * 256)

        outbox.pause("n" * 64, "r" * 255)
        assert list(outbox.paused()) == ["n" * 64]

    def test_subscriber_hears_of_a_resume(self, outbox):
        heard = []
        outbox.subscribe(heard.append)
        outbox.pause(SHOP)

        outbox.resume(SHOP)
        outbox.resume(SHOP)

        assert heard == [frozenset([SHOP])]

    def test_claim_in_a_pause_is_one_select(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.pause(SHOP)
        statements.clear()

        assert outbox.claim(SHOP, "w", limit=9, claim_ttl=30) == []

        assert [text.split()[0] for text in statements] == ["select"]
        outbox.close()

    def test_threads_that_pause_and_resume_at_once_lose_no_row(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(200)))

        def work(number: int) -> int:
            published = 0
            for turn in range(20):
                if number == 0:
                    (outbox.pause if turn % 2 == 0 else outbox.resume)(SHOP)
                else:
                    rows = outbox.claim(SHOP, f"w{number}", limit=9, claim_ttl=30)
                    published += outbox.mark_published(rows)
            return published

        published = sum(in_threads(4, work))
        published += outbox.mark_published(
            outbox.claim(SHOP, "w", limit=200, claim_ttl=30)
        )

        assert published == 200
        assert outbox.status(SHOP).pending == 0

"""The watermark: until when everything that was committed is published."""

from __future__ import annotations

import pytest

from hydracache_sync.outbox.watermark import watermark
from outbox_contract.common import SHOP, OutboxHooks, batch_of


class WatermarkContract(OutboxHooks):
    """Each kind of row that waits holds it back, and nothing else does."""

    def test_where_nothing_waits_it_is_the_present_moment(self, outbox, clock):
        empty = outbox.watermark(SHOP)
        outbox.enqueue("blog", batch_of("a"))
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(1)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=9, claim_ttl=30))

        assert empty == (clock.now_ms - 1000, clock.now_ms - 1000, 0)
        assert outbox.watermark(SHOP) == (clock.now_ms, clock.now_ms, 0)

    def test_row_that_waits_holds_it_at_its_creation(self, outbox, clock):
        created = clock.now_ms
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(5)
        outbox.enqueue(SHOP, batch_of("b"))
        found = [outbox.watermark(SHOP).moment_ms]
        [first] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        found.append(outbox.watermark(SHOP).moment_ms)
        outbox.mark_failed([first], "no", backoff=60, dead=False)
        clock.advance(1)
        found.append(outbox.watermark(SHOP).moment_ms)

        assert found == [created] * 3

    def test_row_that_is_dated_ahead_says_nothing(self, outbox, clock):
        clock.advance(0.001)
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(-0.001)

        assert outbox.watermark(SHOP).moment_ms is None

    def test_more_rows_than_are_read_say_nothing(self, outbox, clock):
        created = clock.now_ms
        outbox.enqueue(SHOP, batch_of("a", "b"))
        few = watermark(outbox._database, SHOP, cap=3)
        outbox.enqueue(SHOP, batch_of("c"))

        assert few.moment_ms == created
        assert watermark(outbox._database, SHOP, cap=3).moment_ms is None

    def test_dead_letter_holds_it_until_a_later_flush_is_published(self, outbox, clock):
        created = clock.now_ms
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(1)
        dead = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        clock.advance(1)
        outbox.mark_failed(dead, "no", backoff=0, dead=True)
        alone = outbox.watermark(SHOP)
        outbox.escalate(SHOP)
        waiting = outbox.watermark(SHOP)
        flush = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        outbox.mark_published(flush)

        assert (alone.moment_ms, alone.dead_letters) == (created, 1)
        assert waiting.moment_ms is None
        assert outbox.watermark(SHOP) == (clock.now_ms, clock.now_ms, 0)
        assert outbox.row(dead[0].id).claimed_at_ms is None

    @pytest.mark.parametrize("later", [0, 1])
    def test_flush_that_was_claimed_before_makes_up_for_nothing(
        self, outbox, clock, later
    ):
        outbox.escalate(SHOP)
        flush = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        created = clock.now_ms
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(later)
        dead = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        outbox.mark_failed(dead, "no", backoff=0, dead=True)
        clock.advance(1)
        outbox.mark_published(flush)

        assert outbox.watermark(SHOP).moment_ms == created

    def test_discarded_dead_letter_holds_it_by_its_flush(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        dead = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        outbox.escalate(SHOP)
        outbox.mark_failed(dead, "no", backoff=0, dead=True)
        outbox.discard_dead_letters(SHOP, [dead[0].id])
        clock.advance(1)

        assert outbox.watermark(SHOP).moment_ms is None

    def test_dead_letter_that_is_retried_holds_it_as_before(self, outbox, clock):
        created = clock.now_ms
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(1)
        dead = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        outbox.mark_failed(dead, "no", backoff=0, dead=True)
        outbox.reset_dead_letters(SHOP)

        assert outbox.watermark(SHOP) == (created, clock.now_ms, 0)

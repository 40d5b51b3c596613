"""Looks of a bounded cost, for a page."""

from __future__ import annotations

from typing import Any

import pytest

from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.outbox import (
    FoundRows,
    InvalidationOutbox,
    OutboxState,
    PendingPhase,
)
from outbox_contract.common import ODD_TEXTS, SHOP, OutboxHooks, batch_of, keys_of

PENDING, DEAD = OutboxState.PENDING, OutboxState.DEAD


class FindingContract(OutboxHooks):
    """Rows are found page by page, and each page reads a bounded number of rows."""

    def keys(self, outbox: InvalidationOutbox, found: FoundRows) -> list[str | None]:
        """Keys of the rows that were found, in the order of the look."""
        rows = {row.id: row for row in outbox.rows_by_id(SHOP, found.ids)}
        return keys_of([rows[id] for id in found.ids])

    def all_keys(
        self, outbox: InvalidationOutbox, state: OutboxState, **options: Any
    ) -> list[str | None]:
        """Keys of all pages together."""
        keys: list[str | None] = []
        after = None
        for _ in range(100):
            found = outbox.find_rows(SHOP, state, after=after, **options)
            keys += self.keys(outbox, found)
            after = found.after
            if after is None:
                return keys
        raise AssertionError("the pages have no end")

    def some_rows(self, outbox: InvalidationOutbox, clock: Any) -> list[str]:
        """Enqueue rows, some at one moment and some at others; return their keys."""
        keys = []
        for moment in range(4):
            batch = [f"{moment}.{number}" for number in range(3)]
            outbox.enqueue(SHOP, batch_of(*batch))
            outbox.enqueue("other", batch_of("elsewhere"))
            keys += batch
            clock.advance(moment)  # the first two batches are of one moment
        return keys

    @pytest.mark.parametrize("newest", [False, True])
    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 12, 100])
    def test_pages_have_each_row_once_by_its_moment(self, outbox, clock, limit, newest):
        keys = self.some_rows(outbox, clock)

        found = self.all_keys(outbox, PENDING, limit=limit, newest=newest)

        assert found == (keys[::-1] if newest else keys)

    def test_a_page_tells_whether_there_is_a_further_row(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"))

        assert outbox.find_rows(SHOP, PENDING, limit=2).after is None
        assert outbox.find_rows(SHOP, PENDING, limit=1).after is not None
        assert outbox.find_rows(SHOP, DEAD) == FoundRows([], None)
        assert outbox.find_rows("other", PENDING) == FoundRows([], None)

    @pytest.mark.parametrize("newest", [False, True])
    def test_a_search_looks_at_so_many_rows_and_goes_on(self, outbox, clock, newest):
        self.some_rows(outbox, clock)
        wanted = InvalidationIntent.key("3.2" if not newest else "0.0")
        options = {"target": wanted, "newest": newest, "scan": 5, "limit": 2}

        first = outbox.find_rows(SHOP, PENDING, **options)

        assert first.ids == []
        assert first.after is not None
        assert self.all_keys(outbox, PENDING, **options) == [wanted.value]

    def test_what_is_invalidated_is_found_exactly(self, outbox):
        texts = ["a", "A", "a ", "a%", *ODD_TEXTS.values()]
        outbox.enqueue(SHOP, batch_of(*texts))

        for text in texts:
            found = outbox.find_rows(SHOP, PENDING, target=InvalidationIntent.key(text))
            assert self.keys(outbox, found) == [text]
        tag = InvalidationIntent.tag("a")
        assert outbox.find_rows(SHOP, PENDING, target=tag).ids == []

    def test_reasons_are_found_by_how_they_begin(self, outbox):
        reasons = ["sale", "Sale", "sal", "sale%", *ODD_TEXTS.values()]
        for place, reason in enumerate(reasons):
            outbox.enqueue(SHOP, batch_of(str(place), reason=reason))

        for begin in [*reasons, "s", "", "sale%x"]:
            found = self.all_keys(outbox, PENDING, reason=begin, limit=2)
            assert found == [
                str(place)
                for place, reason in enumerate(reasons)
                if reason.startswith(begin)
            ]

    def test_errors_are_found_by_what_they_say(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        first, second = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_failed([first], "node 3 timed out", backoff=0, dead=True)
        outbox.mark_failed([second], "refused", backoff=0, dead=True)

        assert self.all_keys(outbox, DEAD, error="node*out") == ["a"]
        # All were looked at, so there is nothing to go on with.
        assert outbox.find_rows(SHOP, DEAD, error="Refused") == FoundRows([], None)

    @pytest.mark.parametrize("newest", [False, True])
    def test_pending_rows_are_found_by_what_they_wait_for(self, outbox, clock, newest):
        outbox.enqueue(SHOP, batch_of("failed", "held", "due"))
        failed, _ = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_failed([failed], "e", backoff=60, dead=False)
        clock.advance(1)

        found = {
            phase.value: self.all_keys(outbox, PENDING, phase=phase, newest=newest)
            for phase in PendingPhase
        }

        assert found == {"due": ["due"], "claimed": ["held"], "backoff": ["failed"]}

    def test_rows_in_backoff_are_found_behind_any_number_that_are_due(self, outbox):
        outbox.enqueue(SHOP, batch_of("failed"))
        outbox.mark_failed(
            outbox.claim(SHOP, "w", limit=1, claim_ttl=30), "e", backoff=60, dead=False
        )
        outbox.enqueue(SHOP, batch_of(*map(str, range(20))))

        found = outbox.find_rows(
            SHOP, PENDING, phase=PendingPhase.BACKOFF, scan=2, limit=1
        )

        assert self.keys(outbox, found) == ["failed"]

    def test_what_makes_no_sense_is_refused(self, outbox):
        with pytest.raises(ValueError, match="phase.*dead"):
            outbox.find_rows(SHOP, DEAD, phase=PendingPhase.DUE)
        with pytest.raises(ValueError, match="reason is 256 bytes"):
            outbox.find_rows(SHOP, PENDING, reason="r" * 256)
        with pytest.raises(TypeError, match="state"):
            outbox.find_rows(SHOP, "dead")

    def test_rows_of_a_commit_are_found_page_by_page(self, outbox):
        for namespace, position in ((SHOP, "tx:7"), (SHOP, "tx:8"), ("other", "tx:7")):
            batch = batch_of(*(f"{namespace}{position}{n}" for n in range(5)))
            outbox.enqueue(namespace, batch, commit_position=position)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=2, claim_ttl=30))
        ids = {row.id for row in outbox.rows(SHOP, commit_position="tx:7")}

        pages = [outbox.find_in_commit(SHOP, "tx:7", limit=2)]
        while pages[-1].after is not None:
            after = pages[-1].after
            pages.append(outbox.find_in_commit(SHOP, "tx:7", limit=2, after=after))

        assert [len(page.ids) for page in pages] == [2, 2, 1]
        assert {id for page in pages for id in page.ids} == ids
        assert outbox.find_in_commit(SHOP, "tx:7", limit=5).after is None

    def test_what_was_published_is_counted_by_time(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of(*"abcde", "pending"))
        outbox.enqueue("other", batch_of("elsewhere"))
        rows = outbox.claim(SHOP, "w", limit=5, claim_ttl=900)
        clock.advance(2)
        outbox.mark_published(rows[:1])
        clock.advance(60)
        outbox.mark_published(rows[1:3])
        outbox.mark_published(outbox.claim("other", "w", limit=1, claim_ttl=900))
        clock.advance(28)
        outbox.mark_published(rows[3:])

        parts = outbox.published_rate(SHOP, seconds=60)

        assert len(parts) == 30
        assert {part.until_ms - part.from_ms for part in parts} == {2000}
        assert parts[-1].until_ms == clock.now_ms + 1
        counted = [place for place, part in enumerate(parts) if part.rows]
        assert counted == [15, 29]
        assert [part.rows for part in parts if part.rows] == [2, 2]
        assert [part.max_lag_ms for part in parts if part.rows] == [62_000, 90_000]
        assert [part.mean_lag_ms for part in parts if part.rows] == [62_000, 90_000]
        assert sum(part.estimate for part in parts) == 4
        assert not any(part.capped for part in parts)

    def test_of_many_published_rows_the_first_are_counted(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of(*map(str, range(60))))
        for _ in range(60):
            outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=900))
            clock.advance(1)

        *_, last = outbox.published_rate(SHOP, seconds=30 * 60, cap=6)

        assert (last.rows, last.capped) == (6, True)
        assert 50 <= last.estimate <= 75

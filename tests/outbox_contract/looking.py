"""Looking at rows changes nothing."""

from __future__ import annotations

import pytest

from hydracache_sync.outbox import (
    InvalidationOutbox,
    OutboxState,
    PendingPhase,
)
from outbox_contract.common import SHOP, OutboxHooks, batch_of, keys_of, numbered


class LookingContract(OutboxHooks):
    """Operators find the rows they mean, and all of them."""

    def fail(self, outbox: InvalidationOutbox, key: str, error: str) -> int:
        """Make a dead letter; return its id."""
        outbox.enqueue(SHOP, batch_of(key))
        [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed([row], error, backoff=0, dead=True)
        return row.id

    def test_rows_of_a_state_are_found(self, outbox):
        dead = [self.fail(outbox, key, "e") for key in "ab"]
        outbox.enqueue(SHOP, batch_of("c"))
        outbox.enqueue("other", batch_of("d"))

        [pending] = outbox.row_ids(SHOP, OutboxState.PENDING)

        assert outbox.row_ids(SHOP, OutboxState.DEAD) == dead
        assert outbox.row(pending).intent.value == "c"
        assert outbox.row_ids(SHOP, OutboxState.PUBLISHED) == []

    @pytest.mark.parametrize(
        ("error", "found"),
        [
            ("timed out", {"a"}),
            ("Timed out", set()),
            ("node*out", {"a"}),
            ("out*node", set()),
            ("100%", {"b"}),
            ("100_", {"c"}),
            ("[x]", {"d"}),
            ("what?", {"e"}),
            ("a|b", {"f"}),
            ("caf\xe9", {"g"}),
            ("", set("abcdefg")),
            ("'", set()),
            ("\\", set()),
        ],
    )
    def test_dead_letters_are_found_by_what_their_error_says(
        self, outbox, error, found
    ):
        for key, text in {
            "a": "node 3 timed out",
            "b": "100% full",
            "c": "100_000 bytes",
            "d": "list[x]",
            "e": "what? no",
            "f": "a|b",
            "g": "caf\xe9",
        }.items():
            self.fail(outbox, key, text)

        ids = outbox.row_ids(SHOP, OutboxState.DEAD, error=error)

        assert set(keys_of(outbox.rows_by_id(SHOP, ids))) == found

    def test_dead_letters_are_found_by_the_time_since_they_died(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("b"))
        clock.advance(100)
        old = self.fail(outbox, "a", "e")  # "b", which was the longest due
        clock.advance(60)
        self.fail(outbox, "c", "e")

        assert outbox.row_ids(SHOP, OutboxState.DEAD, older_than=60) == [old]
        assert outbox.row_ids(SHOP, OutboxState.DEAD, older_than=61) == []
        assert len(outbox.row_ids(SHOP, OutboxState.DEAD, older_than=0)) == 2

    def test_pending_rows_are_found_by_the_time_they_have_waited(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(60)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=900, dead=False)
        outbox.enqueue(SHOP, batch_of("b"))

        ids = outbox.row_ids(SHOP, OutboxState.PENDING, older_than=60)

        assert keys_of(outbox.rows_by_id(SHOP, ids)) == ["a"]

    def test_published_rows_are_listed_by_when_they_were_published(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a", "b", "c", "pending"))
        outbox.enqueue("other", batch_of("elsewhere"))
        began = clock.now_ms
        rows = outbox.claim(SHOP, "w", limit=4, claim_ttl=900)
        for index in (2, 0, 1):
            outbox.mark_published([rows[index]])
            outbox.mark_published(outbox.claim("other", "w", limit=1, claim_ttl=900))
            clock.advance(10)

        def keys(from_s, until_s, limit=10):
            first, last = (began + seconds * 1000 for seconds in (from_s, until_s))
            return keys_of(outbox.published_between(SHOP, first, last, limit=limit))

        assert keys(0, 30) == ["c", "a", "b"]
        assert keys(0, 10) == ["c"]
        assert keys(10, 20) == ["a"]
        assert keys(0, 30, limit=2) == ["c", "a"]
        assert keys(30, 60) == []

    def test_pending_rows_are_found_by_what_they_wait_for(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("failed", "ended", "held", "due"))
        failed, ended = outbox.claim(SHOP, "w", limit=2, claim_ttl=10)
        outbox.mark_failed([failed], "e", backoff=60, dead=False)
        clock.advance(9)
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        clock.advance(1)

        found = {
            phase: keys_of(
                outbox.rows_by_id(
                    SHOP, outbox.row_ids(SHOP, OutboxState.PENDING, phase=phase)
                )
            )
            for phase in PendingPhase
        }

        assert found == {
            PendingPhase.DUE: ["ended", "due"],
            PendingPhase.CLAIMED: ["held"],
            PendingPhase.BACKOFF: ["failed"],
        }

    def test_phase_of_rows_that_are_not_pending_is_refused(self, outbox):
        with pytest.raises(ValueError, match="phase.*dead"):
            outbox.row_ids(SHOP, OutboxState.DEAD, phase=PendingPhase.DUE)

    def test_large_numbers_of_rows_are_found(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(1200)))

        ids = outbox.row_ids(SHOP, OutboxState.PENDING)

        assert keys_of(outbox.rows_by_id(SHOP, reversed(ids))) == numbered(1200)

    def test_rows_of_other_namespaces_are_not_given(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.enqueue("other", batch_of("b"))

        assert keys_of(outbox.rows_by_id("other", range(10))) == ["b"]

    def test_namespaces_are_those_that_have_rows(self, outbox):
        names = sorted(["a", "A", "a ", "caf\xe9", "n" * 64])
        assert outbox.namespaces() == []
        for name in names:
            outbox.enqueue(name, batch_of("a", "b"))

        assert outbox.namespaces() == names
        assert outbox.namespaces(first=names[1], limit=2) == names[1:3]
        assert outbox.namespaces(first="b") == names[names.index("caf\xe9") :]
        assert outbox.namespaces(first=names[4], limit=1) == names[4:]
        assert outbox.namespaces(limit=0) == []

    def test_clock_is_the_one_that_judges_claims(self, outbox, clock):
        assert outbox.now_ms() == clock.now_ms
        clock.advance(5)
        assert outbox.now_ms() == clock.now_ms

    def test_no_right_is_missing_and_nothing_is_changed_to_find_out(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.pause("other")
        before = outbox.rows(SHOP)

        assert outbox.missing_rights() == {}
        assert outbox.rows(SHOP) == before
        assert list(outbox.paused()) == ["other"]

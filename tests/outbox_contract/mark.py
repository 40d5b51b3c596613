"""What a claim's holder says of its rows, and when it comes too late."""

from __future__ import annotations

import pytest

from hydracache_sync.outbox import (
    InvalidationOutbox,
    MemoryOutbox,
    OutboxRow,
    OutboxState,
)
from hydracache_sync.outbox.row import kept_node
from outbox_contract.common import (
    SHOP,
    OutboxHooks,
    batch_of,
    claim_of,
    keys_of,
    numbered,
)


class MarkContract(OutboxHooks):
    """Only the claim that holds a row can finish it or give it back."""

    def claimed(
        self, outbox: InvalidationOutbox, *keys: str, claim_ttl: float = 30
    ) -> list[OutboxRow]:
        outbox.enqueue(SHOP, batch_of(*keys or ("a",)))
        return outbox.claim(SHOP, "w", limit=1000, claim_ttl=claim_ttl)

    def test_published_row_is_finished(self, outbox, clock):
        [row] = self.claimed(outbox)
        clock.advance(2)

        assert outbox.mark_published([row]) == 1

        stored = outbox.row(row.id)
        assert stored.is_published
        assert stored.published_at_ms == clock.now_ms
        assert claim_of(stored) is None

    def test_publishing_clears_the_error_and_keeps_the_attempts(self, outbox):
        rows = self.claimed(outbox)
        outbox.mark_failed(rows, "refused", backoff=0, dead=False)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        outbox.mark_published(rows)

        [stored] = outbox.rows(SHOP)
        assert stored.last_error is None
        assert stored.attempts == 1

    def test_a_mark_changes_no_row_between_those_it_was_given(self, outbox):
        first, second, third, fourth = self.claimed(outbox, "a", "b", "c", "d")

        assert outbox.mark_published([first, first, third]) == 2
        assert outbox.mark_failed([second, fourth], "e", backoff=0, dead=True) == 2

        states = [outbox.row(row.id).state for row in (first, second, third, fourth)]
        assert states == [OutboxState.PUBLISHED, OutboxState.DEAD] * 2

    def test_rows_that_follow_each_other_are_marked_alone(self, outbox):
        first, second, third, fourth = self.claimed(outbox, "a", "b", "c", "d")

        assert outbox.mark_published([second, third]) == 2

        states = [outbox.row(row.id).state for row in (first, second, third, fourth)]
        pending, published = OutboxState.PENDING, OutboxState.PUBLISHED
        assert states == [pending, published, published, pending]

    def test_failed_row_waits_for_its_backoff(self, outbox, clock):
        [row] = self.claimed(outbox)
        clock.advance(1)

        assert outbox.mark_failed([row], "refused", backoff=2.5, dead=False) == 1

        stored = outbox.row(row.id)
        assert stored.state is OutboxState.PENDING
        assert stored.attempts == 1
        assert stored.last_error == "refused"
        assert stored.available_at_ms == clock.now_ms + 2500
        assert claim_of(stored) is None
        clock.advance(2.499)
        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []
        clock.advance(0.001)
        assert keys_of(outbox.claim(SHOP, "w", limit=1, claim_ttl=30)) == ["a"]

    def test_every_failure_counts_an_attempt_and_keeps_the_last_error(self, outbox):
        self.claimed(outbox)
        [row] = outbox.rows(SHOP)

        for n in range(3):
            outbox.mark_failed([row], f"error {n}", backoff=0, dead=False)
            [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert row.attempts == 3
        assert row.last_error == "error 2"

    def test_dead_row_is_counted_and_keeps_its_error(self, outbox):
        [row] = self.claimed(outbox)

        assert outbox.mark_failed([row], "refused", backoff=9, dead=True) == 1

        stored = outbox.row(row.id)
        assert stored.is_dead_lettered
        assert stored.attempts == 1
        assert stored.last_error == "refused"
        assert claim_of(stored) is None

    def test_several_rows_fail_together(self, outbox):
        rows = self.claimed(outbox, "a", "b", "c")

        assert outbox.mark_failed(rows, "refused", backoff=1, dead=False) == 3

        assert {row.attempts for row in outbox.rows(SHOP)} == {1}

    def test_long_error_is_cut_and_says_so(self, outbox):
        rows = self.claimed(outbox)

        outbox.mark_failed(rows, "\xe9" * 1007, backoff=0, dead=True)

        [row] = outbox.rows(SHOP)
        assert row.last_error.startswith("\xe9" * 1000)
        assert row.last_error.endswith("(7 more characters)")

    def test_error_that_is_no_utf_8_is_kept_readable(self, outbox):
        rows = self.claimed(outbox)

        outbox.mark_failed(rows, "bad \ud800 reply", backoff=0, dead=True)

        assert outbox.rows(SHOP)[0].last_error == r"bad \ud800 reply"

    def test_released_row_keeps_its_place_and_counts_no_attempt(self, outbox, clock):
        self.claimed(outbox, "a", "b")
        first, second = outbox.rows(SHOP)
        clock.advance(3)

        assert outbox.release([second, first]) == 2

        stored = outbox.row(first.id)
        assert stored.attempts == 0
        assert claim_of(stored) is None
        assert stored.available_at_ms == first.available_at_ms
        assert keys_of(outbox.claim(SHOP, "w", limit=2, claim_ttl=30)) == ["a", "b"]

    def test_released_row_waits_for_its_delay(self, outbox, clock):
        [row] = self.claimed(outbox)
        clock.advance(1)

        outbox.release([row], delay=0.5)

        clock.advance(0.499)
        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []
        clock.advance(0.001)
        assert keys_of(outbox.claim(SHOP, "w", limit=1, claim_ttl=30)) == ["a"]

    def test_release_may_say_why(self, outbox):
        rows = self.claimed(outbox)

        outbox.release(rows, error="memcached is away")

        assert outbox.rows(SHOP)[0].last_error == "memcached is away"

    def test_release_without_an_error_keeps_the_last_one(self, outbox):
        rows = self.claimed(outbox)
        outbox.mark_failed(rows, "refused", backoff=0, dead=False)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        outbox.release(rows)

        assert outbox.rows(SHOP)[0].last_error == "refused"

    def test_a_row_tells_which_node_it_waits_for_until_it_fails_otherwise(self, outbox):
        node = "c\xe9:1"
        rows = self.claimed(outbox)
        outbox.release(rows, error="away", waits_for=node)
        found = []

        [waiting] = outbox.rows(SHOP)
        for _ in range(2):
            rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
            found.append(rows[0].waits_for)
            outbox.release(rows)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "refused", backoff=0, dead=False)

        assert waiting.waits_for == node and found == [node, node]
        assert outbox.rows(SHOP)[0].waits_for is None

    def test_nothing_of_a_rows_trouble_is_left_when_it_is_published(
        self, outbox, clock
    ):
        rows = self.claimed(outbox)
        outbox.release(rows, error="away", waits_for="one")
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        clock.advance(31)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        outbox.mark_published(rows)

        [row] = outbox.rows(SHOP)
        assert (row.last_error, row.waits_for, row.was_abandoned) == (None, None, False)

    def test_a_node_has_an_error_that_says_why_it_is_waited_for(self, outbox):
        rows = self.claimed(outbox)

        with pytest.raises(ValueError, match="waits_for needs an error"):
            outbox.release(rows, waits_for="one")

    @pytest.mark.parametrize("name", ["n" * 300, "\xe9" * 200, "bad \ud800"])
    def test_a_node_is_found_again_whatever_its_name(self, outbox, name):
        rows = self.claimed(outbox)

        outbox.release(rows, delay=60, error="away", waits_for=name)
        outbox.make_due(SHOP, waits_for=name, limit=10)

        [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        assert row.waits_for == kept_node(name) != name

    def put_off(self, outbox, delay: float, node: str, *keys: str):
        rows = self.claimed(outbox, *keys)
        outbox.release(rows, delay=delay, error="away", waits_for=node)
        return rows

    def test_rows_that_wait_for_what_is_back_are_made_due(self, outbox, clock):
        self.put_off(outbox, 60, "one", "a", "b")
        self.put_off(outbox, 60, "one two", "c")
        self.put_off(outbox, 60, "ONE", "d")

        reached = outbox.make_due(SHOP, waits_for="one", limit=10)

        assert reached is None
        assert keys_of(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == ["a", "b"]
        assert [row.attempts for row in outbox.rows(SHOP)] == [0, 0, 0, 0]

    def test_they_are_made_due_a_few_at_a_time_the_first_to_be_due_first(
        self, outbox, clock
    ):
        for delay, keys in ((30, "ef"), (10, "ab"), (20, "cd")):
            self.put_off(outbox, delay, "one", *keys)
        began = clock.now_ms

        taken, reached, from_ms = [], [], 0
        while from_ms is not None:
            from_ms = outbox.make_due(SHOP, waits_for="one", limit=3, from_ms=from_ms)
            reached.append(from_ms)
            rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
            taken.append(sorted(keys_of(rows)))

        # Rows that were to be due in the same moment are not told apart.
        assert taken[0] in (["a", "b", "c"], ["a", "b", "d"])
        assert taken[1] in (["c", "e", "f"], ["d", "e", "f"])
        assert sorted(sum(taken, [])) == list("abcdef")
        assert reached == [began + 20_000, began + 30_000, None]

    def test_nothing_else_is_made_due(self, outbox, clock):
        self.put_off(outbox, 60, "one", "waits")
        retried, dead, published, held = self.claimed(
            outbox, "retried", "dead", "published", "held"
        )
        outbox.mark_failed([retried], "of its own", backoff=60, dead=False)
        outbox.mark_failed([dead], "away", backoff=0, dead=True)
        outbox.mark_published([published])
        outbox.enqueue("other", batch_of("elsewhere"))
        rows = outbox.claim("other", "w", limit=1, claim_ttl=30)
        outbox.release(rows, delay=60, error="away", waits_for="one")
        before = {row.id: row for row in outbox.rows(SHOP)}

        outbox.make_due(SHOP, waits_for="one", limit=100)

        after = {row.id: row for row in outbox.rows(SHOP)}
        changed = [id for id in before if after[id] != before[id]]
        assert keys_of(outbox.rows_by_id(SHOP, changed)) == ["waits"]
        assert outbox.due_namespaces([SHOP, "other"]) == [SHOP]
        assert outbox.mark_published([held]) == 1

    def test_rows_that_failed_since_they_waited_keep_their_backoff(self, outbox, clock):
        self.put_off(outbox, 1, "one", "a")
        clock.advance(1)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "of its own", backoff=60, dead=False)

        outbox.make_due(SHOP, waits_for="one", limit=10)

        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []

    def test_to_make_due_asks_for_a_limit_and_takes_none(self, outbox):
        self.put_off(outbox, 60, "one", "a")

        assert outbox.make_due(SHOP, waits_for="one", limit=0) is None

        assert outbox.due_namespaces([SHOP]) == []
        with pytest.raises(ValueError, match="limit"):
            outbox.make_due(SHOP, waits_for="one", limit=-1)

    # Of a worker whose claim was lost, each with what must not happen.
    LATE = {
        "published": lambda outbox, rows: outbox.mark_published(rows),
        "failed": lambda outbox, rows: outbox.mark_failed(
            rows, "late", backoff=99, dead=False
        ),
        "dead": lambda outbox, rows: outbox.mark_failed(
            rows, "late", backoff=0, dead=True
        ),
        "released": lambda outbox, rows: outbox.release(rows, delay=99, error="late"),
    }

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_mark_of_a_claim_taken_over_changes_nothing(self, outbox, clock, mark):
        late = self.claimed(outbox, "a", "b", claim_ttl=1)
        clock.advance(1)
        # The owner's name is the same: the claim's token alone tells them apart.
        held = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        before = outbox.rows(SHOP)

        assert mark(outbox, late) == 0

        assert outbox.rows(SHOP) == before
        assert outbox.mark_published(held) == 2

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_mark_of_a_row_that_another_finished_changes_nothing(
        self, outbox, clock, mark
    ):
        late = self.claimed(outbox, "done", "given up", claim_ttl=1)
        clock.advance(1)
        done, given_up = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_published([done])
        outbox.mark_failed([given_up], "e", backoff=0, dead=True)
        before = outbox.rows(SHOP)

        assert mark(outbox, late) == 0

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_mark_of_a_row_that_another_gave_back_changes_nothing(
        self, outbox, clock, mark
    ):
        late = self.claimed(outbox, "a", "b", claim_ttl=1)
        clock.advance(1)
        first, second = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.release([first])
        outbox.mark_failed([second], "e", backoff=0, dead=False)
        before = outbox.rows(SHOP)

        assert mark(outbox, late) == 0

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_second_mark_of_the_same_claim_changes_nothing(self, outbox, mark):
        rows = self.claimed(outbox)
        outbox.mark_published(rows)
        before = outbox.rows(SHOP)

        assert mark(outbox, rows) == 0

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_mark_of_a_reset_dead_letter_changes_nothing(self, outbox, mark):
        rows = self.claimed(outbox)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)
        outbox.reset_dead_letters(SHOP)
        before = outbox.rows(SHOP)

        assert mark(outbox, rows) == 0

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_expired_claim_that_nobody_took_over_can_still_be_marked(
        self, outbox, clock, mark
    ):
        rows = self.claimed(outbox, claim_ttl=1)
        clock.advance(100)

        assert mark(outbox, rows) == 1

        assert outbox.rows(SHOP)[0].claim_token is None

    def test_mark_counts_only_the_rows_still_held(self, outbox, clock):
        lost, kept = self.claimed(outbox, "lost", "kept", claim_ttl=1)
        clock.advance(1)
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert outbox.mark_published([lost, kept]) == 1

        assert [row.state for row in outbox.rows(SHOP)] == [
            OutboxState.PENDING,
            OutboxState.PUBLISHED,
        ]

    def test_rows_of_two_claims_are_marked_together(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        first = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        second = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)

        assert outbox.mark_published([second[0], first[0], second[1]]) == 3

        assert outbox.status(SHOP).pending == 0

    def test_row_marked_twice_in_one_call_counts_once(self, outbox):
        [row] = self.claimed(outbox)

        assert outbox.mark_failed([row, row], "e", backoff=0, dead=False) == 1

        assert outbox.row(row.id).attempts == 1

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_more_rows_than_one_statement_takes_are_marked(self, outbox, mark):
        rows = self.claimed(outbox, *numbered(1200))
        rows = [*rows, *outbox.claim(SHOP, "w", limit=1000, claim_ttl=30)]

        assert mark(outbox, rows) == 1200

        assert {row.claim_token for row in outbox.rows(SHOP, limit=2000)} == {None}

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_mark_of_no_rows_does_not_touch_storage(
        self, storage, clock, monkeypatch, mark
    ):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        assert mark(outbox, []) == 0

        assert statements == []
        outbox.close()

    def test_mark_of_a_claim_is_one_statement(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)
        rows = self.claimed(outbox, *numbered(64))
        statements.clear()

        outbox.mark_published(rows)

        assert len(statements) == 1
        outbox.close()

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_rows_that_were_never_claimed_are_not_marked(self, outbox, mark):
        outbox.enqueue(SHOP, batch_of("a"))
        before = outbox.rows(SHOP)

        assert mark(outbox, before) == 0

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_rows_of_another_outbox_are_not_marked(self, outbox, clock, mark):
        held = self.claimed(outbox)
        other = MemoryOutbox(clock=clock)
        foreign = self.claimed(other, *numbered(held[0].id))
        before = outbox.rows(SHOP)

        assert mark(outbox, foreign) == 0

        assert held[0].id in [row.id for row in foreign]
        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_rows_that_are_gone_are_not_marked(self, outbox, mark):
        rows = self.claimed(outbox)
        self.sql(outbox, "delete from hydracache_outbox")

        assert mark(outbox, rows) == 0

        assert outbox.rows(SHOP) == []

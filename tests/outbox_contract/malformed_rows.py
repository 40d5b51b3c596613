"""Rows that another hand has written."""

from __future__ import annotations

from typing import Any

import pytest

from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.outbox import (
    InvalidationOutbox,
)
from outbox_contract.common import SHOP, OutboxHooks, batch_of, keys_of


class MalformedRowContract(OutboxHooks):
    """A row of a foreign hand is reported and spoils none of its neighbours."""

    def plant(
        self, outbox: InvalidationOutbox, column: str, value: Any, kind: str = "key"
    ) -> int:
        """Enqueue three rows and overwrite a column of the middle one."""
        middle = {
            "key": InvalidationIntent.key("middle"),
            "entity": InvalidationIntent.entity("user", "middle"),
            "flush": InvalidationIntent.flush(),
        }[kind]
        outbox.enqueue(SHOP, batch_of("before").intent(middle).invalidate_key("after"))
        id = outbox.rows(SHOP)[1].id
        self.sql(
            outbox,
            f"update hydracache_outbox set {column} = ? where id = ?",
            (value, id),
        )
        return id

    @pytest.mark.parametrize(
        ("kind", "column", "value", "said"),
        [
            ("key", "kind", "bogus", "bogus"),
            ("key", "value", None, "value"),
            ("key", "value", b"\xff\xfe", "UTF-8"),
            ("key", "value", b"\xed\xa0\x80", "UTF-8"),
            ("key", "value", "x" * 4097, "4097"),
            ("entity", "entity_name", None, "entity"),
            ("entity", "entity_name", b"user\xff", "UTF-8"),
            ("entity", "kind", "key", "entity"),
            ("flush", "value", "not for a flush", "value"),
        ],
        ids=[
            "unknown kind",
            "no value",
            "invalid UTF-8",
            "surrogate",
            "over-long",
            "no entity",
            "invalid entity",
            "superfluous entity",
            "superfluous value",
        ],
    )
    def test_malformed_row_is_claimed_with_its_fault_and_neighbours_are_fine(
        self, outbox, kind, column, value, said
    ):
        self.plant(outbox, column, value, kind)

        before, middle, after = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)

        assert keys_of([before, after]) == ["before", "after"]
        assert middle.intent is None
        assert said in middle.last_error
        assert outbox.mark_published([before, after]) == 2
        assert outbox.mark_failed([middle], middle.last_error, backoff=0, dead=True)
        [dead] = outbox.dead_letters(SHOP)
        assert dead.intent is None
        assert said in dead.last_error

    def test_row_of_an_unknown_state_is_shown_and_left_alone(self, outbox):
        id = self.plant(outbox, "state", 9)

        claimed = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)

        row = outbox.row(id)
        assert keys_of(claimed) == ["before", "after"]
        assert (row.state, row.intent) == (None, None)
        assert "state" in row.last_error
        assert keys_of(outbox.rows(SHOP)) == ["before", None, "after"]
        assert outbox.status(SHOP).pending == 2

    @pytest.mark.parametrize(
        "column", ["commit_position", "reason", "claim_owner", "last_error"]
    )
    def test_text_beside_the_intent_may_be_malformed(self, outbox, column):
        self.plant(outbox, column, b"\xff")

        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)

        assert keys_of(rows) == ["before", "middle", "after"]
        assert [repr(row) for row in outbox.rows(SHOP)]
        assert outbox.mark_published(rows) == 3

    def test_namespace_that_is_no_text_is_shown_beside_the_others(self, outbox):
        outbox.enqueue("zoo", batch_of("a"))
        self.plant(outbox, "namespace", b"\xffA")

        assert sorted(outbox.namespaces()) == ["\\xffA", SHOP, "zoo"]

    def test_malformed_rows_can_be_reset_and_discarded(self, outbox):
        id = self.plant(outbox, "kind", "bogus")
        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        outbox.mark_failed(rows[1:2], "malformed", backoff=0, dead=True)

        assert outbox.reset_dead_letters(SHOP, [id]) == 1
        [row] = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        outbox.mark_failed([row], "malformed", backoff=0, dead=True)
        assert outbox.discard_dead_letters(SHOP, [id]) == 1

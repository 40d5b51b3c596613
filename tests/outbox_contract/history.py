"""A row keeps what has happened to it: failures, and what operators did."""

from __future__ import annotations

import os
import pickle
import pwd
import socket
from typing import Any

import pytest

from hydracache_sync.outbox import (
    InvalidationOutbox,
    RowEvent,
    RowEventKind,
    RowHistory,
)
from hydracache_sync.outbox.history import MAX_HISTORY
from outbox_contract.common import ODD_TEXTS, SHOP, OutboxHooks, batch_of

FAILED, DEAD, WAITS, EXPIRED, RETRIED, AGAIN = RowEventKind


def claimed(outbox: InvalidationOutbox, owner: str = "w", limit: int = 10) -> Any:
    return outbox.claim(SHOP, owner, limit=limit, claim_ttl=30)


def history_of(outbox: InvalidationOutbox) -> RowHistory:
    """Of the only row that there is."""
    [listed] = outbox.rows(SHOP)
    assert listed.history is None
    row = outbox.row(listed.id)
    assert row is not None and row == listed and row.history is not None
    assert pickle.loads(pickle.dumps(row)).history == row.history
    return row.history


class HistoryContract(OutboxHooks):
    """It is bounded, kept until the row is gone, and costs a success nothing."""

    def test_a_row_that_was_published_at_once_has_none(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        rows = claimed(outbox)
        assert rows[0].history is None
        outbox.mark_published(rows)

        assert history_of(outbox) == RowHistory((), True)
        found = self.sql(outbox, f"select history from {outbox.table}")
        assert found == [(None,)]

    def test_from_failures_by_way_of_an_operator_to_the_publish(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        wanted = []

        outbox.mark_failed(claimed(outbox, "w1"), "refused", backoff=1, dead=False)
        wanted.append(RowEvent(clock.now_ms, FAILED, "w1", "", "refused"))
        clock.advance(2)
        outbox.release(
            claimed(outbox, "w2"), delay=1, error="away", waits_for="n:11211"
        )
        wanted.append(RowEvent(clock.now_ms, WAITS, "w2", "n:11211", "away"))
        clock.advance(2)
        [late] = claimed(outbox, "w3")
        clock.advance(31)
        wanted.append(RowEvent(late.claim_until_ms, EXPIRED, "w3"))
        outbox.mark_failed(claimed(outbox, "w4"), "no such node", backoff=0, dead=True)
        wanted.append(RowEvent(clock.now_ms, DEAD, "w4", "", "no such node"))
        clock.advance(5)
        assert outbox.mark_failed([late], "late", backoff=0, dead=False) == 0
        assert outbox.reset_dead_letters(SHOP, by="ada") == 1
        wanted.append(RowEvent(clock.now_ms, RETRIED, "ada"))
        clock.advance(1)
        outbox.mark_published(claimed(outbox, "w5"))

        assert history_of(outbox) == RowHistory(tuple(wanted), True)

    def test_a_retry_that_names_nobody_is_the_process_users(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.mark_failed(claimed(outbox), "no", backoff=0, dead=True)

        outbox.reset_dead_letters(SHOP)

        user = pwd.getpwuid(os.getuid()).pw_name
        assert history_of(outbox).events[-1].who == f"{user}@{socket.gethostname()}"

    def test_a_retry_of_what_is_not_dead_adds_nothing(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        [row] = outbox.rows(SHOP)

        assert outbox.reset_dead_letters(SHOP, [row.id]) == 0

        assert history_of(outbox).events == ()

    def test_a_row_given_back_without_an_error_has_no_event(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        outbox.release(claimed(outbox))

        assert history_of(outbox).events == ()

    def test_an_outage_is_one_event_and_drops_none_before_it(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.mark_failed(claimed(outbox), "refused", backoff=0, dead=False)
        for _ in range(200):
            outbox.release(claimed(outbox), delay=1, error="away", waits_for="n:1")
            clock.advance(2)
        outbox.release(claimed(outbox), delay=1, error="away", waits_for="n:2")

        history = history_of(outbox)

        assert history.is_whole
        assert [(each.kind, each.node) for each in history.events] == [
            (FAILED, ""),
            (WAITS, "n:1"),
            (WAITS, "n:2"),
        ]

    def test_it_is_told_that_a_claim_ran_out_of_that_row_alone(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        [held] = claimed(outbox, "gone")
        clock.advance(31)
        outbox.enqueue(SHOP, batch_of("b"))

        rows = claimed(outbox)

        found = {row.id: outbox.row(row.id).history.events for row in rows}
        assert found.pop(held.id) == (RowEvent(held.claim_until_ms, EXPIRED, "gone"),)
        assert list(found.values()) == [()]

    def test_a_row_that_is_enqueued_again_says_so(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:1")
        outbox.mark_failed(claimed(outbox), "no", backoff=0, dead=True)
        clock.advance(1)

        outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:1")

        again, fresh = [outbox.row(row.id) for row in outbox.rows(SHOP)]
        assert [each.kind for each in again.history.events] == [DEAD, AGAIN]
        assert again.history.events[1] == RowEvent(clock.now_ms, AGAIN)
        assert fresh.history == RowHistory()

    def test_only_the_end_of_a_long_one_is_kept_and_this_is_said(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        before: tuple[RowEvent, ...] = ()
        for number in range(60):
            error = f"{number} {'x' * (500 if number % 3 else 7)}"
            outbox.mark_failed(claimed(outbox), error, backoff=0, dead=False)
            clock.advance(1)
            history = history_of(outbox)
            # All that there was before, or the end of it.
            events = history.events[:-1]
            assert events == before[len(before) - len(events) :]
            assert history.is_whole == (len(history.events) == number + 1)
            assert history.events[-1].error.startswith(f"{number} x")
            before = history.events

        assert not history.is_whole
        assert 20 <= len(history.events) < 60
        found = self.sql(outbox, f"select length(history) from {outbox.table}")
        assert found == [(MAX_HISTORY,)]

    @pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=list(ODD_TEXTS))
    def test_no_text_in_it_can_pass_for_another(self, outbox, clock, text):
        forged = f"{text}\n\n1\tretried\tforged\t\t\n{text}"
        outbox.enqueue(SHOP, batch_of("a"))
        claimed(outbox, forged)
        clock.advance(31)
        outbox.release(claimed(outbox, forged), error=forged, waits_for=forged)
        outbox.mark_failed(claimed(outbox, forged), forged, backoff=0, dead=True)
        outbox.reset_dead_letters(SHOP, by=forged)

        history = history_of(outbox)

        assert history.is_whole
        kinds = [each.kind for each in history.events]
        assert kinds == [EXPIRED, WAITS, DEAD, RETRIED]
        assert all("".join(each[2:]).isprintable() for each in history.events)
        # SQLite's name of the worker ends at a NUL.
        assert all(each.who for each in history.events[1:])

    def test_a_password_of_a_long_url_is_not_cut_in_half(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        error = f"{'x' * 180} mysql://app:{'secret' * 9}@db/shop"

        outbox.mark_failed(claimed(outbox), error, backoff=0, dead=False)

        [event] = history_of(outbox).events
        assert "secret" not in event.error and "mysql://app:***" in event.error

    @pytest.mark.parametrize(
        "stored",
        [
            "",
            "x",
            "\n\nx",
            "\n\n1\tno kind\t\t\t",
            "\n\n1\tfailed",
            "\n\n\N{SUPERSCRIPT TWO}\tfailed\t\t\t",
            f"\n\n{'9' * 5000}\tfailed\t\t\t",
            "\n\n-1\tfailed\t\t\t",
        ],
    )
    def test_what_a_foreign_hand_wrote_is_left_out(self, outbox, clock, stored):
        outbox.enqueue(SHOP, batch_of("a"))
        self.sql(outbox, f"update {outbox.table} set history = ?", [stored])

        assert history_of(outbox) == RowHistory((), False)
        outbox.mark_failed(claimed(outbox, "w"), "no", backoff=0, dead=False)
        assert history_of(outbox) == RowHistory(
            (RowEvent(clock.now_ms, FAILED, "w", "", "no"),), False
        )

    def test_bytes_that_are_no_text_are_left_out_too(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        self.sql(outbox, f"update {outbox.table} set history = ?", [b"\xff\xfe\n"])

        assert history_of(outbox) == RowHistory((), False)

    def test_no_statement_of_a_success_names_it(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)
        outbox.enqueue(SHOP, batch_of("a", "b"))
        outbox.mark_published(claimed(outbox))
        outbox.status(SHOP)
        outbox.rows(SHOP)
        assert statements and not [each for each in statements if "history" in each]

        # The spy would have seen it.
        outbox.enqueue(SHOP, batch_of("c"))
        outbox.mark_failed(claimed(outbox), "no", backoff=0, dead=False)
        assert [each for each in statements if "history" in each]
        outbox.close()

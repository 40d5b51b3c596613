"""Any order of calls, against a model of one row's life."""

from __future__ import annotations

import math
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hydracache_sync.outbox import (
    InvalidationOutbox,
    OutboxRow,
    OutboxState,
)
from hydracache_sync.receipts import InvalidationReceipt
from outbox_contract.common import EVERY_OUTBOX, OutboxHooks, batch_of, keys_of
from support.clock import FakeClock


class Modelled:
    """An outbox and what it should hold, kept in step by calling both."""

    def __init__(self, outbox: InvalidationOutbox, namespace: str, clock: FakeClock):
        self.outbox = outbox
        self.namespace = namespace
        self.clock = clock
        self.rows: list[dict[str, Any]] = []
        self.claims: list[tuple[list[OutboxRow], list[dict[str, Any]], int]] = []
        self.receipts: list[InvalidationReceipt] = []

    def enqueue(self, position: str | None, keys: list[str]) -> None:
        receipt = self.outbox.enqueue(
            self.namespace, batch_of(*keys), commit_position=position
        )
        known = {row["target"]: row for row in self.rows}
        targets = [(str(receipt.commit_position), key) for key in dict.fromkeys(keys)]
        added = [
            {
                "target": target,
                "state": OutboxState.PENDING,
                "created": self.clock.now_ms,
                "at": self.clock.now_ms,
                "attempts": 0,
                "claim": None,
                "until": None,
                "error": False,
            }
            for target in targets
            if target not in known
        ]
        for row in [known[target] for target in targets if target in known]:
            row["created"] += 1
            if row["state"] is not OutboxState.PENDING:
                now = self.clock.now_ms
                row.update(created=max(now, row["created"]), at=now, attempts=0)
                row.update(state=OutboxState.PENDING)
            row.update(claim=None, until=None, error=True)
        self.rows += added
        self.receipts.append(receipt)
        assert receipt.inserted == len(added)

    def claim(self, limit: int, claim_ttl: int) -> None:
        now = self.clock.now_ms
        due = [
            row
            for row in self.rows
            if row["state"] is OutboxState.PENDING
            and row["at"] <= now
            and (row["until"] is None or row["until"] <= now)
        ]
        due = sorted(due, key=lambda row: (row["at"], row["created"]))[:limit]
        for row in due:
            row.update(error=row["error"] or row["claim"] is not None)
            row.update(claim=len(self.claims), until=now + claim_ttl * 1000)
        rows = self.outbox.claim(self.namespace, "w", limit=limit, claim_ttl=claim_ttl)
        self.claims.append((rows, due, len(self.claims)))
        assert keys_of(rows) == [row["target"][1] for row in due]

    def held(self, number: int) -> tuple[list[OutboxRow], list[dict[str, Any]]]:
        """Rows of an earlier claim, and those of them that it still holds."""
        if not self.claims:
            return [], []
        rows, modelled, claim = self.claims[number % len(self.claims)]
        return rows, [row for row in modelled if row["claim"] == claim]

    def publish(self, number: int) -> None:
        rows, held = self.held(number)
        for row in held:
            row.update(state=OutboxState.PUBLISHED, at=self.clock.now_ms)
            row.update(claim=None, until=None, error=False)
        assert self.outbox.mark_published(rows) == len(held)

    def fail(self, number: int, backoff: int, dead: bool) -> None:
        rows, held = self.held(number)
        for row in held:
            at = self.clock.now_ms + (0 if dead else backoff * 1000)
            row.update(at=at, attempts=row["attempts"] + 1, claim=None, until=None)
            row.update(state=OutboxState.DEAD if dead else OutboxState.PENDING)
            row.update(error=True)
        marked = self.outbox.mark_failed(rows, "e", backoff=backoff, dead=dead)
        assert marked == len(held)

    def release(self, number: int, delay: int) -> None:
        rows, held = self.held(number)
        for row in held:
            at = self.clock.now_ms + delay * 1000 if delay else row["at"]
            row.update(at=at, claim=None, until=None)
        assert self.outbox.release(rows, delay=delay) == len(held)

    def publish_commit(self, number: int) -> None:
        if not self.receipts:
            return
        receipt = self.receipts[number % len(self.receipts)]
        targets = [
            (str(receipt.commit_position), intent.value)
            for intent in receipt.batch.intents
        ]
        pending = [
            row
            for row in self.rows
            if row["target"] in targets
            and row["state"] is OutboxState.PENDING
            and not row["error"]
            and row["at"] <= row["created"]
        ]
        for row in pending:
            row.update(state=OutboxState.PUBLISHED, at=self.clock.now_ms)
            row.update(claim=None, until=None, error=False)
        assert self.outbox.publish_commit(receipt) == len(pending)

    def reset(self) -> None:
        dead = [row for row in self.rows if row["state"] is OutboxState.DEAD]
        for row in dead:
            row.update(state=OutboxState.PENDING, at=self.clock.now_ms, attempts=0)
            row.update(error=False, created=min(row["created"], row["at"] - 1))
        assert self.outbox.reset_dead_letters(self.namespace) == len(dead)

    def purge(self, older_than: int) -> None:
        before = self.clock.now_ms - older_than * 1000
        old = [
            row
            for row in self.rows
            if row["state"] is OutboxState.PUBLISHED and row["at"] < before
        ]
        self.rows = [row for row in self.rows if row not in old]
        purged = self.outbox.purge_published(self.namespace, older_than=older_than)
        assert purged == len(old)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def compare(self) -> None:
        assert [
            (
                (row.commit_position.value, row.intent.value),
                row.state,
                row.created_at_ms,
                row.available_at_ms,
                row.attempts,
                row.claim_until_ms,
            )
            for row in self.outbox.rows(self.namespace, limit=1000)
        ] == [
            tuple(
                row[field]
                for field in ("target", "state", "created", "at", "attempts", "until")
            )
            for row in self.rows
        ]
        status = self.outbox.status(self.namespace)
        states = [row["state"] for row in self.rows]
        assert status.pending == states.count(OutboxState.PENDING)
        assert status.dead_lettered == states.count(OutboxState.DEAD)


class ModelContract(OutboxHooks):
    """Any order of calls leads where a model of a page says."""

    STEPS = st.one_of(
        st.tuples(
            st.just("enqueue"),
            st.sampled_from(["tx:1", "tx:2", None]),
            st.lists(st.sampled_from("abcd"), max_size=3),
        ),
        st.tuples(st.just("claim"), st.integers(1, 4), st.sampled_from([1, 5])),
        st.tuples(st.just("publish"), st.integers(0, 9)),
        st.tuples(
            st.just("fail"), st.integers(0, 9), st.sampled_from([0, 2]), st.booleans()
        ),
        st.tuples(st.just("release"), st.integers(0, 9), st.sampled_from([0, 2])),
        st.tuples(st.just("publish_commit"), st.integers(0, 9)),
        st.tuples(st.just("reset")),
        st.tuples(st.just("purge"), st.sampled_from([0, 2])),
        st.tuples(st.just("advance"), st.sampled_from([0.001, 1, 2, 5, -1])),
    )

    @settings(max_examples=50, suppress_health_check=EVERY_OUTBOX)
    @given(steps=st.lists(STEPS, min_size=5, max_size=30))
    def test_any_calls_in_any_order_do_as_the_model_does(self, outbox, clock, steps):
        modelled = Modelled(outbox, f"model:{time.monotonic_ns()}", clock)
        # Looked for now and then, by another clock: here, never.
        outbox._claims._ahead_at[modelled.namespace] = math.inf

        for name, *arguments in steps:
            getattr(modelled, name)(*arguments)
            modelled.compare()

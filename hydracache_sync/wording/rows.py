"""Rows of the outbox, and the life of one, in the words of an operator."""

from __future__ import annotations

from typing import NamedTuple

from hydracache_sync.outbox.history import RowEvent, RowEventKind
from hydracache_sync.outbox.row import (
    OutboxRow,
    OutboxState,
    OutboxStatus,
    PendingPhase,
)
from hydracache_sync.printable import printable, without_passwords

#: Said where older entries are missing.
CUT = "Older entries were dropped: a row keeps the last 4096 bytes of its history."

_WORDS = {
    RowEventKind.FAILED: "attempt failed, to be tried again",
    RowEventKind.DEAD: "attempt failed, given up as a dead letter",
    RowEventKind.WAITS: "put off, waits for its cache",
    RowEventKind.EXPIRED: "claim ran out, the worker crashed or hung",
    RowEventKind.RETRIED: "retried by an operator",
    RowEventKind.AGAIN: "enqueued again under its commit position",
}


class LifeEntry(NamedTuple):
    """One line of a row's life.

    :ivar at_ms: Unix milliseconds; in the future for what is still to come.
    :ivar who: the worker or the operator; empty if not known.
    :ivar error: empty if there was none.
    """

    at_ms: int
    what: str
    who: str = ""
    error: str = ""


def life_of(row: OutboxRow) -> list[LifeEntry]:
    """Return what is known of a row's life, in its order."""
    history = row.history
    events = history.events if history is not None else ()
    found = [_entry(event) for event in events]
    if not any(
        event.kind is RowEventKind.AGAIN and event.at_ms == row.created_at_ms
        for event in events
    ):
        found.insert(0, LifeEntry(row.created_at_ms, "enqueued"))
    if row.claimed_at_ms is not None:
        found.append(LifeEntry(row.claimed_at_ms, "claimed", row.claim_owner or ""))
    elif row.is_published:
        found.append(LifeEntry(row.available_at_ms, "published"))
    elif not row.is_dead_lettered and events:
        found.append(LifeEntry(row.available_at_ms, "due"))
    # One that is dated ahead comes where its moment is; else they are in this order.
    return sorted(found, key=lambda entry: entry.at_ms)


def _entry(event: RowEvent) -> LifeEntry:
    what = _WORDS[event.kind]
    if event.kind is RowEventKind.WAITS and event.node:
        what = f"put off, waits for node {event.node}"
    return LifeEntry(event.at_ms, what, event.who, without_passwords(event.error))


def phase_of(row: OutboxRow, now_ms: int) -> PendingPhase | None:
    """What a pending row waits for; None for a row that is finished."""
    if row.state is not OutboxState.PENDING:
        return None
    if row.claim_until_ms is not None and row.claim_until_ms > now_ms:
        return PendingPhase.CLAIMED
    if row.available_at_ms > now_ms:
        return PendingPhase.BACKOFF
    return PendingPhase.DUE


def state_of(row: OutboxRow, now_ms: int) -> str:
    phase = phase_of(row, now_ms)
    if phase is not None:
        return phase.value
    return row.state.value if row.state is not None else "unknown"


def target_of(row: OutboxRow) -> str:
    """What the row invalidates, in the words of ``hydracache invalidate``."""
    intent = row.intent
    if intent is None:
        return "(malformed)"
    words = [intent.kind, intent.entity_name, intent.value]
    return printable(" ".join(word for word in words if word is not None))


def count_of(count: int, status: OutboxStatus) -> str:
    """One of the counts of ``status``; with a "+" where they were not all counted."""
    # If it stopped, it has counted as many of one of these as there may be.
    cap = max(status.pending, status.dead_lettered)
    return f"{count}{'+' if status.capped and count == cap else ''}"

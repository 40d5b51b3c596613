"""The whole life of one row, for people: from its enqueue to what it is in now."""

from __future__ import annotations

from typing import Any, NamedTuple

from hydracache_sync.outbox.history import RowEvent, RowEventKind
from hydracache_sync.outbox.row import OutboxRow
from hydracache_sync.passwords import without_passwords

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


def history_objects(row: OutboxRow) -> dict[str, Any]:
    """What JSON says of the history of a row that was read with it."""
    history = row.history
    if history is None:
        return {}
    return {
        "history": [
            {**event._asdict(), "kind": event.kind.value} for event in history.events
        ],
        "history_is_whole": history.is_whole,
    }


def _entry(event: RowEvent) -> LifeEntry:
    what = _WORDS[event.kind]
    if event.kind is RowEventKind.WAITS and event.node:
        what = f"put off, waits for node {event.node}"
    return LifeEntry(event.at_ms, what, event.who, without_passwords(event.error))

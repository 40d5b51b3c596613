"""Rows of the outbox, printed as tables, in detail, and as JSON."""

from __future__ import annotations

import json
from typing import Any, Iterable, Sequence

import click

from hydracache_sync.cli.exit_codes import ExitCode
from hydracache_sync.cli.streams import reader_is_gone
from hydracache_sync.cli.tables import in_lines, on_terminal, print_table
from hydracache_sync.outbox.row import OutboxRow, OutboxState
from hydracache_sync.printable import printable
from hydracache_sync.wording.moments import both, duration, utc
from hydracache_sync.wording.rows import CUT, life_of, state_of, target_of


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


#: Rows that are read and printed at once, whatever the limit.
PAGE = 500

HEADINGS = (
    "id",
    "namespace",
    "invalidates",
    "state",
    "age",
    "attempts",
    "last error",
)


def print_rows(rows: Sequence[OutboxRow], now_ms: int, *, as_json: bool) -> None:
    """Print one page: a table, or one JSON object a line.

    :raises click.exceptions.Exit: its reader has gone, as after ``| head``.
    """
    if as_json:
        for row in rows:
            click.echo(json.dumps(as_object(row, now_ms)))
    elif rows:
        print_table(
            HEADINGS,
            [_record(row, now_ms) for row in rows],
            ["red" if row.is_dead_lettered else None for row in rows],
        )
    if reader_is_gone():
        raise click.exceptions.Exit(ExitCode.DONE)


def _record(row: OutboxRow, now_ms: int) -> tuple[str, ...]:
    return (
        str(row.id),
        printable(row.namespace),
        target_of(row),
        state_of(row, now_ms),
        duration(max(0, now_ms - row.created_at_ms) / 1000),
        str(row.attempts),
        printable(row.last_error or "-"),
    )


def as_object(row: OutboxRow, now_ms: int) -> dict[str, Any]:
    intent = row.intent
    return {
        "id": row.id,
        "row_id": row.row_id,
        "namespace": row.namespace,
        "commit_position": str(row.commit_position),
        "kind": intent and intent.kind,
        "entity_name": intent and intent.entity_name,
        "value": intent and intent.value,
        "reason": row.reason,
        "state": row.state.value if row.state is not None else None,
        "phase": state_of(row, now_ms),
        "created_at_ms": row.created_at_ms,
        "at_ms": row.available_at_ms,
        "attempts": row.attempts,
        "waits_for": row.waits_for,
        "abandoned": row.was_abandoned,
        "last_error": row.last_error,
        "traceparent": row.traceparent,
        "claim_owner": row.claim_owner,
        "claimed_at_ms": row.claimed_at_ms,
        "claim_until_ms": row.claim_until_ms,
    }


def print_details(row: OutboxRow, now_ms: int) -> None:
    """Print everything that is known of one row."""
    moments = {
        OutboxState.PENDING: "due",
        OutboxState.PUBLISHED: "published",
        OutboxState.DEAD: "dead since",
    }
    state = state_of(row, now_ms)
    found: list[tuple[str, str | None]] = [
        ("namespace", printable(row.namespace)),
        ("invalidates", target_of(row)),
        ("state", state),
        ("reason", printable(row.reason) or "-"),
        ("commit position", printable(str(row.commit_position))),
        ("created", _at(row.created_at_ms, now_ms)),
        (
            moments[row.state] if row.state is not None else "moment",
            _at(row.available_at_ms, now_ms),
        ),
        ("attempts", str(row.attempts)),
        ("waits for", row.waits_for and f"node {printable(row.waits_for)}"),
        ("abandoned", "its last claim expired" if row.was_abandoned else None),
        ("last error", printable(row.last_error or "-")),
        ("trace", row.traceparent and printable(row.traceparent)),
        ("claimed by", row.claim_owner and printable(row.claim_owner)),
        ("claimed", _at(row.claimed_at_ms, now_ms)),
        ("claim ends", _at(row.claim_until_ms, now_ms)),
        ("row id", row.row_id),
        ("target hash", row.target_hash),
    ]
    click.echo(f"row {row.id}")
    width = max(len(name) for name, _ in found)
    for name, text in found:
        if text:
            start = f"  {name.ljust(width)}  "
            click.echo(start + in_lines(printable(text), len(start)))
    _print_life(row, now_ms)


def _print_life(row: OutboxRow, now_ms: int) -> None:
    click.echo("  history")
    if row.history is not None and not row.history.is_whole:
        click.echo("    " + in_lines(CUT, 4))
    for entry in life_of(row):
        by = f", by {entry.who}" if entry.who else ""
        error = f": {entry.error}" if entry.error else ""
        text = f"{_at(entry.at_ms, now_ms)}  {entry.what}{by}{error}"
        click.echo("    " + in_lines(printable(text), 6))


def _at(moment_ms: int | None, now_ms: int) -> str | None:
    if moment_ms is None:
        return None
    return f"{both(moment_ms)}, {_ago(moment_ms, now_ms)}"


def when(moment_ms: int, now_ms: int) -> str:
    """Say when something was: how long ago on a terminal, and else by the clock.

    What goes into a log or a mail is read later.
    """
    return _ago(moment_ms, now_ms) if on_terminal() else utc(moment_ms)


def _ago(moment_ms: int, now_ms: int) -> str:
    ago = (now_ms - moment_ms) / 1000
    return f"{duration(ago)} ago" if ago >= 0 else f"in {duration(-ago)}"


def pages(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    for start in range(0, len(ids), PAGE):
        yield ids[start : start + PAGE]

"""``hydracache status``: what waits in the outbox, and an exit code for monitors."""

from __future__ import annotations

import json
from typing import Mapping, NamedTuple, Sequence

import click

from hydracache_sync.app import settings
from hydracache_sync.cli.exit_codes import ExitCode, listed
from hydracache_sync.cli.logs import is_quiet, logging_options
from hydracache_sync.cli.moments import duration, utc
from hydracache_sync.cli.options import (
    json_option,
    namespace_option,
    setting_option,
    with_outbox,
)
from hydracache_sync.cli.row_output import count_of
from hydracache_sync.cli.tables import print_table
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import OutboxStatus
from hydracache_sync.printable import printable

_HEADINGS = (
    "namespace",
    "pending",
    "oldest pending",
    "dead letters",
    "failed attempts",
    "last published",
)


#: Milliseconds by which rows may be dated ahead without a word.
AHEAD_MS = 1000

#: Namespaces that are shown where another was asked for in vain.
SHOWN = 10


class Thresholds(NamedTuple):
    """What is still in order; None is no limit. Seconds and rows."""

    max_age: float | None
    max_pending: int | None
    max_dead: int | None

    def alerts(self, status: OutboxStatus) -> list[str]:
        """Say which of them ``status`` has crossed."""
        alerts = []
        age = status.oldest_pending_age_ms / 1000
        if self.max_age is not None and age > self.max_age:
            alerts.append(
                f"the oldest pending row is {duration(age)} old, more than"
                f" {settings.MAX_AGE.option} {self.max_age:g}"
            )
        ahead = status.ahead_ms / 1000
        if self.max_age is not None and ahead > self.max_age:
            # As old as that is wrong: how long it has waited is not known.
            alerts.append(
                f"a pending row is dated {duration(ahead)} ahead, more than"
                f" {settings.MAX_AGE.option} {self.max_age:g}"
            )
        for count, limit, what, setting in (
            (status.pending, self.max_pending, "pending", settings.MAX_PENDING),
            (status.dead_lettered, self.max_dead, "dead", settings.MAX_DEAD),
        ):
            if limit is not None and count > limit:
                shown = count_of(count, status)
                alerts.append(f"{shown} {what}, more than {setting.option} {limit}")
        return alerts


@click.command(
    epilog=listed(
        ExitCode.DONE,
        ExitCode.FAILED,
        ExitCode.USAGE,
        ExitCode.OUTBOX_AWAY,
        ExitCode.SCHEMA,
        ExitCode.ALERT,
    ),
)
@with_outbox
@namespace_option
@setting_option(settings.MAX_AGE)
@setting_option(settings.MAX_PENDING)
@setting_option(settings.MAX_DEAD)
@click.option(
    "--must-exist",
    is_flag=True,
    help="Alert for a namespace that has no row at all, as a misspelt one.",
)
@json_option
@logging_options
@click.pass_context
def status(
    ctx: click.Context,
    *,
    outbox: InvalidationOutbox,
    namespace: Sequence[str],
    max_age: float | None,
    max_pending: int | None,
    max_dead: int | None,
    must_exist: bool,
    as_json: bool,
) -> None:
    """Show what waits, and alert when it is too much or too old.

    Counts are exact up to 10000 of each state; beyond that, counts and ages are at
    least what is shown, and "capped" is true.
    """
    thresholds = Thresholds(max_age, max_pending, max_dead)
    found = {name: outbox.status(name) for name in dict.fromkeys(namespace)}
    alerts = {name: thresholds.alerts(each) for name, each in found.items()}
    empty = [name for name, each in found.items() if _has_no_row(each)]
    if must_exist:
        for name in empty:
            alerts[name].append("it has no row at all")
    code = ExitCode.ALERT if any(alerts.values()) else ExitCode.DONE
    if as_json:
        namespaces = [
            {
                "namespace": name,
                **each._asdict(),
                "empty": name in empty,
                "alerts": alerts[name],
            }
            for name, each in found.items()
        ]
        click.echo(json.dumps({"exit_code": code.value, "namespaces": namespaces}))
    else:
        if not is_quiet(ctx):
            print_table(
                _HEADINGS, [_record(name, each) for name, each in found.items()]
            )
            _print_pauses(outbox, found)
            _print_ahead(found)
            _print_empty(outbox, empty)
        for name, texts in alerts.items():
            for text in texts:
                click.echo(f"ALERT {name}: {text}")
    ctx.exit(code)


def _record(name: str, status: OutboxStatus) -> tuple[str, ...]:
    published = "none kept"
    if status.last_published_at_ms is not None:
        published = utc(status.last_published_at_ms)
    age = duration(status.oldest_pending_age_ms / 1000)
    return (
        name,
        count_of(status.pending, status),
        age + ("+" if status.capped else "") if status.pending else "-",
        count_of(status.dead_lettered, status),
        f"{status.failed_attempts}{'+' if status.capped else ''}",
        published,
    )


def _has_no_row(status: OutboxStatus) -> bool:
    """Whether it never had one, or all were published and purged."""
    return not (
        status.pending
        or status.dead_lettered
        or status.last_published_at_ms is not None
    )


def _print_ahead(found: Mapping[str, OutboxStatus]) -> None:
    for name, each in found.items():
        if each.ahead_ms > AHEAD_MS:
            click.echo(
                f"{printable(name)} has rows that are dated up to"
                f" {duration(each.ahead_ms / 1000)} ahead: a producer's clock is wrong,"
                " or its session has SET timestamp"
            )


def _print_empty(outbox: InvalidationOutbox, empty: Sequence[str]) -> None:
    if not empty:
        return
    there = [printable(name) for name in outbox.namespaces()]
    others = f"; there are {', '.join(there[:SHOWN])}" if there else ""
    if len(there) > SHOWN:
        others += f" and {len(there) - SHOWN} more"
    for name in empty:
        click.echo(
            f"{printable(name)} has no row at all: none was ever written, or all are"
            f" purged{others}"
        )


def _print_pauses(
    outbox: InvalidationOutbox, found: Mapping[str, OutboxStatus]
) -> None:
    if all(each.paused_since_ms is None for each in found.values()):
        return
    reasons = outbox.paused()
    for name, each in found.items():
        if each.paused_since_ms is not None:
            pause = reasons.get(name)
            reason = f": {printable(pause.reason)}" if pause and pause.reason else ""
            click.echo(f"{name} is paused since {utc(each.paused_since_ms)}{reason}")

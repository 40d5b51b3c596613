"""``hydracache status``: what waits in the outbox, and an exit code for monitors."""

from __future__ import annotations

import json
from typing import Mapping, NamedTuple, Sequence

import click

from hydracache_sync.app import settings
from hydracache_sync.cache.diagnostics import CacheDiagnostics
from hydracache_sync.cli.exit_codes import ExitCode, of_outbox
from hydracache_sync.cli.logs import is_quiet, logging_options
from hydracache_sync.cli.options import (
    json_option,
    namespace_option,
    setting_option,
    with_outbox,
)
from hydracache_sync.cli.row_output import when
from hydracache_sync.cli.tables import in_lines, on_terminal, print_table
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import OutboxStatus
from hydracache_sync.outbox.watermark import Watermark
from hydracache_sync.outbox.workers import WorkerProcess
from hydracache_sync.printable import printable
from hydracache_sync.wording.carriers import (
    HEADINGS,
    LISTED,
    cache_counts,
    cache_object,
    hit_rate_text,
    object_of,
    record_of,
    uncarried,
    versions_of,
)
from hydracache_sync.wording.moments import counted, duration, utc
from hydracache_sync.wording.rows import count_of

_STATUS_HEADINGS = (
    "namespace",
    "pending",
    "oldest pending",
    "dead letters",
    "failed attempts",
    "last published",
)


#: Milliseconds by which rows may be dated ahead without a word.
AHEAD_MS = 1000

#: Namespaces that are shown where the requested one does not exist.
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
    epilog=of_outbox(ExitCode.ALERT),
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
    """Show pending rows and their workers; alert when they are too many or too old.

    Counts are exact up to 10000 of each state; beyond that, counts and ages are at
    least what is shown, and "capped" is true.
    """
    thresholds = Thresholds(max_age, max_pending, max_dead)
    found = {name: outbox.status(name) for name in dict.fromkeys(namespace)}
    marks = {name: outbox.watermark(name) for name in found}
    alerts = {name: thresholds.alerts(each) for name, each in found.items()}
    processes = [
        each
        for each in outbox.workers()
        if not found.keys().isdisjoint(each.namespaces)
    ]
    silent = {name: uncarried(name, each, processes) for name, each in found.items()}
    caches = {name: cache_counts(name, processes) for name in found}
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
                "published_before_ms": marks[name].moment_ms,
                "empty": name in empty,
                "alerts": alerts[name],
                "uncarried": silent[name],
                "cache": cache_object(caches[name]),
            }
            for name, each in found.items()
        ]
        workers = [object_of(each) for each in processes]
        shown = {"namespaces": namespaces, "workers": workers}
        click.echo(json.dumps({"exit_code": code.value, **shown}))
    else:
        if not is_quiet(ctx):
            now_ms = outbox.now_ms()
            print_table(
                _STATUS_HEADINGS,
                [_record(name, each, now_ms) for name, each in found.items()],
                ["red" if each.dead_lettered else None for each in found.values()],
            )
            for name, mark in marks.items():
                if name in empty:
                    continue
                click.echo(in_lines(f"{printable(name)}: {published_before(mark)}"))
            _print_pauses(outbox, found, now_ms)
            _print_ahead(found)
            _print_caches(caches)
            for name, text in silent.items():
                if text is not None:
                    click.secho(in_lines(f"{printable(name)}: {text}"), fg="yellow")
            _print_empty(outbox, empty)
            _print_carriers(processes, now_ms)
        for name, texts in alerts.items():
            for text in texts:
                click.secho(in_lines(f"ALERT {name}: {text}"), fg="red")
    ctx.exit(code)


def _record(name: str, status: OutboxStatus, now_ms: int) -> tuple[str, ...]:
    published = "none kept"
    if status.last_published_at_ms is not None:
        published = when(status.last_published_at_ms, now_ms)
    age = duration(status.oldest_pending_age_ms / 1000)
    return (
        name,
        count_of(status.pending, status),
        age + ("+" if status.capped else "") if status.pending else "-",
        count_of(status.dead_lettered, status),
        f"{status.failed_attempts}{'+' if status.capped else ''}",
        published,
    )


def published_before(mark: Watermark) -> str:
    """Say until when everything is published."""
    if mark.moment_ms is None:
        return "until when everything committed is published is not known at the moment"
    held = counted(mark.dead_letters, "dead letter")
    by = f", held back by {held}" if mark.dead_letters else ""
    return f"everything committed before {utc(mark.moment_ms)} is published{by}"


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
            text = (
                f"{printable(name)} has rows that are dated up to"
                f" {duration(each.ahead_ms / 1000)} ahead: a producer's clock is wrong,"
                " or its session has SET timestamp"
            )
            click.secho(in_lines(text), fg="yellow")


def _print_caches(caches: Mapping[str, CacheDiagnostics]) -> None:
    for name, found in caches.items():
        text = hit_rate_text(found)
        if text is not None:
            click.echo(in_lines(f"{printable(name)}: {text}"))


def _print_carriers(processes: Sequence[WorkerProcess], now_ms: int) -> None:
    running = [each for each in processes if each.is_running]
    if running:
        click.echo()
        shown = running[:LISTED]
        print_table(HEADINGS, [record_of(each, now_ms) for each in shown])
    if len(running) > LISTED:
        click.echo(f"and {len(running) - LISTED} more, which --json lists")
    versions = sorted(versions_of(running))
    if len(versions) > 1:
        text = f"they are of several versions: {printable(', '.join(versions))}"
        click.secho(in_lines(text), fg="yellow")


def _print_empty(outbox: InvalidationOutbox, empty: Sequence[str]) -> None:
    if not empty:
        return
    there = [printable(name) for name in outbox.namespaces()]
    others = f"; there are {', '.join(there[:SHOWN])}" if there else ""
    if len(there) > SHOWN:
        others += f" and {len(there) - SHOWN} more"
    for name in empty:
        text = (
            f"{printable(name)} has no row at all: none was ever written, or all are"
            f" purged{others}"
        )
        click.echo(in_lines(text))


def _print_pauses(
    outbox: InvalidationOutbox, found: Mapping[str, OutboxStatus], now_ms: int
) -> None:
    if all(each.paused_since_ms is None for each in found.values()):
        return
    reasons = outbox.paused()
    for name, each in found.items():
        if each.paused_since_ms is not None:
            pause = reasons.get(name)
            reason = f": {printable(pause.reason)}" if pause and pause.reason else ""
            since = f"since {utc(each.paused_since_ms)}"
            if on_terminal():
                since = f"for {duration(max(0, now_ms - each.paused_since_ms) / 1000)}"
            text = f"{printable(name)} is paused {since}{reason}"
            click.secho(in_lines(text), fg="yellow")

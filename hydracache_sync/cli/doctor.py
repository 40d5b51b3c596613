"""``hydracache doctor``: look at everything at once, and say what to fix."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from typing import Any, Iterable, Iterator, Sequence

import click

from hydracache_sync import __version__
from hydracache_sync.app import build, contradictions, settings
from hydracache_sync.app.app_settings import APP_SETTINGS, misspelt
from hydracache_sync.app.setting import Setting
from hydracache_sync.cli.cache_checks import examine_nodes, examine_watermark
from hydracache_sync.cli.exit_codes import ExitCode, of_outbox
from hydracache_sync.cli.findings import Finding, Level, ok, warning
from hydracache_sync.cli.logs import is_quiet, logging_options
from hydracache_sync.cli.options import (
    is_given,
    json_option,
    setting_option,
    with_outbox,
    with_settings,
)
from hydracache_sync.cli.outbox_checks import examine_outbox
from hydracache_sync.cli.ring_checks import examine_published
from hydracache_sync.cli.tables import in_lines
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.memcached.store import MemcachedStore
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.privileges import ROLES
from hydracache_sync.printable import printable, without_passwords

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}

#: What stands before a finding's text is as wide.
_INDENT = 9


@click.command(epilog=of_outbox(ExitCode.CACHE_AWAY, ExitCode.ALERT))
@with_outbox
@setting_option(settings.NAMESPACE)
@with_settings(*build.OF_STORE, *build.OF_PREVIOUS, settings.MAX_STALENESS)
@setting_option(settings.STRICT)
@click.option(
    "--role",
    type=click.Choice(list(ROLES)),
    default="worker",
    show_default=True,
    help="What this login is for: what it lacks for that is a problem.",
)
@json_option
@logging_options
@click.pass_context
def doctor(
    ctx: click.Context,
    *,
    outbox: InvalidationOutbox,
    namespace: Sequence[str],
    values: dict[Setting, Any],
    strict: tuple[str, ...],
    role: str,
    as_json: bool,
) -> None:
    """Examine database, memcached and settings; say what to fix.

    Changes nothing, and goes on after a problem. Warnings do not count for the exit
    code. Without --memcached no node is asked, without --namespace every one that the
    outbox has is looked at.
    """
    names = list(dict.fromkeys(namespace))
    for text in contradictions.store_contradictions(
        values, lambda setting: setting.option
    ):
        raise click.UsageError(text)
    found: list[Finding] = []
    with contextlib.ExitStack() as stack:
        stores = [build.store(values), *build.previous_stores(values)]
        # Made of text: no objects of an app.
        nodes = [each for each in stores if isinstance(each, MemcachedStore)]
        for each in nodes:
            stack.callback(each.close)
        given = [each for each in values if is_given(ctx, each)]
        unread = contradictions.without_servers(
            values, given, lambda setting: setting.option
        )
        bound = values[settings.MAX_STALENESS]
        for finding in _examine(outbox, nodes, names, strict, role, unread, bound):
            finding = finding._replace(text=without_passwords(finding.text))
            found.append(finding)
            # One by one: something that hangs shows what was found before.
            if not as_json and not (is_quiet(ctx) and finding.level is Level.OK):
                _print(finding)
    code = max((finding.code for finding in found), default=ExitCode.DONE)
    if as_json:
        findings = [
            {**finding._asdict(), "level": finding.level.value, "code": finding.code}
            for finding in found
        ]
        click.echo(json.dumps({"exit_code": code.value, "findings": findings}))
    elif not is_quiet(ctx):
        levels = [finding.level for finding in found]
        click.echo(
            f"problems: {levels.count(Level.PROBLEM)},"
            f" warnings: {levels.count(Level.WARNING)}"
        )
    ctx.exit(code)


def _examine(
    outbox: InvalidationOutbox,
    stores: Sequence[MemcachedStore],
    namespaces: Sequence[str],
    strict: Sequence[str],
    role: str,
    unread: Iterable[str],
    bound: float | None,
) -> Iterator[Finding]:
    yield ok("versions", f"hydracache_sync {__version__}, Python {_python()}")
    for name, meant in misspelt(os.environ):
        mend = f"write {meant}" if meant else "take it away: it has no effect"
        yield warning("settings", f"there is no setting {name}", mend)
    for setting in APP_SETTINGS:
        # No command reads them; an app that takes its settings from here does.
        given = os.environ.get(setting.variable)
        try:
            if given is not None:
                setting.parse(given)
        except (ValueError, ConfigurationError) as exc:
            yield warning(
                "settings",
                f"{setting.variable}: {exc}",
                "correct it, or take it away: no app would start with it",
            )
    for text in unread:
        yield warning("settings", text, "name the servers, or take it away")
    for name in strict:
        if name not in namespaces:
            yield warning(
                "settings",
                f"--strict {printable(name)} is not among the namespaces",
                "name it by --namespace too: workers and drains refuse to start",
            )
    yield from examine_outbox(outbox, namespaces, role)
    if not stores:
        yield ok("nodes", "not asked: --memcached names none")
        return
    current, *previous = stores
    yield from examine_nodes(current, namespaces, strict)
    for name in namespaces:
        yield from examine_published(outbox, current, name)
    if bound is not None:
        for store in stores:
            for name in namespaces:
                yield from examine_watermark(store, name, bound)
    # While somebody reads by the list before, rows wait for its nodes, too.
    seen = set(current.ping())
    for store in previous:
        for finding in examine_nodes(store, (), ()):
            if finding.check.partition(" ")[2] not in seen:
                yield finding


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()}"


def _print(finding: Finding) -> None:
    level = finding.level.value
    if finding.level is not Level.OK:
        level = level.upper()
    # A server's own words may be in both.
    text = in_lines(printable(f"{finding.check}: {finding.text}"), _INDENT)
    click.echo(f"{click.style(level.ljust(8), fg=_COLOURS[finding.level])} {text}")
    if finding.mend is not None:
        mark = f"{' ' * _INDENT}-> "
        click.echo(mark + in_lines(printable(finding.mend), len(mark)))

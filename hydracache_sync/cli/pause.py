"""``hydracache pause``, ``resume`` and ``paused``: hold a namespace's rows back."""

from __future__ import annotations

import json
from typing import Sequence

import click

from hydracache_sync.cli.exit_codes import of_outbox
from hydracache_sync.cli.logs import is_quiet, logging_options
from hydracache_sync.cli.misspelt import near, warn_of_unknown
from hydracache_sync.cli.options import (
    REASON,
    json_option,
    namespaces_argument,
    with_outbox,
)
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.printable import printable
from hydracache_sync.wording.moments import both

_EXIT_CODES = of_outbox()


@click.command(epilog=_EXIT_CODES)
@namespaces_argument
@click.option(
    "--reason",
    type=REASON,
    default="",
    metavar="TEXT",
    help="For those who find it paused.",
)
@with_outbox
@logging_options
@click.pass_context
def pause(
    ctx: click.Context,
    *,
    outbox: InvalidationOutbox,
    namespaces: Sequence[str],
    reason: str,
) -> None:
    """Leave the rows of namespaces where they are, until they are resumed.

    Every worker and drain, on every host, takes none of them from its next claim on.
    Batches in flight are finished. Apps go on enqueueing, and go on publishing their
    own commits where they do.
    """
    for name in namespaces:
        warn_of_unknown(outbox, name)
        outbox.pause(name, reason)
        if not is_quiet(ctx):
            click.echo(f"{name} is paused; `hydracache resume {name}` ends it")


@click.command(epilog=_EXIT_CODES)
@namespaces_argument
@with_outbox
@logging_options
@click.pass_context
def resume(
    ctx: click.Context, *, outbox: InvalidationOutbox, namespaces: Sequence[str]
) -> None:
    """Have the rows of paused namespaces applied again."""
    for name in namespaces:
        was_paused = outbox.resume(name)
        meant = "" if was_paused else near(name, outbox.paused())
        if meant:
            text = f"Warning: {printable(name)} was not paused{meant}, which is?"
            click.echo(text, err=True)
        if not is_quiet(ctx):
            click.echo(f"{name} {'is resumed' if was_paused else 'was not paused'}")


@click.command(epilog=_EXIT_CODES)
@with_outbox
@json_option
@logging_options
def paused(*, outbox: InvalidationOutbox, as_json: bool) -> None:
    """List the namespaces that are paused, since when and why."""
    found = outbox.paused()
    if as_json:
        namespaces = [
            {"namespace": name, **pause._asdict()} for name, pause in found.items()
        ]
        click.echo(json.dumps({"exit_code": 0, "namespaces": namespaces}))
    else:
        for name, pause in found.items():
            reason = f": {printable(pause.reason)}" if pause.reason else ""
            click.echo(f"{printable(name)} since {both(pause.since_ms)}{reason}")
        if not found:
            click.echo("no namespace is paused")

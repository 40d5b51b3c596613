"""``hydracache purge``: delete rows that were published long ago."""

from __future__ import annotations

import json
import math
import time
from typing import Callable, Iterable, Sequence

import click

from hydracache_sync.app import settings
from hydracache_sync.cli.exit_codes import ExitCode, of_outbox
from hydracache_sync.cli.logs import is_quiet, logging_options
from hydracache_sync.cli.misspelt import warn_of_unknown
from hydracache_sync.cli.options import (
    DURATION,
    json_option,
    namespace_option,
    setting_option,
    with_outbox,
)
from hydracache_sync.cli.signals import StopOnSignals
from hydracache_sync.outbox.base import InvalidationOutbox

#: Rows of a bite. Each 500 of them commit by themselves, so that producers wait for
#: milliseconds; between two bites a purge looks at the clock and for signals.
BITE = 5000


def purge_in_bites(
    outbox: InvalidationOutbox,
    namespaces: Iterable[str],
    *,
    older_than: float,
    go_on: Callable[[], bool],
    on_bite: Callable[[str, int], None],
) -> bool:
    """Purge a bite of each namespace in turn until nothing is left.

    :param go_on: asked before each bite.
    :param on_bite: told the namespace and the rows deleted.
    :return: whether nothing is left.
    """
    waiting = list(namespaces)
    while waiting:
        for name in list(waiting):
            if not go_on():
                return False
            deleted = outbox.purge_published(name, older_than=older_than, limit=BITE)
            on_bite(name, deleted)
            if deleted < BITE:
                waiting.remove(name)
    return True


@click.command(epilog=of_outbox(ExitCode.ENDED_EARLY))
@with_outbox
@namespace_option
@setting_option(settings.KEEP_PUBLISHED)
@click.option(
    "--older-than",
    type=DURATION,
    metavar="AGE",
    help="In place of --keep-published: 90, 15m, 2h, 3d.",
)
@setting_option(settings.MAX_SECONDS)
@json_option
@logging_options
@click.pass_context
def purge(
    ctx: click.Context,
    *,
    outbox: InvalidationOutbox,
    namespace: Sequence[str],
    keep_published: float,
    older_than: float | None,
    max_seconds: float | None,
    as_json: bool,
) -> None:
    """Delete rows that were published long ago, in small bites.

    Workers and drains do it by themselves; this is for what they have left. A receipt
    can be waited on only as long as its rows are kept.
    """
    age = keep_published if older_than is None else older_than
    purged = dict.fromkeys(namespace, 0)
    done = True

    def count(name: str, deleted: int) -> None:
        purged[name] += deleted

    if age < math.inf:
        deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
        with StopOnSignals() as stop:
            done = purge_in_bites(
                outbox,
                purged,
                older_than=age,
                go_on=lambda: stop.received is None and time.monotonic() < deadline,
                on_bite=count,
            )
    code = ExitCode.DONE if done else ExitCode.ENDED_EARLY
    if as_json:
        namespaces = [{"namespace": name, "purged": n} for name, n in purged.items()]
        click.echo(json.dumps({"exit_code": code.value, "namespaces": namespaces}))
    elif not is_quiet(ctx):
        for name, number in purged.items():
            rest = "" if done else "; there may be more"
            click.echo(f"{name}: {number} purged{rest}")
            if not number:
                warn_of_unknown(outbox, name)
    ctx.exit(code)

"""``hydracache invalidate`` and ``flush``: invalidate by hand, through the outbox.

Through it and not past it: what is enqueued here is applied at least once, to every
node, and can be waited for and looked at like any other row.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import asdict
from typing import Any, Callable, Iterable, Sequence

import click

from hydracache_sync.cli.exit_codes import ExitCode, of_outbox
from hydracache_sync.cli.logs import is_quiet, logging_options
from hydracache_sync.cli.misspelt import warn_of_unknown
from hydracache_sync.cli.options import (
    DURATION,
    REASON,
    in_order,
    json_option,
    namespace_option,
    namespaces_argument,
    with_outbox,
)
from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.printable import printable
from hydracache_sync.receipts import InvalidationReceipt
from hydracache_sync.wording.moments import counted
from hydracache_sync.worker.wait import InvalidationWait, WaitOutcome

#: Seconds between two looks of --wait. A person waits, so the database need not be
#: asked a hundred times a second.
POLL_INTERVAL = 0.1

_EXIT_CODES = of_outbox(ExitCode.WAITING, ExitCode.DEAD_LETTERS)


_common_options = in_order(
    click.option(
        "--wait",
        "seconds",
        type=DURATION,
        metavar="SECONDS",
        help="Wait so long until it is published, and say whether it was.",
    ),
    click.option(
        "--reason",
        type=REASON,
        default="by hand",
        show_default=True,
        metavar="TEXT",
        help="Kept with the rows, for operators.",
    ),
    json_option,
    logging_options,
)


def _named(
    ctx: click.Context, param: click.Parameter, value: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    """Refuse an empty text, which is what a variable that is not set leaves."""
    for each in [value] if isinstance(value, str) else value:
        if not each:
            raise click.BadParameter(
                "one is empty. Is a variable unset that should name it? What was cached"
                " under an empty name, the same call in Python invalidates"
            )
    return value


@click.group()
def invalidate() -> None:
    """Invalidate keys, tags, entities or collections by hand.

    Writes rows like those of the apps; a worker or a drain applies them.
    """


@invalidate.command(epilog=_EXIT_CODES)
@click.argument("keys", nargs=-1, required=True, callback=_named)
@with_outbox
@namespace_option
@_common_options
@click.pass_context
def key(ctx: click.Context, /, *, keys: Sequence[str], **options: Any) -> None:
    """Invalidate what is cached under these keys.

    A key is what the app gives to the cache, to the letter. That of a function with
    @cached is its module and the call with all its arguments, as Python writes them:
    'shop.users.profile(42)', or "shop.users.named('ada', None)"; function.key('ada')
    says it. A key that nothing is cached under is no error. Tags need no such care.
    """
    _enqueue(ctx, InvalidationIntent.key, zip(keys), **options)


@invalidate.command(epilog=_EXIT_CODES)
@click.argument("tags", nargs=-1, required=True, callback=_named)
@with_outbox
@namespace_option
@_common_options
@click.pass_context
def tag(ctx: click.Context, /, *, tags: Sequence[str], **options: Any) -> None:
    """Invalidate all that was cached with one of these tags."""
    _enqueue(ctx, InvalidationIntent.tag, zip(tags), **options)


@invalidate.command(epilog=_EXIT_CODES)
@click.argument("entity", callback=_named)
@click.argument("ids", nargs=-1, required=True, callback=_named)
@with_outbox
@namespace_option
@_common_options
@click.pass_context
def entity(
    ctx: click.Context, /, *, entity: str, ids: Sequence[str], **options: Any
) -> None:
    """Invalidate all that shows these entities: `entity user 42 43`."""
    intents = zip(itertools.repeat(entity), ids)
    _enqueue(ctx, InvalidationIntent.entity, intents, **options)


@invalidate.command(epilog=_EXIT_CODES)
@click.argument("names", nargs=-1, required=True, callback=_named)
@with_outbox
@namespace_option
@_common_options
@click.pass_context
def collection(ctx: click.Context, /, *, names: Sequence[str], **options: Any) -> None:
    """Invalidate all that shows these collections."""
    _enqueue(ctx, InvalidationIntent.collection, zip(names), **options)


@click.command(epilog=_EXIT_CODES)
@namespaces_argument
@with_outbox
@_common_options
@click.pass_context
def flush(ctx: click.Context, /, *, namespaces: Sequence[str], **options: Any) -> None:
    """Invalidate everything in namespaces.

    Nothing is deleted from memcached: what was cached before is never served again, so
    that every read goes to the database once.
    """
    intents: Sequence[tuple[str, ...]] = [()]
    _enqueue(ctx, InvalidationIntent.flush, intents, namespace=namespaces, **options)


def _enqueue(
    ctx: click.Context,
    make: Callable[..., InvalidationIntent],
    intents: Iterable[tuple[str, ...]],
    *,
    outbox: InvalidationOutbox,
    namespace: Sequence[str],
    reason: str,
    seconds: float | None,
    as_json: bool,
) -> None:
    try:
        batch = InvalidationIntentBatch(reason)
        for words in intents:
            batch.intent(make(*words))
    except ValueError as exc:
        # Its limits in bytes; nothing was written.
        raise click.UsageError(str(exc)) from exc
    names = list(dict.fromkeys(namespace))
    for name in names:
        warn_of_unknown(outbox, name)
    receipts = [outbox.enqueue(name, batch) for name in names]
    quiet = as_json or is_quiet(ctx)
    if not quiet:
        for receipt in receipts:
            rows = counted(receipt.targets, "row")
            click.echo(
                f"{receipt.namespace}: {rows} enqueued at {receipt.commit_position}"
            )
    outcomes: list[WaitOutcome | None] = [None] * len(receipts)
    if seconds is not None:
        deadline = time.monotonic() + seconds
        for place, receipt in enumerate(receipts):
            outcome = _wait(outbox, receipt, max(0.0, deadline - time.monotonic()))
            outcomes[place] = outcome
            if not quiet:
                click.echo(_line(outbox, receipt, outcome))
    code = max(map(_exit_code, outcomes))
    if as_json:
        _print_json(code, receipts, outcomes)
    ctx.exit(code)


def _wait(
    outbox: InvalidationOutbox, receipt: InvalidationReceipt, seconds: float
) -> WaitOutcome:
    helper = InvalidationWait.local(seconds).poll_interval(POLL_INTERVAL)
    return helper.wait(outbox, receipt)


def _exit_code(outcome: WaitOutcome | None) -> ExitCode:
    if outcome is None or outcome.satisfied:
        return ExitCode.DONE
    return ExitCode.DEAD_LETTERS if outcome.dead_lettered else ExitCode.WAITING


def _line(
    outbox: InvalidationOutbox, receipt: InvalidationReceipt, outcome: WaitOutcome
) -> str:
    name, waited = receipt.namespace, f"{outcome.elapsed_ms / 1000:.1f} s"
    if outcome.satisfied:
        return f"{name}: published after {waited}"
    if outcome.dead_lettered:
        return f"{name}: given up; `hydracache dead list` says why"
    return f"{name}: not published yet after {waited}; {_cause(outbox, receipt)}"


def _cause(outbox: InvalidationOutbox, receipt: InvalidationReceipt) -> str:
    """Why its rows still wait, as far as the outbox knows."""
    if outbox.status(receipt.namespace).paused_since_ms is not None:
        return "the namespace is paused"
    rows = outbox.rows(receipt.namespace, commit_position=receipt.commit_position)
    for row in rows:
        if row.last_error and not row.is_published:
            return printable(row.last_error)
    return "is a worker running?"


def _print_json(
    code: ExitCode,
    receipts: Sequence[InvalidationReceipt],
    outcomes: Sequence[WaitOutcome | None],
) -> None:
    namespaces = []
    for receipt, outcome in zip(receipts, outcomes):
        waited: dict[str, Any] | None = None
        if outcome is not None:
            waited = {**asdict(outcome), "mode": outcome.mode.value}
        namespaces.append(
            {
                "namespace": receipt.namespace,
                "commit_position": str(receipt.commit_position),
                "rows": receipt.targets,
                "receipt": receipt.to_string(),
                "wait": waited,
            }
        )
    click.echo(json.dumps({"exit_code": code.value, "namespaces": namespaces}))

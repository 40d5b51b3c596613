"""``hydracache rows``: look at what waits, and at what was done."""

from __future__ import annotations

import heapq
from typing import Iterator, Sequence

import click

from hydracache_sync.cli.exit_codes import of_outbox
from hydracache_sync.cli.logs import is_quiet, logging_options
from hydracache_sync.cli.misspelt import warn_of_unknown
from hydracache_sync.cli.options import (
    POSITION,
    check_page,
    json_lines_option,
    namespace_option,
    newest_option,
    page_options,
    with_outbox,
)
from hydracache_sync.cli.row_output import PAGE, pages, print_rows
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import OutboxRow, OutboxState, PendingPhase
from hydracache_sync.wording.moments import counted
from hydracache_sync.wording.rows import state_of

#: What --state takes: what a row is in, and for pending rows what they wait for.
_STATES: dict[str, OutboxState | None] = {
    **{state.value: state for state in OutboxState},
    **{phase.value: OutboxState.PENDING for phase in PendingPhase},
    "all": None,
}

_PHASES = {phase.value for phase in PendingPhase}


@click.command(epilog=of_outbox())
@with_outbox
@namespace_option
@click.option(
    "--state",
    type=click.Choice(list(_STATES)),
    default="pending",
    show_default=True,
    help="pending, and of these: due to be claimed, claimed by a worker, or in backoff;"
    " published; dead; all.",
)
@click.option(
    "--position",
    type=POSITION,
    metavar="TEXT",
    help="Only rows of this commit; of any state, unless --state says which.",
)
@page_options
@newest_option
@json_lines_option
@logging_options
@click.pass_context
def rows(
    ctx: click.Context,
    *,
    outbox: InvalidationOutbox,
    namespace: Sequence[str],
    state: str,
    position: str | None,
    limit: int,
    after: int,
    newest: bool,
    as_json: bool,
) -> None:
    """List rows in the order of their enqueues, or the --newest.

    Everything about one of them: `hydracache dead show ID`.
    """
    source = ctx.get_parameter_source("state")
    if position is not None and source is click.core.ParameterSource.DEFAULT:
        state = "all"
    check_page(newest, after)
    now_ms = outbox.now_ms()
    names = list(dict.fromkeys(namespace))
    if newest:
        last = _newest(outbox, names, state, position, limit)
        print_rows(last, now_ms, as_json=as_json)
        if not as_json and not is_quiet(ctx):
            click.echo(f"the newest: {counted(len(last) or 'no', 'row')}")
            _warn_if_none(outbox, names, last)
        return
    found = heapq.merge(
        *(_rows_of(outbox, name, state, position, after, limit) for name in names),
        key=lambda row: row.id,
    )
    shown = 0
    page: list[OutboxRow] = []
    more = False
    for row in found:
        if shown + len(page) == limit:
            more = True
            break
        page.append(row)
        after = row.id
        if len(page) == PAGE:
            print_rows(page, now_ms, as_json=as_json)
            shown, page = shown + len(page), []
    print_rows(page, now_ms, as_json=as_json)
    shown += len(page)
    if not as_json and not is_quiet(ctx):
        rest = f"; there are more, go on with --after {after}" if more else ""
        click.echo(f"{counted(shown or 'no', 'row')}{rest}")
        _warn_if_none(outbox, names, shown)


def _warn_if_none(
    outbox: InvalidationOutbox, namespaces: Sequence[str], found: object
) -> None:
    for name in [] if found else namespaces:
        warn_of_unknown(outbox, name)


def _newest(
    outbox: InvalidationOutbox,
    namespaces: Sequence[str],
    state: str,
    position: str | None,
    limit: int,
) -> list[OutboxRow]:
    """The last rows of them together, latest first."""
    found: list[OutboxRow] = []
    for name in namespaces:
        if position is None and state not in _PHASES:
            found += outbox.rows(name, state=_STATES[state], limit=limit, newest=True)
        else:
            # Of one commit, or in one phase: no statement begins these at the end.
            found += _rows_of(outbox, name, state, position, 0, PAGE)
    return heapq.nlargest(limit, found, key=lambda row: row.id)


def _rows_of(
    outbox: InvalidationOutbox,
    namespace: str,
    state: str,
    position: str | None,
    after: int,
    limit: int,
) -> Iterator[OutboxRow]:
    """Rows of one namespace, read as they are asked for."""
    # Rows of one commit are few, and filtered below.
    if position is None and state in _PHASES:
        ids = outbox.row_ids(namespace, OutboxState.PENDING, phase=PendingPhase(state))
        for some in pages([id for id in ids if id > after]):
            yield from outbox.rows_by_id(namespace, some)
        return
    size = min(limit + 1, PAGE)
    while True:
        page = outbox.rows(
            namespace,
            state=_STATES[state],
            commit_position=position,
            limit=size,
            after=after,
        )
        if state in _PHASES:
            now_ms = outbox.now_ms()
            yield from (row for row in page if state_of(row, now_ms) == state)
        else:
            yield from page
        if len(page) < size:
            return
        after = page[-1].id

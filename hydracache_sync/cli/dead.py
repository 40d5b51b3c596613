"""``hydracache dead``: look at dead letters, and fix or drop them.

A dead letter is a row that was given up. Its namespace has been flushed unless that was
turned off, so that nothing stale is served; what is left is to fix the cause and to
retry the row, or to discard it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Callable, Sequence

import click

from hydracache_sync.cli.exit_codes import ExitCode, of_outbox
from hydracache_sync.cli.logs import is_quiet, logging_options
from hydracache_sync.cli.misspelt import warn_of_unknown
from hydracache_sync.cli.options import (
    DURATION,
    ERROR,
    ROW_ID,
    check_page,
    in_order,
    json_lines_option,
    json_option,
    namespace_option,
    newest_option,
    page_options,
    with_outbox,
)
from hydracache_sync.cli.row_output import (
    as_object,
    history_objects,
    pages,
    print_details,
    print_rows,
)
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import OutboxState
from hydracache_sync.printable import printable
from hydracache_sync.wording.moments import counted
from hydracache_sync.wording.rows import target_of

#: Dead letters that are shown before a question, so that one sees what one changes.
_EXAMPLES = 3

#: Rows that are changed before the next are: an interrupted command stops between.
_AT_ONCE = 5000

_EXIT_CODES = of_outbox()


@dataclass(frozen=True)
class Selection:
    """Which dead letters are meant."""

    ids: Sequence[int]
    everything: bool
    error: str | None
    older_than: float | None

    def check(self) -> None:
        filters = self.error is not None or self.older_than is not None
        if self.ids and (filters or self.everything):
            raise click.UsageError("name ids, or --all, --error and --older-than")
        if not (self.ids or filters or self.everything):
            raise click.UsageError(
                "say which dead letters: ids, --error, --older-than or --all"
            )

    def find(
        self, outbox: InvalidationOutbox, namespaces: Sequence[str]
    ) -> dict[str, list[int]]:
        """Return ids by namespace, each once.

        :raises click.UsageError: one of the ids is no dead letter of these.
        """
        found = {name: self._find_in(outbox, name) for name in namespaces}
        if self.ids:
            known = {id for ids in found.values() for id in ids}
            unknown = [str(id) for id in dict.fromkeys(self.ids) if id not in known]
            if unknown:
                raise click.UsageError(
                    f"no dead letters of {', '.join(found)}: {', '.join(unknown)};"
                    " nothing was done"
                )
        return found

    def _find_in(self, outbox: InvalidationOutbox, namespace: str) -> list[int]:
        if self.ids:
            rows = outbox.rows_by_id(namespace, self.ids)
            return [row.id for row in rows if row.is_dead_lettered]
        return outbox.row_ids(
            namespace,
            OutboxState.DEAD,
            error=self.error,
            older_than=self.older_than,
        )


_filter_options = in_order(
    click.option(
        "--error",
        type=ERROR,
        metavar="TEXT",
        help="Only those whose error has this in it; * stands for any text, and"
        " case matters.",
    ),
    click.option(
        "--older-than",
        type=DURATION,
        metavar="AGE",
        help="Only those that have been dead for so long: 90, 15m, 2h, 3d.",
    ),
)

#: Which dead letters to change, and what answers the question before.
_change_options = in_order(
    click.argument("ids", nargs=-1, type=ROW_ID),
    click.option("--all", "everything", is_flag=True, help="All of these namespaces."),
    _filter_options,
    click.option("--yes", is_flag=True, help="Do it without asking."),
    click.option(
        "--expect",
        type=click.IntRange(min=0),
        metavar="N",
        help="Do it without asking if it is N rows, else do nothing. For scripts.",
    ),
    with_outbox,
    namespace_option,
    json_option,
    logging_options,
)


@click.group()
def dead() -> None:
    """List, show, retry or discard dead letters."""


@dead.command("list", epilog=_EXIT_CODES)
@with_outbox
@namespace_option
@_filter_options
@page_options
@newest_option
@json_lines_option
@logging_options
@click.pass_context
def list_(
    ctx: click.Context,
    *,
    outbox: InvalidationOutbox,
    namespace: Sequence[str],
    error: str | None,
    older_than: float | None,
    limit: int,
    after: int,
    newest: bool,
    as_json: bool,
) -> None:
    """List dead letters in the order of their enqueues, or the --newest."""
    check_page(newest, after)
    selection = Selection((), True, error, older_than)
    found = selection.find(outbox, list(dict.fromkeys(namespace)))
    places = sorted((id for ids in found.values() for id in ids), reverse=newest)
    behind = [id for id in places if id > after]
    now_ms = outbox.now_ms()
    for some in pages(behind[:limit]):
        rows = [row for name in found for row in outbox.rows_by_id(name, some)]
        rows.sort(key=lambda row: row.id, reverse=newest)
        print_rows(rows, now_ms, as_json=as_json)
    if as_json or is_quiet(ctx):
        return
    if not places:
        click.echo("no dead letters")
        for name in found:
            warn_of_unknown(outbox, name)
        return
    shown = f"{min(limit, len(behind))} of {counted(len(places), 'dead letter')}"
    if newest:
        shown = f"the newest: {shown}"
    elif len(behind) > limit:
        shown += f"; go on with --after {behind[limit - 1]}"
    click.echo(shown)


@dead.command(epilog=_EXIT_CODES)
@click.argument("ids", nargs=-1, type=ROW_ID, required=True)
@with_outbox
@json_lines_option
@logging_options
@click.pass_context
def show(
    ctx: click.Context,
    *,
    outbox: InvalidationOutbox,
    ids: Sequence[int],
    as_json: bool,
) -> None:
    """Print everything about rows, dead or not, of any namespace."""
    now_ms = outbox.now_ms()
    code = ExitCode.DONE
    for id in ids:
        row = outbox.row(id)
        if row is None:
            click.echo(f"Error: there is no row {id}", err=True)
            code = ExitCode.FAILED
        elif as_json:
            found = {**as_object(row, now_ms), **history_objects(row)}
            click.echo(json.dumps(found))
        else:
            print_details(row, now_ms)
    ctx.exit(code)


@dead.command(epilog=_EXIT_CODES)
@_change_options
@click.pass_context
def retry(ctx: click.Context, /, **options: Any) -> None:
    """Make dead letters pending again, due now, with all their attempts.

    Fix the cause first: what fails again is dead again.
    """
    _change(ctx, "retry", InvalidationOutbox.reset_dead_letters, **options)


@dead.command(epilog=_EXIT_CODES)
@_change_options
@click.pass_context
def discard(ctx: click.Context, /, **options: Any) -> None:
    """Delete dead letters for good, without applying them.

    What they were to invalidate may stay stale until its TTL, unless the namespace was
    flushed since; `hydracache flush` does it.
    """
    _change(ctx, "discard", InvalidationOutbox.discard_dead_letters, **options)


def _change(
    ctx: click.Context,
    verb: str,
    change: Callable[[InvalidationOutbox, str, Sequence[int]], int],
    *,
    outbox: InvalidationOutbox,
    namespace: Sequence[str],
    ids: Sequence[int],
    everything: bool,
    error: str | None,
    older_than: float | None,
    yes: bool,
    expect: int | None,
    as_json: bool,
) -> None:
    selection = Selection(ids, everything, error, older_than)
    selection.check()
    found = selection.find(outbox, list(dict.fromkeys(namespace)))
    count = sum(map(len, found.values()))
    asked = count and not yes and expect is None
    if asked:
        _show_examples(outbox, found)
    if count or expect is not None:
        letters = counted(count, "dead letter")
        _confirm(f"{verb.capitalize()} {letters}?", count, yes=yes, expect=expect)
    done = dict.fromkeys(found, 0)
    for name, chosen in found.items():
        for start in range(0, len(chosen), _AT_ONCE):
            done[name] += change(outbox, name, chosen[start : start + _AT_ONCE])
    past = {"retry": "retried", "discard": "discarded"}[verb]
    if as_json:
        namespaces = [{"namespace": name, past: done[name]} for name in found]
        click.echo(json.dumps({"exit_code": 0, "namespaces": namespaces}))
    elif not is_quiet(ctx):
        for name, number in done.items():
            # Fewer than were asked about: another operator, or a retry, was faster.
            less = len(found[name]) - number
            rest = f"; {less} were dead no more" if less else ""
            click.echo(f"{name}: {number} {past}{rest}")
            if not found[name]:
                warn_of_unknown(outbox, name)


def _show_examples(outbox: InvalidationOutbox, found: dict[str, list[int]]) -> None:
    for name, ids in found.items():
        if not ids:
            continue
        click.echo(f"{name}: {len(ids)}", err=True)
        for row in outbox.rows_by_id(name, ids[:_EXAMPLES]):
            error = printable(row.last_error or "")
            click.echo(f"  {row.id}  {target_of(row)}  {error}", err=True)
        if len(ids) > _EXAMPLES:
            click.echo(f"  and {len(ids) - _EXAMPLES} more", err=True)


def _confirm(question: str, count: int, *, yes: bool, expect: int | None) -> None:
    """Return if the operator means it.

    :raises click.UsageError: --expect said another number; nothing was done.
    :raises click.Abort: the answer was no, or there was none.
    """
    if expect is not None:
        if expect != count:
            raise click.UsageError(
                f"--expect {expect}, but it is {count}: nothing was done"
            )
        return
    if yes:
        return
    try:
        # On stderr: stdout is for what was done.
        meant = click.confirm(question, err=True)
    except click.Abort:
        click.echo(
            "\nNobody answered: nothing was done. Say --yes, or --expect and how many"
            " it must be",
            err=True,
        )
        raise
    if not meant:
        raise click.Abort()

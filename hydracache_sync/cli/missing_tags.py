"""``hydracache missing-tags``: which tables cached loads read that no tag covers."""

from __future__ import annotations

import click

from hydracache_sync.cli.exit_codes import ExitCode, listed
from hydracache_sync.missing_tags import find_missing_tags
from hydracache_sync.wording.moments import counted

_EXIT_CODES = listed(ExitCode.DONE, ExitCode.FAILED, ExitCode.USAGE)


@click.command("missing-tags", epilog=_EXIT_CODES)
@click.argument("recorded", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--baseline",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Which tags cover which table, and what is accepted without: an INI file.",
)
@click.pass_context
def missing_tags(ctx: click.Context, *, recorded: str, baseline: str) -> None:
    """Find tables that cached loads read and none of their tags covers.

    RECORDED is the file of a StatementRecorder, written in tests. Needs sqlglot, the
    extra `finder`. Ends with 1 if a tag is missing, a statement cannot be read, or
    no statement is there.
    """
    found = find_missing_tags(recorded, baseline)
    for each in found.missing:
        click.echo(str(each))
    for loader, sql in found.unreadable:
        click.echo(f"{loader} ran what cannot be read: {sql}")
    for key in found.unseen:
        click.echo(f"note: the load of {key!r} ran no statement that was recorded")
    if not found.statements:
        click.echo(
            "no load ran a statement that was recorded, so nothing is known: watch the"
            " connections that they read on"
        )
    click.echo(
        f"{counted(found.statements, 'statement')},"
        f" {counted(len(found.missing), 'table')} without a tag,"
        f" {counted(len(found.unreadable), 'statement')} unread"
    )
    ctx.exit(ExitCode.DONE if found.ok else ExitCode.FAILED)

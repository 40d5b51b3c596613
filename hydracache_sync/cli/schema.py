"""``hydracache schema``: the outbox's tables, shown, made, checked."""

from __future__ import annotations

from urllib.parse import urlsplit

import click

from hydracache_sync.app import settings
from hydracache_sync.cli.exit_codes import of_outbox
from hydracache_sync.cli.logs import is_quiet, logging_options
from hydracache_sync.cli.options import setting_option, with_outbox
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.schema import SCHEMA_VERSION, schema_text

#: Those that DDL is packaged for.
DATABASES = ("mysql", "sqlite")

_EXIT_CODES = of_outbox()


@click.group()
def schema() -> None:
    """Show, install or check the outbox's tables."""


@schema.command(epilog=_EXIT_CODES)
@setting_option(settings.OUTBOX)
@setting_option(settings.TABLE)
@click.option(
    "--database",
    type=click.Choice(DATABASES),
    help="Show the DDL for this database, whatever the outbox is.",
)
@logging_options
def show(*, outbox: str | None, table: str, database: str | None) -> None:
    """Print the DDL, for a DBA to read or run. Connects to nothing."""
    if database is None:
        if outbox is None:
            raise click.UsageError(
                f"say which database: --database {' or '.join(DATABASES)}, or give"
                f" {settings.OUTBOX.option} (env var: {settings.OUTBOX.variable})"
            )
        # All other schemes that an outbox may have are spellings of MySQL's.
        database = "sqlite" if urlsplit(outbox).scheme == "sqlite" else "mysql"
    click.echo(schema_text(database, table).rstrip())


@schema.command(epilog=_EXIT_CODES)
@with_outbox
@logging_options
@click.pass_context
def install(ctx: click.Context, *, outbox: InvalidationOutbox) -> None:
    """Create what is missing, the SQLite file too. Harmless to repeat.

    A new SQLite file is for its user alone (0600); one that is there keeps its mode.
    """
    outbox.install_schema()
    if not is_quiet(ctx):
        click.echo(f"{outbox!r} has the tables of version {SCHEMA_VERSION}")


@schema.command(epilog=_EXIT_CODES)
@with_outbox
@logging_options
@click.pass_context
def check(ctx: click.Context, *, outbox: InvalidationOutbox) -> None:
    """Tell whether the tables are there and of this library's version."""
    outbox.check_schema()
    if not is_quiet(ctx):
        click.echo(f"{outbox!r} has the tables of version {SCHEMA_VERSION}")

"""The command ``hydracache``: its commands, and how their errors are shown.

``flask hydracache`` is this group too.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from typing import Any, Iterator, Mapping

import click

from hydracache_sync import __version__
from hydracache_sync.app.app_settings import misspelt
from hydracache_sync.cli.console import console
from hydracache_sync.cli.dead import dead
from hydracache_sync.cli.doctor import doctor
from hydracache_sync.cli.drain import drain
from hydracache_sync.cli.exit_codes import ExitCode, exit_code_of, listed
from hydracache_sync.cli.invalidate import flush, invalidate
from hydracache_sync.cli.logs import shows_tracebacks, start_logging
from hydracache_sync.cli.missing_tags import missing_tags
from hydracache_sync.cli.options import APP_TEXTS, only_of_environment
from hydracache_sync.cli.pause import pause, paused, resume
from hydracache_sync.cli.purge import purge
from hydracache_sync.cli.rows import rows
from hydracache_sync.cli.schema import schema
from hydracache_sync.cli.status import status
from hydracache_sync.cli.streams import prepare_streams
from hydracache_sync.cli.tables import takes_colour
from hydracache_sync.cli.verify import verify
from hydracache_sync.cli.worker import worker
from hydracache_sync.errors import HydraCacheError
from hydracache_sync.printable import printable, printable_lines, without_passwords


class Program(click.Group):
    """A group whose errors are one line each, without passwords, on any streams."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        # Before anything is opened or printed; also where an app lends us its program.
        prepare_streams()
        with _shown():
            ctx = super().make_context(*args, **kwargs)
        if not takes_colour():
            ctx.color = False
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        with _shown(ctx):
            return super().invoke(ctx)


@contextlib.contextmanager
def _shown(ctx: click.Context | None = None) -> Iterator[None]:
    """Turn errors that an operator may meet into one line and an exit code."""
    try:
        yield
    except click.UsageError as exc:
        message = exc.format_message()
        # Click's own lists have several lines.
        shown = printable_lines(without_passwords(message))
        if shown != message.expandtabs(4):
            raise click.UsageError(shown, exc.ctx) from None
        raise
    except (HydraCacheError, OSError) as exc:
        if ctx is not None and shows_tracebacks(ctx):
            text = "".join(
                traceback.format_exception(type(exc), exc, exc.__traceback__)
            )
            click.echo(printable_lines(without_passwords(text)), err=True, nl=False)
        message = without_passwords(str(exc) or repr(exc))
        click.echo(f"Error: {printable(message)}", err=True)
        raise click.exceptions.Exit(exit_code_of(exc)) from exc


@click.group(
    "hydracache",
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=listed(*ExitCode),
)
@click.version_option(__version__, prog_name="hydracache_sync")
@click.pass_context
def hydracache(ctx: click.Context) -> None:
    """Apply committed cache invalidations of the outbox to memcached.

    Every setting is an option of the commands and a variable: --claim-ttl is
    HYDRACACHE_CLAIM_TTL. The option wins. A URL with a password belongs into the
    variable.
    """
    start_logging(ctx)
    for name, meant in misspelt(os.environ):
        hint = f"did you mean {meant}?" if meant else "it has no effect"
        click.echo(f"Warning: there is no setting {printable(name)}: {hint}", err=True)


for _command in (
    worker,
    drain,
    status,
    doctor,
    rows,
    dead,
    invalidate,
    flush,
    pause,
    resume,
    paused,
    purge,
    schema,
    verify,
    missing_tags,
    console,
):
    hydracache.add_command(_command)


def app_commands(texts: Mapping[str, str | None]) -> click.Group:
    """The same commands for an app's own command line, as ``flask hydracache``.

    :param texts: the app's settings by name. They go before the environment, and an
        option before them; None is an object, which a command cannot be given.
    """

    @click.group("hydracache", cls=Program, epilog=hydracache.epilog)
    @click.pass_context
    def group(ctx: click.Context) -> None:
        """Apply the app's committed cache invalidations of the outbox to memcached.

        Settings are those of the app's config.
        """
        start_logging(ctx)
        ctx.meta[APP_TEXTS] = texts
        for setting in only_of_environment(texts, os.environ):
            click.echo(
                f"Warning: {setting.variable} of the environment has no effect: the app"
                " does not read it. Set it in the config of the app",
                err=True,
            )

    for command in hydracache.commands.values():
        group.add_command(command)
    return group

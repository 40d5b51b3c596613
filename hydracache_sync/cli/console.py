"""``hydracache console``: pages that show what the outbox does, for a browser."""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path
from typing import Any, Sequence
from urllib.parse import urlencode

import click

from hydracache_sync.app import settings
from hydracache_sync.app.setting import Setting
from hydracache_sync.cli.exit_codes import ExitCode, listed
from hydracache_sync.cli.logs import logging_options
from hydracache_sync.cli.options import (
    OF_WORKERS,
    with_outbox,
    with_settings,
    workers_of,
)
from hydracache_sync.cli.signals import ENDING, StopOnSignals
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.url import open_outbox

#: Name of the outbox of the settings, beside those of --outboxes.
MAIN = "outbox"

#: Seconds of one wait for the signal that ends it.
_LOOK_INTERVAL = 60.0

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog=listed(ExitCode.DONE, ExitCode.FAILED, ExitCode.USAGE, ExitCode.OUTBOX_AWAY)
)
@with_outbox
@with_settings(settings.NAMESPACE, *OF_WORKERS, settings.STRICT)
@click.option(
    "--outboxes",
    "more",
    type=_FILE,
    metavar="PATH",
    help="File of further outboxes, one a line: a name, a blank, a URL.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on. Other than loopback needs --user.",
)
@click.option(
    "--port",
    type=click.IntRange(0, settings.HIGHEST_PORT),
    default=9322,
    show_default=True,
    help="0 for any.",
)
@click.option("--user", metavar="NAME", help="Log in by this name and --password-file.")
@click.option(
    "--password-file",
    type=_FILE,
    metavar="PATH",
    help="File with the password; a line break at its end is not part of it.",
)
@click.option(
    "--writable",
    is_flag=True,
    help="Let logged-in operators retry, discard, drain, invalidate, pause and resume.",
)
@logging_options
def console(
    *,
    outbox: InvalidationOutbox,
    values: dict[Setting, Any],
    more: Path | None,
    host: str,
    port: int,
    user: str | None,
    password_file: Path | None,
    writable: bool,
) -> None:
    """Serve the operator's pages until a signal ends it. Read-only by default.

    Without --user it prints a link to log in with, which is good for one login; the
    next one is printed then. With --memcached and --namespace it can drain batches and
    knows the circuit breakers of its own connections. Needs the extra `console`.
    """
    try:
        from hydracache_sync.console.login import Logins
        from hydracache_sync.console.server import console_app, listening, serving
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            "hydracache console needs Flask: install hydracache_sync with its extra"
            " 'console'"
        ) from exc
    password = _password(user, password_file)
    if user is None and not _is_loopback(host):
        raise click.UsageError(
            f"--host {host} can be reached by others: give --user and --password-file,"
            " and put it behind a proxy that speaks TLS"
        )
    names: Sequence[str] = values.pop(settings.NAMESPACE)
    strict: Sequence[str] = values.pop(settings.STRICT)
    with contextlib.ExitStack() as stack:
        outboxes = {MAIN: outbox}
        for name, other in _others(more).items():
            outboxes[name] = stack.enter_context(contextlib.closing(other))
        workers = []
        if values[settings.MEMCACHED] is not None:
            workers = stack.enter_context(workers_of(values, outbox, names, strict))
        listener = stack.enter_context(listening(host, port))
        port = listener.getsockname()[1]
        base = f"http://{f'[{host}]' if ':' in host else host}:{port}"

        def announce(token: str) -> None:
            click.echo(f"log in once: {base}/login?{urlencode({'token': token})}")

        # Before the link: its reader may open it at once.
        click.echo(
            f"console at {base}/, {'writable' if writable else 'read-only'};"
            " Ctrl-C ends it"
        )
        logins = Logins(port, user=user, password=password, announce=announce)
        app = console_app(
            outboxes, logins, writable=writable, namespaces=names, workers=workers
        )
        stop = stack.enter_context(StopOnSignals(ENDING))
        stack.enter_context(serving(app, host, listener))
        while stop.received is None:
            stop.wait(_LOOK_INTERVAL)


def _password(user: str | None, path: Path | None) -> str:
    if (user is None) != (path is None):
        raise click.UsageError("--user and --password-file belong together")
    if path is None:
        return ""
    password = _text("--password-file", path)
    password = password[:-1] if password.endswith("\n") else password
    if not user or not password:
        raise click.UsageError("--user and the password in --password-file are empty")
    return password


def _text(option: str, path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as exc:
        raise click.UsageError(
            f"{option} {path} is not UTF-8 at byte {exc.start}"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _others(path: Path | None) -> dict[str, InvalidationOutbox]:
    """Open the outboxes of a file.

    :raises click.UsageError: a line is none of them; it is not shown, for its password.
    """
    found: dict[str, InvalidationOutbox] = {}
    lines = [] if path is None else _text("--outboxes", path).splitlines()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or words[0] in (MAIN, *found):
            raise click.UsageError(
                f"--outboxes {path}, line {number}: write a name that is not used yet,"
                f" a blank and a URL; {MAIN} is the outbox of --outbox"
            )
        found[words[0]] = open_outbox(words[1])
    return found

"""Log lines of the command line: to stderr, with the time, as many as asked for.

And a progress bar between them on a terminal; nothing for cron, pipes and log files.
Only here: the library itself adds no handlers.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, Callable, Iterator, Sequence, TypeVar

import click

from hydracache_sync.outbox.row import OutboxStatus
from hydracache_sync.printable import printable_lines, without_passwords

F = TypeVar("F", bound=Callable[..., Any])

LOGGER = logging.getLogger("hydracache_sync")

#: Where a context keeps how often -v was given; -1 for -q.
_VERBOSITY = "hydracache_sync.verbosity"

_QUIET = -1
_DEBUG = 2
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # Of several lines is a traceback, which quotes what others have said.
        return printable_lines(without_passwords(super().format(record)))


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Looks stderr up at each line, since it may be replaced while a command runs."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def logging_options(command: F) -> F:
    """Give ``command`` the options -v, -q and --debug."""

    def add(*names: str, text: str, **more: Any) -> Callable[[F], F]:
        # Eager: an error in another option must already know how it is to be shown.
        return click.option(
            *names,
            expose_value=False,
            is_eager=True,
            callback=_asked,
            help=text,
            **more,
        )

    for option in (
        add("--debug", text="As -vv.", is_flag=True),
        add(
            "-q",
            "--quiet",
            text="Print only what needs an operator: fit for cron, which mails output.",
            is_flag=True,
        ),
        add(
            "-v",
            "--verbose",
            text="Log more; -vv logs each step and shows tracebacks.",
            count=True,
        ),
    ):
        command = option(command)
    return command


def start_logging(ctx: click.Context) -> None:
    """Send log lines to stderr until ``ctx`` ends.

    Where an app has set up logging already, as a Flask app that lends us its command
    line may have, the lines go where it says.
    """
    level = LOGGER.level
    LOGGER.setLevel(_LEVELS[_verbosity(ctx)])
    ctx.call_on_close(lambda: LOGGER.setLevel(level))
    if not LOGGER.hasHandlers():
        handler = _Stderr()
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOGGER.addHandler(handler)
        ctx.call_on_close(lambda: LOGGER.removeHandler(handler))


def is_quiet(ctx: click.Context) -> bool:
    return _verbosity(ctx) <= _QUIET


def shows_tracebacks(ctx: click.Context) -> bool:
    return _verbosity(ctx) >= _DEBUG


def _verbosity(ctx: click.Context) -> int:
    verbosity: int = ctx.meta.get(_VERBOSITY, 0)
    return verbosity


def _asked(ctx: click.Context, option: click.Parameter, value: int) -> None:
    if not value:
        return
    asked = {"quiet": _QUIET, "debug": _DEBUG}.get(option.name or "")
    if asked is None:
        asked = min(value, _DEBUG)
    before = _verbosity(ctx)
    if before * asked < 0:
        raise click.UsageError("--quiet contradicts --verbose and --debug", ctx)
    ctx.meta[_VERBOSITY] = asked if asked < 0 else max(asked, before)
    LOGGER.setLevel(_LEVELS[_verbosity(ctx)])


@contextlib.contextmanager
def row_progress(
    backlogs: Sequence[OutboxStatus] | None,
) -> Iterator[Callable[[int], None]]:
    """Show how many rows are done, until the block ends.

    :param backlogs: what there is to do; None shows no bar.
    :return: call it with the rows that were done since the last call.
    """
    tqdm = None if backlogs is None else _tqdm()
    if backlogs is None or tqdm is None:
        yield lambda rows: None
        return
    # Counted up to a cap only: then the bar says how far and how fast, not how long.
    total = (
        None
        if any(status.capped for status in backlogs)
        else sum(status.pending for status in backlogs)
    )
    # tqdm's watching thread is for loops that stall; ours ends in seconds or reports.
    tqdm.tqdm.monitor_interval = 0
    with tqdm.tqdm(total=total, unit=" rows", file=sys.stderr) as bar:
        with tqdm.contrib.logging.logging_redirect_tqdm([LOGGER]):
            yield bar.update


def _tqdm() -> Any:
    """The package, or None: without a bar a drain drains all the same."""
    try:
        import tqdm
        import tqdm.contrib.logging
    except ImportError:
        return None
    return tqdm

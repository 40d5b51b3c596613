"""A question before what cannot be undone: how many, and is that what you meant."""

from __future__ import annotations

from typing import Any, Callable, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def confirm_options(command: F) -> F:
    """Give ``command`` the options --yes and --expect."""
    for option in (
        click.option(
            "--expect",
            type=click.IntRange(min=0),
            metavar="N",
            help="Do it without asking if it is N rows, else do nothing. For scripts.",
        ),
        click.option("--yes", is_flag=True, help="Do it without asking."),
    ):
        command = option(command)
    return command


def confirm(question: str, count: int, *, yes: bool, expect: int | None) -> None:
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

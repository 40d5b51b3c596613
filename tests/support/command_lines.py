"""The commands that a page's blocks have typed, as far as a parser can judge them."""

from __future__ import annotations

import re
import shlex
from typing import Iterator

import click

from hydracache_sync.cli.logs import LOGGER
from hydracache_sync.cli.program import hydracache
from support.page_blocks import Block
from support.pasted import commands


class NoSuchCommand(click.UsageError):
    """A group has no command of that name."""


#: Before ``hydracache`` where an app lends its own command line.
OF_APPS = r"(?:flask (?:--app \S+ )?|python manage\.py )?"


def scripts(block: Block) -> list[str]:
    """What a block has typed in a shell, without what it shows."""
    if block.language == "console":
        return [command for command, _ in commands(block.body)]
    # A table of cron has five fields before the command.
    crontab = re.findall(r"^(?:[\d*/,-]+ +){5}(.*)$", block.body, re.M)
    if crontab:
        return crontab
    return [block.body] if block.language == "sh" else []


def spans(text: str) -> list[str]:
    """What a page's sentences and tables have in backticks, without dots for more."""
    sentences = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
    return [
        " ".join(span.replace("\\|", "|").replace("...", "").split())
        for span in re.findall(r"`([^`]+)`", sentences)
    ]


def lines_of(script: str) -> Iterator[list[str]]:
    """The words of each command ``hydracache`` in a script, without this name."""
    for line in script.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\||[;|&]", line):
            program = r"(?:\w+=\S+ +)*(?:sudo )?" + OF_APPS + r"(?:\S*/)?hydracache "
            found = re.match(program, part.strip() + " ")
            if found:
                words = shlex.split(part.strip()[found.end() :], comments=True)
                yield [word for word in words if not word.startswith((">", "2>"))]


def check(words: list[str]) -> None:
    """Parse the words of a command, and run nothing.

    :raises click.UsageError: there is no such command, option or value.
    """
    command: click.Command = hydracache
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            raise NoSuchCommand(f"no command {name!r} of {command.name}")
        command = command.commands[name]
    level = LOGGER.level
    try:
        command.make_context(command.name, rest).close()
    except click.exceptions.Exit:
        pass  # --help and --version have no more to do
    finally:
        # As the program does at its end: --quiet and --verbose set it.
        LOGGER.setLevel(level)

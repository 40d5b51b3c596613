"""Namespaces that may be misspelt: a command that finds nothing of one says so."""

from __future__ import annotations

import difflib
from typing import Iterable

import click

from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.printable import printable


def near(namespace: str, known: Iterable[str]) -> str:
    """Ask for the one of ``known`` that looks like ``namespace``; "" if none does."""
    found = difflib.get_close_matches(namespace, list(known), n=1)
    return f"; did you mean {printable(found[0])}" if found else ""


def warn_of_unknown(outbox: InvalidationOutbox, namespace: str) -> None:
    """Say so if the outbox has no row of it."""
    known = outbox.namespaces()
    if namespace in known:
        return
    meant = near(namespace, known)
    click.echo(
        f"Warning: the outbox has no row of namespace {printable(namespace)}"
        + (f"{meant}?" if meant else " yet: it is new, or misspelt"),
        err=True,
    )

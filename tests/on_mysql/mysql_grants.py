"""The GRANTs of docs/operations/databases.md, for a test's database and user."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from mysql_databases import Database

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations" / "databases.md"

ROLES = ("writer", "producer", "worker", "operator", "installer")


class Grant(NamedTuple):
    """One right of a role.

    :ivar verb: with the columns that it is for, if these are not all.
    :ivar on: a table, or "*".
    """

    verb: str
    on: str


def grants_of(role: str) -> list[Grant]:
    """The rights that the page gives to the user of this role."""
    found = re.findall(
        rf"^grant ([^;]+) on shop\.(\S+) to '{role}'@'%';$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return [
        Grant(" ".join(verb.split()), on)
        for verbs, on in found
        for verb in re.split(r", (?![^(]*\))", verbs)
    ]


def grant(database: Database, user: str, role: str) -> None:
    for each in grants_of(role):
        _change(database, "grant", each, f"to '{user}'@'%'")


def revoke(database: Database, user: str, right: Grant) -> None:
    _change(database, "revoke", right, f"from '{user}'@'%'")


def _change(database: Database, what: str, right: Grant, whose: str) -> None:
    database.sql(f"{what} {right.verb} on `{database.name}`.{right.on} {whose}")

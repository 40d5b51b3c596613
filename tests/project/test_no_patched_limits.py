"""Tests reach the limits that users have: none replaces a constant of the package, or
what is private to a module or class of it."""

from __future__ import annotations

import ast
from pkgutil import resolve_name
from types import ModuleType
from typing import Iterator

import pytest

from support import TESTS

PACKAGE = "hydracache_sync"

#: A name that a test computes: it could be any.
ANY = "*"

#: What is replaced all the same, by the file that does it, each with its reason.
ALLOWED = {
    # Three minutes: too long to wait for. And a clock that jumps ahead ends the calls
    # that are under way, by which connections are replaced, too.
    ("test_mysql_failover.py", "drivers.pymysql_connection.MAX_AGE"),
    # Functions that make parts of an app, by their names in a list.
    ("test_cli.py", f"app.build.{ANY}"),
    # Benchmarks count what is done always, without what is done now and then.
    ("idle.py", "outbox.claims.LOOK_AHEAD_EVERY"),
    ("idle.py", "outbox.sqlite.poll.LOOK_ANYWAY"),
    ("instructions.py", "metrics.readings.LAG_EVERY"),
    ("metrics.py", "metrics.readings.LAG_EVERY"),
}

#: Ways to replace a constant that this test has to see.
WAYS = [
    "from hydracache_sync import outage\npatch.setattr(outage, 'CALM', 0.0)",
    "from hydracache_sync import outage as o\nsetattr(o, 'CALM', 0.0)",
    "from hydracache_sync import outage\noutage.CALM = 0.0",
    "import hydracache_sync.outage\nhydracache_sync.outage.CALM += 1.0",
    "patch.setattr('hydracache_sync.outage.CALM', 0.0)",
    "m = sys.modules['hydracache_sync.outage']\npatch.setattr(m, 'CALM', 0.0)",
    "from hydracache_sync import outage\nsetattr(outage, name, 0.0)",
    "from hydracache_sync.outage import Outage\nsetattr(Outage, '_calm', 0.0)",
]


def replaced(source: str) -> Iterator[str]:
    """Full names of what a file sets, where it has imported that or its owner."""
    nodes = list(ast.walk(ast.parse(source)))
    known: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                known[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
            if ast.unparse(node.value.value) == "sys.modules":
                known[ast.unparse(node.targets[0])] = str(text_of(node.value.slice))

    def full(node: ast.expr) -> str:
        first, dot, rest = ast.unparse(node).partition(".")
        return known.get(first, first) + dot + rest

    for node in nodes:
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (
                full(each) for each in targets if isinstance(each, ast.Attribute)
            )
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("setattr", "delattr"):
                owner, name = node.args[0], text_of(node.args[1]) or ANY
                yield text_of(owner) or f"{full(owner)}.{name}"


def text_of(node: ast.expr) -> str | None:
    """A text as it is written; None of what is computed."""
    text = getattr(node, "value", None)
    return text if isinstance(text, str) else None


def refused(source: str) -> set[str]:
    """Names below the package of what a file must not set."""
    found = set()
    for name in replaced(source):
        owner, _, last = name.rpartition(".")
        if owner.partition(".")[0] != PACKAGE:
            continue
        private = last.startswith("_") and not last.endswith("__")
        if private or last.isupper() or last == ANY:
            # What is an object's own is the test's, which has made the object.
            if isinstance(resolve_name(owner), (ModuleType, type)):
                found.add(name.partition(".")[2])
    return found


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_replace_is_seen(way: str) -> None:
    assert len(refused(way)) == 1


def test_no_test_replaces_a_constant_or_what_is_private() -> None:
    found = {
        (path.name, name)
        for path in TESTS.rglob("*.py")
        for name in refused(path.read_text("utf-8"))
    }

    assert found == ALLOWED

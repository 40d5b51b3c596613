"""The messages that the runbook explains are messages of the library."""

from __future__ import annotations

import ast
import re

from support import ROOT

PACKAGE = ROOT / "hydracache_sync"


def _texts() -> str:
    """Each text of the code on a line of its own, with dots for what is filled in."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[.\d]*[a-z]", "...", node.value))
    return "\n".join(" ".join(each.split()) for each in found)


def test_each_message_is_one_of_the_library() -> None:
    page = (ROOT / "docs/operations/runbook.md").read_text("utf-8")
    _, _, table = page.partition("## By message")
    messages = re.findall(r"^\| `(.+?)` \|", table, re.M)
    texts = _texts()

    missing = [
        each
        for each in messages
        if not re.search(re.escape(each).replace(r"\.\.\.", ".*"), texts)
    ]

    assert len(messages) >= 15
    assert missing == []

"""A short run of the program; ``consistency.py --reads 1000000`` is the long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("consistency.py")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
    )


def number(what: str, said: str) -> int:
    found = re.search(rf"^ *(\d+) {what}$", said, re.MULTILINE)
    assert found is not None, said
    return int(found[1])


@pytest.mark.timeout(300)
def test_nothing_is_stale_while_everything_fails() -> None:
    ended = run("--seconds", "8")

    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    # On a busy machine the seconds hold little.
    assert number("reads", said) > 20
    assert number("versions committed", said) > 0
    assert re.search(r"[1-9]\d* holds .* \(links\)$", said, re.MULTILINE), said
    # In so short a run each may be broken off; a longer one must play each to its end.
    assert re.search(r"[1-9]\d* scenes (of|broken off)", said, re.MULTILINE), said
    for what in (
        "stale after wait",
        "stale after publish",
        "stale after inline publish",
        "strict violations",
    ):
        assert number(what, said) == 0


@pytest.mark.timeout(300)
def test_the_same_with_plain_deletes_is_seen_to_be_stale() -> None:
    assert_seen_to_be_stale("--plain-delete")


@pytest.mark.timeout(300)
def test_the_same_with_plain_sets_of_tokens_is_seen_to_be_stale() -> None:
    """In scenes that are arranged for it, and not by luck."""
    assert_seen_to_be_stale("--plain-set", "--calm")


def assert_seen_to_be_stale(*arguments: str) -> None:
    """In some of a few short runs: on a busy machine one may see too little."""
    totals = [0, 0]
    for _ in range(6):
        ended = run("--seconds", "8", *arguments)
        said = ended.stdout + ended.stderr
        seen = [number("stale after publish", said), number("strict violations", said)]
        if any(seen):
            assert ended.returncode == 1, said
        totals = [total + more for total, more in zip(totals, seen)]
        if all(totals):
            return
    pytest.fail(f"stale after publish, strict violations: {totals}; the last: {said}")

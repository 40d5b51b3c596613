"""What ``python -m protections`` takes away is there, and so are its tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from protections.taken_away import PROTECTIONS, Protection

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda each: each.rule)
def test_a_protection_is_one_place_in_the_code(protection: Protection) -> None:
    code = (ROOT / "hydracache_sync" / protection.file).read_text("utf-8")

    assert code.count(protection.code) == 1
    ast.parse(code.replace(protection.code, protection.without))


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda each: each.rule)
def test_who_is_to_notice_is_there(protection: Protection) -> None:
    file, _, name = protection.test.partition("::")

    said = (ROOT / file).read_text("utf-8")
    # Tests of a contract are inherited.
    for topic in (ROOT / "tests" / "outbox_contract").glob("*.py"):
        said += topic.read_text("utf-8")
    assert not name or f"def {name}" in said


def test_each_promise_has_some() -> None:
    assert {each.promise for each in PROTECTIONS} == {
        "P1",
        "P2",
        "P3",
        "P4",
        "P5",
        "P8",
    }

"""The model in the normal suite: what holds on small scenarios, and all that breaks.

``python -m tests.model`` walks the larger ones.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from .explore import walk
from .protocol import Protocol
from .rules import Faults, Rules
from .scenarios import (
    BREAKS,
    HOLDS,
    NEEDLESS,
    ONE,
    STRICT_ROWS,
    TWO,
    Scenario,
    strict_table,
    table,
)

#: Sizes that take a second or two each; of each kind of reader one.
SMALL = {
    "default": Protocol(),
    "one by one": Protocol(one_by_one=True, writers=ONE),
    "two tags": Protocol(tags=2, readers=1, writers=((0, 1),), one_by_one=True),
    "refresh": Protocol(refresh=True, writers=ONE),
    "flights": Protocol(flights=True, writers=ONE),
    "snapshots": Protocol(snapshots=True, readers=1, writers=TWO),
    "own writes": Protocol(snapshots=True, own_writes=True, readers=1, writers=ONE),
    "strict": Protocol(strict=True, readers=1),
    "strict refresh": Protocol(strict=True, refresh=True, readers=1, writers=ONE),
    "strict flights": Protocol(strict=True, flights=True, writers=ONE),
    "strict snapshots": Protocol(strict=True, snapshots=True, readers=1, writers=ONE),
}


@pytest.mark.parametrize("name", SMALL)
def test_no_state_that_can_be_reached_breaks_a_promise(name: str) -> None:
    result = walk(SMALL[name])

    assert result.found is None, result.trace
    assert result.exhausted


@pytest.mark.parametrize("scenario", BREAKS, ids=lambda each: each.name)
def test_what_breaks_without_a_rule_is_found(scenario: Scenario) -> None:
    result = walk(scenario.model)

    assert result.found is not None
    assert 4 < len(result.trace) < 20


@pytest.mark.parametrize("scenario", NEEDLESS, ids=lambda each: each.name)
def test_what_is_said_to_be_needless_is(scenario: Scenario) -> None:
    assert walk(scenario.model).exhausted


def test_every_rule_is_taken_away_in_some_scenario() -> None:
    kept = Rules()
    taken = {
        field.name
        for scenario in BREAKS
        for field in fields(Rules)
        if isinstance(scenario.model, Protocol)
        and getattr(scenario.model.rules, field.name) != getattr(kept, field.name)
    }

    assert taken == {field.name for field in fields(Rules)}


def test_each_fault_breaks_something_that_holds_without_it() -> None:
    cells = {(each.name, each.about): each for each in table() + strict_table()}

    def found(row: str, column: str) -> bool:
        scenario = cells[row, column]
        return walk(scenario.model, limit=scenario.limit).found is not None

    for row, column in [
        ("a missing token equals a missing one", "eviction"),
        ("a missing token equals a missing one", "restart"),
        ("row ids as tokens", "late duplicate"),
        ("ours without the snapshot guard", "old snapshot"),
        ("no cold tokens", "eviction"),
        ("no cold tokens", "restart"),
        ("**ours**", "hold-off ends early"),
    ]:
        assert not found(row, "none"), row
        assert found(row, column), (row, column)


def test_a_trace_is_a_shortest_one_and_can_be_read() -> None:
    result = walk(STRICT_ROWS["quarantine by a plain token"])

    assert [what for what, _ in result.trace] == [
        "writer 1: quarantine: mark tag 1",
        "reader 1: look up: miss",
        "reader 1: load v0",
        "reader 1: fill v0",
        "writer 1: send COMMIT",
        "writer 1: COMMIT v1",
    ]
    assert result.found == "P5: v0 is served, v1 is committed"
    assert result.trace[-1][1].startswith("database v1  published v0")


def test_representatives_are_representatives_of_themselves() -> None:
    model = replace(SMALL["strict flights"], readers=2)
    seen = {model.canonical(model.initial())}
    ahead = list(seen)
    while ahead and len(seen) < 3000:
        for _, after, _ in model.steps(ahead.pop()):
            one = model.canonical(after)
            assert model.canonical(one) == one
            if one not in seen:
                seen.add(one)
                ahead.append(one)


def test_a_walk_that_is_given_up_says_so() -> None:
    result = walk(Protocol(), limit=100)

    assert not result.exhausted
    assert result.found is None


def test_faults_add_states_and_take_none_away() -> None:
    calm = Faults(evict=False, restart=False, duplicate=False)

    assert (
        walk(Protocol(readers=1)).states > walk(Protocol(readers=1, faults=calm)).states
    )


def test_the_command_walks_scenarios_of_every_promise() -> None:
    names = " ".join(each.name for each in HOLDS)

    for word in ("default", "old snapshots", "strict", "flights", "refresh", "rings"):
        assert word in names

"""The model in the normal suite: what holds on small scenarios, and all that breaks.

``python -m tests.model`` walks the larger ones.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest

from support.page_blocks import blocks_of

from .bounded import LEFT_OUT, Bounded
from .earlier_reads import EarlierReads
from .explore import walk
from .in_flight import InFlight
from .protocol import Protocol
from .replicas import Replicas
from .rules import Faults, Rules
from .scenarios import (
    BREAKS,
    EARLIER,
    EARLIER_RULES,
    HOLDS,
    IN_FLIGHT,
    IN_FLIGHT_FLUSH,
    IN_FLIGHT_RINGS,
    IN_FLIGHT_STRICT,
    NEEDLESS,
    ONE,
    REPLACING,
    REPLICAS_LAG,
    REPLICAS_ONE,
    REPLICAS_PROMOTED,
    REPLICAS_RULES,
    STRICT_ROWS,
    THREE,
    TWO,
    Scenario,
    flight_table,
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
    "in flight": InFlight(writers=THREE),
    "in flight, strict": IN_FLIGHT_STRICT,
    "in flight, flush": IN_FLIGHT_FLUSH,
    "in flight, rings": replace(IN_FLIGHT_RINGS, writers=((0, 1),)),
    "bounded": Bounded(flushes=False),
    "earlier reads": EARLIER,
    "replicas": REPLICAS_ONE,
    "replicas, read_lag": REPLICAS_LAG,
    "replicas, promoted": REPLICAS_PROMOTED.without("keeps_commits"),
}

#: What pages show of a scenario: what is found, and steps of the trace.
TRACES = {
    name: lines
    for page in ("consistency", "model_late_messages", "model_rules")
    for block in blocks_of(f"docs/project/{page}.md")
    for name, *lines in [re.split(r" {3,}(?=after)|\n *", block.body.strip())]
}


@pytest.mark.parametrize("name", SMALL)
def test_no_state_that_can_be_reached_breaks_a_promise(name: str) -> None:
    result = walk(SMALL[name])

    assert result.found is None, result.trace
    assert result.exhausted


def test_each_trace_of_a_page_is_of_a_scenario() -> None:
    assert len(TRACES) == 4
    assert set(TRACES) <= {each.name for each in BREAKS}


@pytest.mark.parametrize("scenario", BREAKS, ids=lambda each: each.name)
def test_what_breaks_without_a_rule_is_found(scenario: Scenario) -> None:
    result = walk(scenario.model)

    assert result.found is not None
    assert 4 < len(result.trace) < 20
    if scenario.name in TRACES:
        head, *shown = TRACES[scenario.name]
        assert head == f"after {len(result.trace)} steps, {result.found}"
        for line in shown:
            # A page leaves out steps, and parts of the state.
            number, rest = line.split(maxsplit=1)
            step, after = result.trace[int(number) - 1]
            said, *state = re.split(r" {2,}", rest)
            assert (said, set(state) - set(after.split("  "))) == (step, set()), line


@pytest.mark.parametrize("scenario", NEEDLESS, ids=lambda each: each.name)
def test_what_is_said_to_be_needless_is(scenario: Scenario) -> None:
    assert walk(scenario.model).exhausted


def test_every_rule_is_taken_away_in_some_scenario() -> None:
    kept = Rules()
    taken = {
        field.name
        for scenario in BREAKS + NEEDLESS
        for field in fields(Rules)
        if isinstance(scenario.model, (Protocol, InFlight))
        and getattr(scenario.model.rules, field.name) != getattr(kept, field.name)
    }

    assert taken == {field.name for field in fields(Rules)}
    switches = {field.name for field in fields(Bounded) if field.type == "bool"}
    assert set(LEFT_OUT.values()) == switches - {"flushes"}
    switches = {each.name for each in fields(EarlierReads) if each.type == "bool"}
    needless, not_rules = {"hit_is_aged"}, {"hits", "rows", "nested"}
    taken = {*EARLIER_RULES.values(), "twice"}  # that of a flush has its own scenario
    assert taken == switches - not_rules - needless - {"eager"}
    for each in fields(Replicas):
        if each.type == "bool" and each.name not in ("read_lag", "promotes"):
            assert not all(
                getattr(model, each.name) for model in REPLICAS_RULES.values()
            ), each.name


def test_a_bounded_reader_is_served_what_is_young_enough() -> None:
    # A rule that serves nothing breaks no promise.
    model, seen = Bounded(flushes=False), set()
    ahead, served = [model.canonical(model.initial())], False
    while ahead:
        state = ahead.pop()
        if state not in seen:
            seen.add(state)
            for what, after, _ in model.steps(state):
                lacking = any(row.lacking for row in state.rows)
                served = served or (what == "reader: serve" and lacking)
                ahead.append(model.canonical(after))

    assert served


@pytest.mark.parametrize("rows", [False, True])
def test_a_request_stores_what_it_has_read(rows: bool) -> None:
    # A rule that stores nothing breaks no promise.
    model = replace(EARLIER, rows=rows, hits=not rows, writers=ONE)
    seen, ahead = set(), [model.initial()]
    while ahead:
        state = ahead.pop()
        if state not in seen:
            seen.add(state)
            ahead += [after for _, after, _ in model.steps(state)]

    assert {0, 1} == {
        state.request.value
        for state in seen
        if state.request is not None
        and state.request.value is not None
        and model.may_store(state, state.request)
    }


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


def test_late_messages_and_stopped_processes_break_what_holds_without_them() -> None:
    cells = {(each.name, each.about): walk(each.model) for each in flight_table()}

    def found(row: str, column: str) -> bool:
        return cells[row, column].found is not None

    for row in REPLACING:
        # EXISTS is never answered where reading and storing are one step.
        assert not found(row, "none"), row
        assert found(row, "strict: all"), row
    for column in ("stopped processes", "late messages", "strict: stopped processes"):
        assert found("tokens set", column)
    assert not found("a stamped add", "late messages")
    assert found("a stamped add", "... and evictions")
    assert not found("a cas id that comes again", "... and evictions")
    assert found("a cas id that comes again", "... and restarts")


@pytest.mark.parametrize(
    "rule", ["exists_is_no_ack", "cas_on_one_connection", "placeholder_has_no_stamp"]
)
@pytest.mark.parametrize("model", [IN_FLIGHT, IN_FLIGHT_STRICT])
def test_an_eager_walk_finds_what_the_other_finds(model: InFlight, rule: str) -> None:
    eager = replace(model, eager=True)

    assert walk(eager).exhausted
    assert walk(eager).states < walk(model).states
    assert walk(eager.without(**{rule: False})).found is not None
    assert walk(model.without(**{rule: False})).found is not None


def test_an_eager_walk_of_earlier_reads_finds_what_the_other_finds() -> None:
    eager = replace(EARLIER, eager=True)

    assert walk(eager).exhausted
    for rule in EARLIER_RULES.values():
        assert walk(eager.without(rule)).found is not None, rule


@pytest.mark.parametrize("read_lag", [False, True])
def test_a_reader_of_a_replica_stores_what_it_has_loaded(read_lag: bool) -> None:
    # A rule that stores nothing breaks no promise.
    model = Replicas(writers=1, read_lag=read_lag)
    seen, ahead = set(), [model.initial()]
    while ahead:
        state = ahead.pop()
        if state not in seen:
            seen.add(state)
            ahead += [after for _, after, _ in model.steps(state)]

    assert {(0, 0), (0, 1), (1, 1)} == {
        (state.published, state.stored) for state in seen if state.stored is not None
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", [IN_FLIGHT, IN_FLIGHT_STRICT, IN_FLIGHT_RINGS])
def test_what_was_in_flight_is_published_and_values_are_stored(model: InFlight) -> None:
    # A protocol in which nothing ever happens breaks no promise.
    seen, ahead = set(), [model.canonical(model.initial())]
    while ahead:
        state = ahead.pop()
        if state not in seen:
            seen.add(state)
            ahead += [model.canonical(after) for _, after, _ in model.steps(state)]

    last = len(model.writers)
    assert any(
        state.published == last and last in state.stored and max(map(len, state.late))
        for state in seen
    )


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

    for word in (
        "default",
        "old snapshots",
        "strict",
        "flights",
        "rings",
        "bounded",
        "earlier",
        "replicas",
    ):
        assert word in names

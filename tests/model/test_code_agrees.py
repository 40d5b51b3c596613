"""The code takes the model's steps and comes to the same.

Random walks through the model, each step of it done by the code as well, on a store in
memory: ``look_up``, ``with_missing``, ``check_fill``, ``fill`` of a cache's entries,
the applier, the quarantine. The model says what a read must find.
"""

from __future__ import annotations

import random
import re
from typing import Any, Callable

import pytest

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryStore,
    TaggedCache,
)
from hydracache_sync.cache import Keyspace
from hydracache_sync.cache.codecs.codec import MISS
from hydracache_sync.cache.lifetime import Lifetime
from support.clock import FakeClock

from . import explore
from .promises import servable
from .protocol import Protocol
from .rules import Faults
from .scenarios import BREAKS, ON_TIME
from .state import ADDED, State

#: Seconds of a tick. Two of them are within the hold-off of 2 s, and the latest commit
#: is one tick after the quarantine.
TICK = 0.9

STEPS = 120
WALKS = 60

SELDOM = re.compile("evict|restart|duplicate|acknowledgement lost|quarantine")

TAGS = ("tag",)
LIFETIME = Lifetime(ttl=0.0, soft_ttl=None)


class Code:
    """The library, one step at a time."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock)
        options: Any = {"strict": strict, "clock": self.clock}
        # One clock: nothing to allow for.
        self.cache = TaggedCache(self.store, "n", clock_skew=0.0, **options)
        self.applier = MemcachedApplier(self.store, "n", **options)
        self.entries = self.cache._entries
        self.keyspace = Keyspace(self.store.ring, "n")
        self.looks: dict[str, Any] = {}
        self.judged: dict[str, Any] = {}
        self.quarantines: dict[str, Any] = {}
        self.fills = 0
        self.hits = 0
        # The tokens of namespace and key, which the model has not, are there and warm.
        self.cache.reserve("key")
        self.clock.advance(60.0)

    def take(self, step: str) -> None:
        """Do what the model calls ``step``."""
        for pattern, action in ACTIONS:
            found = re.match(pattern, step)
            if found is not None:
                action(self, *found.groups())
                return
        raise AssertionError(f"no such step in the code: {step}")

    def served(self) -> int | None:
        """The version that a reader gets from the cache now."""
        value: int | None = self.cache.get("key", tags=TAGS)
        return value

    # Readers

    def look_up(self, reader: str) -> None:
        [lookup] = self.entries.look_up_many([("key", TAGS)])
        self.looks[reader] = lookup
        self.hits += lookup.value is not MISS

    def add_missing(self, reader: str) -> None:
        [self.looks[reader]], _ = self.entries.with_missing([self.looks[reader]], None)

    def load(self, reader: str, version: str) -> None:
        # The namespace and the key have tokens of their own, which a restart takes.
        self.add_missing(reader)
        self.judged[reader] = self.entries.check_fill(self.looks[reader], None)

    def load_only(self, reader: str) -> None:
        self.add_missing(reader)
        decision = self.entries.check_fill(self.looks[reader], None)
        # A token is cold for three ticks here and for two in the model.
        assert self.strict or decision.refused is not None

    def fill(self, reader: str, version: str) -> None:
        decision = self.judged.pop(reader)
        if decision.refused is None and decision.lookup.value is MISS:
            entry = self.entries.pack(decision, int(version), LIFETIME)
            assert self.entries.fill([(decision, entry)], LIFETIME)
            self.fills += 1

    # Writers, workers

    def mark(self, writer: str) -> None:
        batch = InvalidationIntentBatch().invalidate_tag("tag")
        quarantine = self.cache.quarantine(batch)
        quarantine.__enter__()
        self.quarantines[writer] = quarantine

    def send_commit(self, writer: str) -> None:
        self.quarantines[writer].check()

    def commit(self, writer: str) -> None:
        quarantine = self.quarantines.pop(writer, None)
        if quarantine is not None:
            quarantine.__exit__(None, None, None)
            assert quarantine.strict

    def roll_back(self, writer: str) -> None:
        self.quarantines.pop(writer).__exit__(None, None, None)

    def apply(self) -> None:
        assert self.applier.apply_batch([InvalidationIntent.tag("tag")]) == [None]

    # Faults

    def evict_entry(self) -> None:
        self.store.delete_many([self.keyspace.entry("key")])

    def evict_token(self) -> None:
        self.store.delete_many([self.keyspace.tag_token("tag")])

    def restart(self) -> None:
        self.store.clear()

    def tick(self) -> None:
        self.clock.advance(TICK)

    def nothing(self, *who: str) -> None:
        """Only the model, or only the database, changes."""


ACTIONS: list[tuple[str, Callable[..., None]]] = [
    (r"(reader \d): look up: ", Code.look_up),
    (r"(reader \d): add the token", Code.nothing),
    (r"(reader \d): read the token back", Code.add_missing),
    (r"(reader \d): stamp the placeholder", Code.add_missing),
    (r"(reader \d): load, and store nothing", Code.load_only),
    (r"(reader \d): load v(\d)", Code.load),
    (r"(reader \d): fill v(\d)", Code.fill),
    (r"(writer \d): quarantine: mark", Code.mark),
    (r"(writer \d): send COMMIT", Code.send_commit),
    (r"(writer \d): COMMIT", Code.commit),
    (r"(writer \d): roll back", Code.roll_back),
    (r"worker, row of v\d: apply", Code.apply),
    (r"worker, row of v\d: mark published", Code.nothing),
    (r"the entry is evicted", Code.evict_entry),
    (r"the token of tag 1 is evicted", Code.evict_token),
    (r"the node restarts", Code.restart),
    (r"a tick passes", Code.tick),
]


def walk(model: Protocol, seed: int, *, strict: bool) -> Code:
    """Take random steps in both, and look at both after each."""
    dice = random.Random(seed)
    code = Code(strict=strict)
    state = model.initial()
    taken: list[str] = []
    for _ in range(STEPS):
        steps = list(model.steps(state))
        # The code adds and reads back in one go on one node.
        going_on = [step for step in steps if "read the token back" in step[0]]
        if any(reader.at == ADDED for reader in state.readers):
            steps = going_on
        # Tokens go and change seldom, or nothing is ever served.
        weights = [0.1 if SELDOM.search(step[0]) else 1.0 for step in steps]
        [(step, state, _)] = dice.choices(steps, weights)
        taken.append(step)
        code.take(step)
        _compare(model, state, code, strict, (seed, taken))
    return code


def _compare(
    model: Protocol, state: State, code: Code, strict: bool, story: object
) -> None:
    served = code.served()
    if strict:
        # Its tokens are cold for a tick more than the model's, so less may be served,
        # and never anything older.
        assert served is None or served >= state.committed, story
        return
    expected = None
    if state.entry is not None and servable(model, state.entry, state.slots):
        expected = state.entry[0]
    if served is None and model.faults.restart:
        # An entry rests on the tokens of namespace and key, too. The model has none of
        # these, and a restart can take them from between a reader's steps.
        return
    assert served == expected, story


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("seed", range(WALKS))
def test_what_the_code_serves_is_what_the_model_serves(
    seed: int, restart: bool
) -> None:
    faults = Faults(restart=restart, late=False)
    walk(Protocol(faults=faults, writers=((0,), (0,), (0,))), seed, strict=False)


@pytest.mark.parametrize("seed", range(WALKS))
def test_a_strict_cache_serves_nothing_older_than_the_last_commit(seed: int) -> None:
    writers = ((0,), (0,), (0,))
    walk(Protocol(strict=True, faults=ON_TIME, writers=writers), seed, strict=True)


@pytest.mark.parametrize(
    "name",
    [
        "row ids as tokens",
        "quarantine by a plain token",
        "quarantine lifted by apply",
        "hold-off without cold tokens",
        "cold without skew",
        "cold judged at the fill",
    ],
)
def test_the_steps_that_break_a_weaker_protocol_do_not_break_the_code(
    name: str,
) -> None:
    [scenario] = [each for each in BREAKS if each.name == name]
    assert isinstance(scenario.model, Protocol)
    strict = scenario.model.strict
    code = Code(strict=strict)

    for step, after in explore.walk(scenario.model).trace:
        code.take(step)
        known = re.findall(r"v(\d)", after)[0 if strict else 1]
        served = code.served()
        assert served is None or served >= int(known), step


@pytest.mark.parametrize("strict", [False, True])
def test_the_walks_go_where_values_are_stored_and_served(strict: bool) -> None:
    model = Protocol(strict=strict, faults=ON_TIME, writers=((0,), (0,), (0,)))
    codes = [walk(model, seed, strict=strict) for seed in range(WALKS)]

    assert sum(code.fills for code in codes) > WALKS / 4
    assert sum(code.hits for code in codes) > WALKS / 4

"""Strict namespaces: no read that begins after a quarantined commit gets less.

Each step of a writer may be its last, tokens may be evicted at any moment, and others
write the same. Each test tells in its steps what the protection is for.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
import warnings
from pathlib import Path
from typing import Any, Callable

import pytest

from hydracache_sync import (
    ConfigurationError,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryStore,
    OutboxWorker,
    QuarantineError,
    SQLiteOutbox,
    TaggedCache,
)
from hydracache_sync.cache import Keyspace, Quarantine
from support.clock import FakeClock
from support.faulty_memcached import FaultyMemcached, Mode
from support.servers import Memcached

TAGS = ("users",)
HOLD_OFF = 2.0

#: More than a token is cold.
LONG = 10.0


class World:
    """A database of one value, the cache before it, and the clock of both."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock)
        self.cache = self.another_cache()
        self.applier = MemcachedApplier(
            self.store, "shop", strict=True, hold_off=HOLD_OFF, clock=self.clock
        )
        self.keyspace = Keyspace("1", "shop")
        self.value = "old"
        self.loads = 0

    def another_cache(self, **settings: Any) -> TaggedCache:
        return TaggedCache(
            self.store,
            "shop",
            **{"strict": True, "hold_off": HOLD_OFF, "clock": self.clock, **settings},
        )

    def read(self) -> Any:
        return self.cache.get_or_load("k", self.load, tags=TAGS)

    def load(self) -> str:
        self.loads += 1
        return self.value

    def warm(self) -> None:
        """Have the value cached, as after a while without writes."""
        self.read()
        self.clock.advance(LONG)
        self.read()
        assert self.is_cached()

    def is_cached(self) -> bool:
        return self.cache.get("k", tags=TAGS) is not None

    def quarantine(self, **options: Any) -> Quarantine:
        return self.cache.quarantine(batch(), **options)

    def apply(self) -> None:
        for intent in batch():
            self.applier.apply_invalidation(intent)

    def evict_tag(self) -> None:
        self.store.delete_many([self.keyspace.tag_token("users")])


@pytest.fixture
def world() -> World:
    return World()


def batch() -> InvalidationIntentBatch:
    return InvalidationIntentBatch().invalidate_tag("users")


# The promise


def test_a_read_after_the_commit_gets_the_new_value_before_any_worker(
    world: World,
) -> None:
    world.warm()

    with world.quarantine() as quarantine:
        world.value = "new"

    assert quarantine.strict is True
    assert world.read() == "new"


def test_without_a_quarantine_it_would_get_the_old_one(world: World) -> None:
    world.warm()

    world.value = "new"

    assert world.read() == "old"


@pytest.mark.parametrize(
    "quarantined",
    [
        InvalidationIntentBatch().invalidate_key("k"),
        InvalidationIntentBatch().flush(),
        InvalidationIntentBatch().invalidate_tag("x").invalidate_tag("users"),
    ],
    ids=["key", "flush", "two"],
)
def test_all_that_a_batch_invalidates_is_held_off(
    world: World, quarantined: InvalidationIntentBatch
) -> None:
    world.warm()

    with world.cache.quarantine(quarantined):
        world.value = "new"

    assert world.read() == "new"


def test_what_is_added_to_the_batch_until_the_block_begins_is_held_off(
    world: World,
) -> None:
    world.warm()
    batch = InvalidationIntentBatch()
    quarantine = world.cache.quarantine(batch)
    batch.invalidate_key("k")

    with quarantine:
        world.value = "new"

    assert world.read() == "new"


def test_an_empty_batch_holds_off_nothing(world: World) -> None:
    world.warm()

    with world.cache.quarantine(InvalidationIntentBatch()):
        pass

    assert world.is_cached()


def test_what_is_read_between_quarantine_and_commit_is_not_stored(
    world: World,
) -> None:
    world.warm()

    with world.quarantine():
        before = world.read()
        world.value = "new"

    assert before == "old"
    assert world.read() == "new"


def test_what_was_loaded_before_the_quarantine_is_not_served_after_it(
    world: World,
) -> None:
    world.warm()
    world.cache.delete("k")
    reservation = world.cache.reserve("k", tags=TAGS)
    loaded = world.load()

    with world.quarantine():
        world.value = "new"
    reservation.fill(loaded)

    assert world.read() == "new"


def test_it_is_cached_again_when_the_hold_off_is_over(world: World) -> None:
    world.warm()
    with world.quarantine():
        world.value = "new"
    world.apply()
    waited = 0.0

    while not world.is_cached():
        assert world.read() == "new"
        world.clock.advance(0.25)
        waited += 0.25

    # A token is cold for 2 + 1 s.
    assert 3 <= waited <= 3.5
    assert world.loads == world.cache.diagnostics().misses - waited / 0.25


# What may happen to a writer


def test_after_a_rollback_the_old_value_is_cached_again(world: World) -> None:
    world.warm()

    with pytest.raises(LookupError), world.quarantine():
        raise LookupError("rolled back")

    assert world.read() == "old"
    for _ in range(40):
        world.clock.advance(0.25)
        assert world.read() == "old"
    assert world.is_cached()


def test_of_two_writers_of_a_tag_the_applied_one_does_not_let_the_other_down(
    world: World,
) -> None:
    world.warm()
    first, second = world.quarantine(), world.quarantine()

    with first:
        world.value = "first"
    with second:
        # While the second is about to commit, the first is applied and read.
        world.apply()
        assert world.read() == "first"
        world.clock.advance(0.5)
        assert world.read() == "first"
        world.value = "second"

    assert world.read() == "second"


def test_an_apply_that_is_repeated_late_only_holds_off_again(world: World) -> None:
    world.warm()
    with world.quarantine():
        world.value = "new"
    world.apply()
    world.clock.advance(LONG)
    world.warm()

    world.apply()

    assert world.read() == "new"


@pytest.mark.parametrize("slow", [-0.9, 0.9], ids=["ahead", "behind"])
def test_a_writer_whose_clock_differs_is_waited_for_all_the_same(
    world: World, slow: float
) -> None:
    world.warm()
    writer = world.another_cache(clock=lambda: world.clock() - slow)

    with writer.quarantine(batch()):
        for _ in range(7):
            world.clock.advance(0.25)
            assert world.read() == "old"
        world.value = "new"

    assert world.read() == "new"
    world.clock.advance(LONG)
    assert [world.read(), world.read()] == ["new", "new"]
    assert world.is_cached()


@pytest.mark.parametrize("restart", [False, True], ids=["evicted", "restarted"])
def test_a_marker_that_is_lost_does_not_let_an_old_value_in(
    world: World, restart: bool
) -> None:
    world.warm()

    with world.quarantine() as quarantine:
        world.store.clear() if restart else world.evict_tag()
        # The reader creates the missing token, and may not store under it.
        assert world.read() == "old"
        world.clock.advance(HOLD_OFF / 2)
        assert world.read() == "old"
        quarantine.check()
        world.value = "new"

    assert world.read() == "new"
    world.clock.advance(LONG)
    assert world.read() == "new"


def test_a_new_token_is_cold_for_snapshots_from_before_that_too(world: World) -> None:
    with world.quarantine():
        world.evict_tag()
        world.cache.reserve("k", tags=TAGS)
        since = world.clock() + 1.5
        world.clock.advance(1.9)
        # Its snapshot is younger than the token, but not than what that may hide.
        loaded = world.load()
        world.value = "new"
    world.clock.advance(LONG)

    assert not world.cache.set("k", loaded, tags=TAGS, since=since)
    assert world.read() == "new"


# Time


def test_a_commit_that_would_be_too_late_is_not_sent(world: World) -> None:
    world.warm()

    with pytest.raises(QuarantineError, match="1.100 s have passed.*within 1.000 s"):
        with world.quarantine() as quarantine:
            world.clock.advance(1.1)
            quarantine.check()
            world.value = "never"

    assert quarantine.strict is False
    assert world.read() == "old"


def test_a_store_that_takes_too_long_to_be_told_ends_it(world: World) -> None:
    class Slow(MemoryStore):
        def replace_many(self, *arguments: Any) -> Any:
            world.clock.advance(1.5)
            return super().replace_many(*arguments)

    cache = TaggedCache(Slow(), "shop", strict=True, clock=world.clock)

    with pytest.raises(QuarantineError, match="1.500 s"):
        with cache.quarantine(batch()):
            world.value = "never"

    assert world.value == "old"


def test_a_commit_that_took_too_long_is_held_off_anew_and_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.warm()

    with world.quarantine() as quarantine:
        world.clock.advance(LONG)
        world.read()
        world.clock.advance(LONG)
        assert world.read() == "old" and world.is_cached()
        world.value = "new"

    assert quarantine.strict is False
    assert world.read() == "new"
    assert "took longer than its quarantine" in caplog.text


def test_a_machine_that_slept_is_noticed_by_either_clock(world: World) -> None:
    asleep = Quarantine(
        [(world.store, world.keyspace)],
        batch(),
        world.cache._hold_off,  # type: ignore[arg-type]
        degrade=False,
        clock=lambda: 1000.0,
        monotonic=world.clock,
    )

    with pytest.raises(QuarantineError), asleep:
        world.clock.advance(LONG)
        asleep.check()


# A cache that cannot be reached


def test_without_the_cache_the_commit_is_not_sent(caplog: Any) -> None:
    with FaultyMemcached() as server:
        store = MemcachedStore([server.address], timeout=0.2, connect_timeout=10)
        cache = TaggedCache(store, "shop", strict=True)
        server.mode = Mode.REFUSE
        committed = []

        with pytest.raises(QuarantineError, match=f"{server.address}.*degrade=True"):
            with cache.quarantine(batch()):
                committed.append(1)

        assert committed == []


def test_if_allowed_the_commit_goes_on_and_says_that_it_was_not_strict(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with FaultyMemcached() as server:
        store = MemcachedStore([server.address], timeout=0.2, connect_timeout=10)
        cache = TaggedCache(store, "shop", strict=True)
        server.mode = Mode.REFUSE

        with cache.quarantine(batch(), degrade=True) as quarantine:
            quarantine.check()

        assert quarantine.strict is False
        assert "without its quarantine" in caplog.text


def test_every_ring_in_use_is_told(world: World) -> None:
    new = MemoryStore(ring="2", clock=world.clock)
    world.warm()
    writer = TaggedCache(
        new, "shop", strict=True, clock=world.clock, also=[world.store]
    )

    with writer.quarantine(batch()):
        world.value = "new"

    assert world.read() == "new"


# Strict everywhere, or nowhere


def test_a_cache_that_is_not_strict_has_no_quarantine() -> None:
    with pytest.raises(ConfigurationError, match="shop.*strict=True"):
        TaggedCache(MemoryStore(), "shop").quarantine(batch())


def test_a_cache_that_is_not_strict_by_mistake_feeds_nobody_who_is(
    world: World,
) -> None:
    world.read()
    loose = world.another_cache(strict=False)

    with world.quarantine():
        world.store.clear()
        loose.get_or_load("k", world.load, tags=TAGS)
        assert loose.get("k", tags=TAGS) == "old"
        world.value = "new"

    assert world.read() == "new"


def test_an_applier_that_is_not_strict_by_mistake_costs_hits_and_is_seen(
    world: World,
) -> None:
    world.warm()
    applier = MemcachedApplier(world.store, "shop", clock=world.clock)

    for intent in batch():
        applier.apply_invalidation(intent)
    world.clock.advance(LONG)
    world.value = "new"

    assert [world.read(), world.read()] == ["new", "new"]
    assert not world.is_cached()
    assert world.cache.diagnostics().refused_unknown > 0


@pytest.mark.parametrize("hold_off", [0, -1, float("nan"), None, "2"])
def test_a_wrong_hold_off_is_refused(hold_off: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="hold_off"):
        TaggedCache(MemoryStore(), "shop", strict=True, hold_off=hold_off)
    with pytest.raises((TypeError, ValueError), match="hold_off"):
        MemcachedApplier(MemoryStore(), "shop", strict=True, hold_off=hold_off)


# Killed at each step, for real


STEPS = ["begun", "written", "enqueued", "quarantined", "committed", "applied"]


@pytest.mark.parametrize("last_step", STEPS)
def test_wherever_a_writer_is_killed_reads_are_as_new_as_the_database(
    memcached: Memcached, unique: str, tmp_path: Path, last_step: str
) -> None:
    path = str(tmp_path / "shop.db")
    outbox = SQLiteOutbox(path)
    outbox.install_schema()
    with sqlite3.connect(path) as connection:
        connection.execute("create table users (name text)")
        connection.execute("insert into users values ('old')")
    connection.close()
    store = MemcachedStore([memcached.address], timeout=10, connect_timeout=10)
    cache = TaggedCache(store, unique, strict=True, hold_off=0.5, clock_skew=0)
    applier = MemcachedApplier(store, unique, strict=True, hold_off=0.5)

    def in_database() -> str:
        reader = sqlite3.connect(path)
        try:
            return str(reader.execute("select name from users").fetchone()[0])
        finally:
            reader.close()

    def read() -> str:
        return cache.get_or_load("k", in_database, tags=TAGS)

    until(lambda: read() == "old" and cache.get("k", tags=TAGS) == "old")

    assert killed(lambda step: write(path, outbox, cache, applier, step), last_step)
    # A writer that is gone must not keep its lock.
    now = in_database()
    after_the_kill = read()
    until(lambda: cache.get("k", tags=TAGS) is not None or read() != now)
    cached_again = read()
    OutboxWorker(outbox, applier).drain()
    outbox.close()

    assert now == ("new" if STEPS.index(last_step) >= 4 else "old")
    assert after_the_kill == cached_again == now
    assert read() == now


def write(
    path: str,
    outbox: SQLiteOutbox,
    cache: TaggedCache,
    applier: MemcachedApplier,
    step: Callable[[str], None],
) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("begin immediate")
    step("begun")
    connection.execute("update users set name = 'new'")
    step("written")
    receipt = outbox.enqueue_in(connection, cache.namespace, batch())
    step("enqueued")
    with cache.quarantine(receipt.batch):
        step("quarantined")
        connection.execute("commit")
    step("committed")
    for intent in receipt.batch:
        applier.apply_invalidation(intent)
    step("applied")


def killed(work: Callable[[Callable[[str], None]], None], last_step: str) -> bool:
    """Run ``work`` in a process that is killed at ``last_step``."""

    def step(name: str) -> None:
        if name == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            work(step)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

"""One load for a herd, and nobody is given what another may have and he may not.

Each rule has the interleaving that breaks without it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from typing import Any, Callable

import pytest

from faulty_memcached import FaultyMemcached, Mode
from hydracache_sync import (
    InvalidationIntent,
    MemcachedApplier,
    MemcachedStore,
    MemoryStore,
    TaggedCache,
)
from hydracache_sync.cache import CacheStore
from hydracache_sync.cache.entries import Look
from hydracache_sync.cache.tokens import COLD, fresh_tokens
from servers import Memcached

TAGS = ("users", "user:42")

#: Seconds for what must happen; only a failing test waits for them.
DEADLINE = 30.0


@pytest.fixture(params=["memory", "memcached"])
def store(request: pytest.FixtureRequest) -> CacheStore:
    if request.param == "memory":
        return MemoryStore()
    server: Memcached = request.getfixturevalue("memcached")
    return MemcachedStore([server.address], timeout=10, connect_timeout=10)


@pytest.fixture
def cache(store: CacheStore, unique: str) -> TaggedCache:
    return TaggedCache(store, unique, max_wait=DEADLINE)


@pytest.fixture
def elsewhere(store: CacheStore, unique: str) -> TaggedCache:
    """The same cache in another process, as far as flights go."""
    return TaggedCache(store, unique, max_wait=DEADLINE)


@pytest.fixture
def applier(store: CacheStore, unique: str) -> MemcachedApplier:
    return MemcachedApplier(store, unique)


class Load:
    """A loader that stops in the middle until it is told to go on."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.calls = 0
        self.started = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> Any:
        self.calls += 1
        self.started.set()
        assert self.go_on.wait(DEADLINE)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Reader:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except Exception as exc:
            self.error = exc

    def end(self) -> Any:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


def read(cache: TaggedCache, load: Callable[[], Any], **more: Any) -> Reader:
    return Reader(lambda: cache.get_or_load("k", load, tags=TAGS, **more))


def never() -> Any:
    raise AssertionError("loaded")


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def all_joined(cache: TaggedCache, load: Load, others: int) -> bool:
    # Each has looked and missed; the last step to the flight takes no round trip.
    return cache.diagnostics().misses >= others + 1


# One load


def test_of_many_threads_one_loads(cache: TaggedCache) -> None:
    load = Load({"rows": [1]})
    leader = read(cache, load)
    assert load.started.wait(DEADLINE)
    others = [read(cache, never) for _ in range(20)]
    until(lambda: all_joined(cache, load, 20))

    load.go_on.set()
    values = [reader.end() for reader in [leader, *others]]

    assert values == [{"rows": [1]}] * 21
    assert len(set(map(id, values))) == 21
    assert cache.get("k", tags=TAGS) == {"rows": [1]}
    diagnostics = cache.diagnostics()
    # Who came late to the flight has hit the entry.
    assert diagnostics.joined + diagnostics.hits == 21


def test_of_several_processes_one_loads(
    cache: TaggedCache, elsewhere: TaggedCache
) -> None:
    load = Load("v")
    leader = read(cache, load)
    assert load.started.wait(DEADLINE)
    others = [read(elsewhere, never) for _ in range(5)]
    until(lambda: all_joined(elsewhere, load, 4))

    load.go_on.set()

    assert [reader.end() for reader in [leader, *others]] == ["v"] * 6


def test_200_readers_of_a_cold_key_in_4_processes_load_once(
    memcached: Memcached, unique: str
) -> None:
    gate, loads = os.pipe(), os.pipe()
    children = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for _ in range(4):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                status = 1
                try:
                    os.close(gate[1])
                    os.read(gate[0], 1)
                    status = 0 if fifty_readers(memcached, unique, loads[1]) else 1
                finally:
                    os._exit(status)
            children.append(child)

    os.close(gate[1])
    statuses = [os.waitpid(child, 0)[1] for child in children]
    os.close(gate[0])
    os.close(loads[1])
    with open(loads[0], "rb") as pipe:
        loaded = pipe.read()

    assert statuses == [0] * 4
    assert loaded == b"1"


def fifty_readers(memcached: Memcached, unique: str, loads: int) -> bool:
    store = MemcachedStore([memcached.address], timeout=20, connect_timeout=20)
    cache = TaggedCache(store, unique, max_wait=DEADLINE)
    barrier = threading.Barrier(50)

    def load() -> str:
        os.write(loads, b"1")
        time.sleep(0.2)
        return "v"

    def call() -> Any:
        barrier.wait(DEADLINE)
        return cache.get_or_load("k", load, tags=TAGS)

    readers = [Reader(call) for _ in range(50)]
    return [reader.end() for reader in readers] == ["v"] * 50


def test_a_holder_of_the_lock_that_was_killed_delays_the_others_once(
    store: CacheStore, unique: str
) -> None:
    cache = TaggedCache(store, unique, max_wait=0.3)
    cache.reserve("k", tags=TAGS)
    lock = cache._keyspace.load_lock("k")
    store.set_many([(lock, b"killed!!", None)])

    started = time.monotonic()
    value = cache.get_or_load("k", lambda: "v", tags=TAGS)
    waited = time.monotonic() - started

    assert value == "v"
    assert waited >= 0.3
    assert cache.diagnostics().waited_in_vain == 1
    # The entry is there, so that nobody waits again.
    assert cache.get_or_load("k", never, tags=TAGS) == "v"


def test_behind_a_holder_that_was_killed_each_process_loads_once(
    store: CacheStore, unique: str
) -> None:
    cache = TaggedCache(store, unique, max_wait=0.5)
    cache.reserve("k", tags=TAGS)
    store.set_many([(cache._keyspace.load_lock("k"), b"killed!!", None)])
    load = Load("v")

    readers = [read(cache, load) for _ in range(20)]
    assert load.started.wait(DEADLINE)
    # Those who have joined are at the end of their wait by now, too.
    time.sleep(0.1)
    load.go_on.set()

    assert [reader.end() for reader in readers] == ["v"] * 20
    assert load.calls == 1


def test_a_leader_that_was_lost_delays_nobody_twice(
    store: CacheStore, unique: str
) -> None:
    cache = TaggedCache(store, unique, max_wait=0.05)
    [look], _ = cache._entries.with_missing([cache._entries.tokens_of("k", TAGS)], None)
    # Interrupted right after this, by a signal's handler for instance.
    Reader(lambda: cache._herd._flights.board((look.addresses[0], look.basis))).end()

    assert cache.get_or_load("k", lambda: "v", tags=TAGS) == "v"
    cache.delete("k")
    assert cache.get_or_load("k", lambda: "v", tags=TAGS) == "v"

    assert cache.diagnostics().waited_in_vain == 1


def test_the_lock_ends_by_itself(memcached: Memcached, unique: str) -> None:
    store = MemcachedStore([memcached.address], timeout=10, connect_timeout=10)
    cache = TaggedCache(store, unique, max_wait=0.5)
    look = Look._make(cache._entries.find("k", TAGS))
    lock, other = (cache._entries.lock_of(look, 0.5) for _ in range(2))

    assert lock.is_mine(cache._entries.take(lock))
    assert not other.is_mine(cache._entries.take(other))
    until(lambda: store.get_many([lock.address]) == [None])


def test_who_waits_loads_as_soon_as_the_holder_has_failed(
    cache: TaggedCache, elsewhere: TaggedCache
) -> None:
    failing = Load(LookupError("database away"))
    leader = read(cache, failing)
    assert failing.started.wait(DEADLINE)
    other = read(elsewhere, lambda: "v")
    until(lambda: elsewhere.diagnostics().misses == 1)

    failing.go_on.set()

    with pytest.raises(LookupError):
        leader.end()
    assert other.end() == "v"
    assert elsewhere.diagnostics().waited_in_vain == 0


def test_the_lock_is_given_back_with_the_entry(
    cache: TaggedCache, store: CacheStore
) -> None:
    lock = cache._keyspace.load_lock("k")
    held = []

    for _ in range(2):
        cache.get_or_load(
            "k", lambda: held.append(store.get_many([lock])[0] is not None), tags=TAGS
        )
        cache.delete("k")

    assert held == [True, True]
    assert store.get_many([lock]) == [None]


def test_nobody_waits_for_a_value_that_the_store_does_not_take(
    cache: TaggedCache, elsewhere: TaggedCache
) -> None:
    large = "x" * 1024 * 1024
    cache.get_or_load("k", lambda: large, tags=TAGS)
    again = Load(large)
    leader = read(cache, again)
    assert again.started.wait(DEADLINE)

    # Not even elsewhere: this load has taken no lock.
    value = elsewhere.get_or_load("k", lambda: "small", tags=TAGS)
    again.go_on.set()

    assert value == "small"
    assert leader.end() == large


def test_without_waiting_each_loads_at_once(store: CacheStore, unique: str) -> None:
    cache = TaggedCache(store, unique, max_wait=0)
    load = Load("first")
    leader = read(cache, load)
    assert load.started.wait(DEADLINE)

    assert cache.get_or_load("k", lambda: "second", tags=TAGS) == "second"

    load.go_on.set()
    assert leader.end() == "first"


# Errors


def test_an_error_is_for_its_caller_and_the_others_load_themselves(
    cache: TaggedCache,
) -> None:
    failing = Load(LookupError("of that caller alone"))
    leader = read(cache, failing)
    assert failing.started.wait(DEADLINE)
    others = [read(cache, lambda: "v") for _ in range(5)]
    until(lambda: all_joined(cache, failing, 5))

    failing.go_on.set()

    with pytest.raises(LookupError):
        leader.end()
    assert [reader.end() for reader in others] == ["v"] * 5
    assert cache.get("k", tags=TAGS) == "v"
    assert len(cache._herd._flights) == 0


def test_a_value_that_cannot_be_stored_leaves_nobody_waiting(
    cache: TaggedCache,
) -> None:
    bad = Load({1})
    leader = read(cache, bad)
    assert bad.started.wait(DEADLINE)
    other = read(cache, lambda: "v")
    until(lambda: all_joined(cache, bad, 1))

    bad.go_on.set()

    with pytest.raises(TypeError):
        leader.end()
    assert other.end() == "v"


def test_a_loader_may_ask_for_what_it_is_loading(cache: TaggedCache) -> None:
    def outer() -> str:
        return "outer " + cache.get_or_load("k", lambda: "inner", tags=TAGS)

    assert cache.get_or_load("k", outer, tags=TAGS) == "outer inner"


def test_a_forked_child_does_not_wait_for_a_load_of_its_parent(
    store: CacheStore, unique: str
) -> None:
    cache = TaggedCache(store, unique, max_wait=DEADLINE)
    load = Load("parent's")
    leader = read(cache, load)
    assert load.started.wait(DEADLINE)
    cache._store.delete_many([cache._keyspace.load_lock("k")])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(int(DEADLINE / 2))
        status = 1
        try:
            value = cache.get_or_load("k", lambda: "child's", tags=TAGS)
            status = 0 if value == "child's" else 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    load.go_on.set()

    assert leader.end() == "parent's"
    assert status == 0


# Whom one may join


@pytest.mark.parametrize(
    "intent",
    [
        InvalidationIntent.tag("users"),
        InvalidationIntent.key("k"),
        InvalidationIntent.flush(),
    ],
)
def test_who_comes_after_an_invalidation_does_not_join_a_load_from_before_it(
    cache: TaggedCache,
    elsewhere: TaggedCache,
    applier: MemcachedApplier,
    intent: InvalidationIntent,
) -> None:
    # So that the holder of the lock knows under what it loads.
    cache.reserve("k", tags=TAGS)
    old = Load("old")
    leader = read(cache, old)
    assert old.started.wait(DEADLINE)

    applier.apply_invalidation(intent)
    here = read(cache, lambda: "new").end()
    there = read(elsewhere, never).end()
    old.go_on.set()

    assert (here, there, leader.end()) == ("new", "new", "old")
    assert cache.get("k", tags=TAGS) != "old"


def test_who_waits_for_the_lock_does_not_take_what_was_invalidated_meanwhile(
    cache: TaggedCache, elsewhere: TaggedCache, applier: MemcachedApplier
) -> None:
    old = Load("old")
    leader = read(cache, old)
    assert old.started.wait(DEADLINE)
    waiting = read(elsewhere, lambda: "new")
    until(lambda: elsewhere.diagnostics().misses == 1)

    applier.apply_invalidation(InvalidationIntent.tag("users"))
    old.go_on.set()

    assert leader.end() == "old"
    assert waiting.end() == "new"
    assert cache.get("k", tags=TAGS) != "old"


def test_a_reader_of_an_older_snapshot_neither_joins_nor_is_joined(
    cache: TaggedCache,
) -> None:
    fresh = Load("fresh")
    leader = read(cache, fresh)
    assert fresh.started.wait(DEADLINE)
    older = Load("of an older snapshot")
    alone = read(cache, older, since=time.time() - 60)
    assert older.started.wait(DEADLINE)
    joining = read(cache, never)
    until(lambda: all_joined(cache, fresh, 2))

    older.go_on.set()
    assert alone.end() == "of an older snapshot"
    fresh.go_on.set()

    assert leader.end() == joining.end() == "fresh"


def test_who_may_not_store_takes_no_lock(cache: TaggedCache, store: CacheStore) -> None:
    cache.reserve("k", tags=TAGS)
    lock = cache._keyspace.load_lock("k")
    older = Load("old")
    alone = read(cache, older, since=time.time() - 60)
    assert older.started.wait(DEADLINE)

    lock_meanwhile = store.get_many([lock])
    value = cache.get_or_load("k", lambda: "fresh", tags=TAGS)
    older.go_on.set()

    assert lock_meanwhile == [None]
    assert value == "fresh"
    assert alone.end() == "old"


def test_who_may_store_no_longer_takes_no_lock_that_comes_free(
    cache: TaggedCache,
    elsewhere: TaggedCache,
    store: CacheStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = Load("old")
    leader = read(cache, old)
    assert old.started.wait(DEADLINE)
    lock = cache._keyspace.load_lock("k")
    token = cache._keyspace.tag_token(TAGS[0])
    look_again = elsewhere._entries.look_again

    def after_an_eviction(*args: Any) -> Any:
        # Between two looks of who waits: a token is gone, and the lock as well.
        store.delete_many([token, lock])
        return look_again(*args)

    monkeypatch.setattr(elsewhere._entries, "look_again", after_an_eviction)
    held = read(elsewhere, lambda: store.get_many([lock])).end()
    old.go_on.set()

    assert held == [None]
    assert leader.end() == "old"


def test_nobody_joins_while_the_store_does_not_answer(unique: str) -> None:
    with FaultyMemcached() as server:
        store = MemcachedStore([server.address], timeout=10, connect_timeout=10)
        cache = TaggedCache(store, unique, max_wait=DEADLINE)
        server.mode = Mode.REFUSE
        first = Load("first")
        leader = read(cache, first)
        assert first.started.wait(DEADLINE)

        value = cache.get_or_load("k", lambda: "second", tags=TAGS)
        first.go_on.set()

        assert value == "second"
        assert leader.end() == "first"


# Where tokens are cold


@pytest.fixture
def strict(store: CacheStore, unique: str) -> TaggedCache:
    return TaggedCache(store, unique, max_wait=DEADLINE, strict=True, hold_off=60)


def hold(cache: TaggedCache) -> None:
    """Hold the tag off, as a writer does before its commit."""
    [token] = fresh_tokens(1, int(time.time() * 1000), COLD)
    cache._store.set_many([(cache._keyspace.tag_token("users"), token, None)])


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "made"])
def test_who_comes_after_a_commit_does_not_join_a_load_that_had_started(
    strict: TaggedCache, marked: bool
) -> None:
    strict.reserve("k", tags=TAGS)
    if marked:
        hold(strict)
    before = Load("before the commit")
    leader = read(strict, before)
    assert before.started.wait(DEADLINE)

    # The commit; the token is the same before and after it.
    after = Load("after the commit")
    late = [read(strict, after) for _ in range(3)]
    until(lambda: all_joined(strict, before, 3))
    before.go_on.set()
    after.go_on.set()

    assert leader.end() == "before the commit"
    assert [reader.end() for reader in late] == ["after the commit"] * 3


def test_behind_a_load_under_way_the_others_gather_for_one_more(
    strict: TaggedCache,
) -> None:
    strict.reserve("k", tags=TAGS)
    hold(strict)
    first, second = Load("first"), Load("second")
    leader = read(strict, first)
    assert first.started.wait(DEADLINE)
    others = [read(strict, second) for _ in range(10)]
    until(lambda: len(waiting_flight(strict)) == 1 and all_joined(strict, first, 10))

    second.go_on.set()
    first.go_on.set()

    assert leader.end() == "first"
    assert [reader.end() for reader in others] == ["second"] * 10
    # All but those who were on their way to the flight when it started.
    assert second.calls <= 3
    assert strict.get("k", tags=TAGS) is None


def waiting_flight(cache: TaggedCache) -> list[Any]:
    flights = list(cache._herd._flights._flights.values())
    return [flight for flight in flights if flight.ahead is not None]

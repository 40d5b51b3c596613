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

from hydracache_sync import (
    InvalidationIntent,
    MemcachedApplier,
    MemcachedStore,
    MemoryStore,
    TaggedCache,
)
from hydracache_sync.cache import CacheStore
from hydracache_sync.cache.entries import Lookup
from hydracache_sync.cache.loads import limit as load_limit
from hydracache_sync.cache.loads.coalescer import LATE, LOADS_AT_ONCE
from hydracache_sync.cache.loads.limit import LoadLimit
from hydracache_sync.cache.tokens.token import COLD, fresh_tokens
from hydracache_sync.snapshots import NEVER, LocalMoment
from support.faulty_memcached import FaultyMemcached, Mode
from support.servers import Memcached

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


@pytest.mark.parametrize("tokens_are_there", [True, False])
def test_who_comes_late_to_a_lock_that_is_free_looks_again(
    cache: TaggedCache,
    elsewhere: TaggedCache,
    monkeypatch: pytest.MonkeyPatch,
    tokens_are_there: bool,
) -> None:
    if tokens_are_there:
        cache.reserve("k", tags=TAGS)
    lock_of = cache._entries.lock_of

    def late(*args: Any) -> Any:
        # Another process has missed later, loaded and stored by now.
        elsewhere.get_or_load("k", lambda: "v", tags=TAGS)
        time.sleep(LATE)
        return lock_of(*args)

    monkeypatch.setattr(cache._entries, "lock_of", late)

    assert cache.get_or_load("k", never, tags=TAGS) == "v"
    lock = cache._keyspace.load_lock("k")
    assert cache._store.get_many([lock]) == [None]


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
    [lookup], _ = cache._entries.with_missing(
        [cache._entries.tokens_of("k", TAGS)], None
    )
    # Interrupted right after this, by a signal's handler for instance.
    Reader(
        lambda: cache._loads._flights.join((lookup.addresses[0], lookup.token_prefix))
    ).end()

    assert cache.get_or_load("k", lambda: "v", tags=TAGS) == "v"
    cache.delete("k")
    assert cache.get_or_load("k", lambda: "v", tags=TAGS) == "v"

    assert cache.diagnostics().waited_in_vain == 1


def test_the_lock_ends_by_itself(memcached: Memcached, unique: str) -> None:
    store = MemcachedStore([memcached.address], timeout=10, connect_timeout=10)
    cache = TaggedCache(store, unique, max_wait=0.5)
    lookup = Lookup._make(cache._entries.find("k", TAGS))
    lock, other = (cache._entries.lock_of(lookup, 0.5) for _ in range(2))

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
    assert len(cache._loads._flights) == 0


def test_a_value_that_cannot_be_stored_leaves_nobody_waiting(
    cache: TaggedCache,
) -> None:
    bad = Load(1j)
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


def test_a_reader_of_an_older_snapshot_joins_a_load_that_would_be_its_hit(
    cache: TaggedCache,
) -> None:
    fresh = Load("fresh")
    leader = read(cache, fresh)
    assert fresh.started.wait(DEADLINE)
    older = read(cache, never, since=time.time() - 60)
    [flight] = cache._loads._flights._flights.values()
    until(lambda: flight._joined)

    fresh.go_on.set()

    assert leader.end() == older.end() == "fresh"


def test_nobody_joins_a_reader_of_an_older_snapshot(cache: TaggedCache) -> None:
    cache.reserve("k", tags=TAGS)
    older = Load("of an older snapshot")
    alone = read(cache, older, since=time.time() - 60)
    assert older.started.wait(DEADLINE)

    value = cache.get_or_load("k", lambda: "fresh", tags=TAGS)
    older.go_on.set()

    assert value == "fresh"
    assert alone.end() == "of an older snapshot"


def test_who_shows_rows_of_its_own_takes_nothing_of_others(cache: TaggedCache) -> None:
    fresh = Load("fresh")
    leader = read(cache, fresh)
    assert fresh.started.wait(DEADLINE)

    value = cache.get_or_load("k", lambda: "uncommitted", tags=TAGS, since=NEVER)
    fresh.go_on.set()

    assert value == "uncommitted"
    assert leader.end() == "fresh"


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
    reread = elsewhere._entries.reread

    def after_an_eviction(*args: Any) -> Any:
        # Between two looks of who waits: a token is gone, and the lock as well.
        store.delete_many([token, lock])
        return reread(*args)

    monkeypatch.setattr(elsewhere._entries, "reread", after_an_eviction)
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


# Loads that are slow, hang or raise

#: Seconds. Readers relieve a slow load after so many. More than a busy machine keeps a
#: thread waiting.
MAX_WAIT = 1.0


class Slow:
    """A loader that takes its time, and counts how often it runs, and at once.

    :ivar took: seconds of its longest call: more than it sleeps, on a busy machine.
    """

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.calls = 0
        self.most_at_once = 0
        self.took = 0.0
        self._running = 0
        self._lock = threading.Lock()

    def __call__(self) -> str:
        began = time.monotonic()
        with self._lock:
            self.calls += 1
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        time.sleep(self.seconds)
        with self._lock:
            self._running -= 1
            self.took = max(self.took, time.monotonic() - began)
        if self.error is not None:
            raise self.error
        return "v"


def spent(readers: int, call: Callable[[], Any]) -> list[float]:
    """Seconds that each of so many readers takes, all at once."""
    barrier = threading.Barrier(readers)

    def timed() -> float:
        barrier.wait(DEADLINE)
        began = time.monotonic()
        try:
            call()
        except LookupError:
            pass
        return time.monotonic() - began

    each = [Reader(timed) for _ in range(readers)]
    return [reader.end() for reader in each]


@pytest.fixture
def hasty(store: CacheStore, unique: str) -> TaggedCache:
    cache = TaggedCache(store, unique, max_wait=MAX_WAIT)
    cache.reserve("k", tags=TAGS)
    return cache


def test_a_slow_load_is_repeated_once_in_each_max_wait(hasty: TaggedCache) -> None:
    slow = Slow(4 * MAX_WAIT)

    seconds = spent(60, lambda: hasty.get_or_load("k", slow, tags=TAGS))

    # At the start, and after each max_wait until the first has ended: five, if each
    # sleeps for no longer than it should.
    assert 2 <= slow.calls <= 1 + slow.took / MAX_WAIT
    # Who does not load gets the value of the first, at once.
    assert sorted(seconds)[60 - slow.calls] < slow.took + 1.5 * MAX_WAIT


def test_a_slow_load_is_repeated_by_each_process_once_in_each_max_wait(
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
                    store = MemcachedStore(
                        [memcached.address], timeout=20, connect_timeout=20
                    )
                    cache = TaggedCache(store, unique, max_wait=MAX_WAIT)
                    slow = Slow(4 * MAX_WAIT)
                    spent(25, lambda: cache.get_or_load("k", slow, tags=TAGS))
                    os.write(loads[1], bytes([slow.calls]))
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)

    os.close(gate[1])
    statuses = [os.waitpid(child, 0)[1] for child in children]
    os.close(gate[0])
    os.close(loads[1])
    with open(loads[0], "rb") as pipe:
        calls = list(pipe.read())

    assert statuses == [0] * 4
    assert len(calls) == 4 and max(calls) <= 8


def test_to_wait_for_a_slow_load_costs_little_more_than_to_load(
    hasty: TaggedCache,
) -> None:
    slow = Slow(MAX_WAIT * 4 / 3)

    seconds = spent(8, lambda: hasty.get_or_load("k", slow, tags=TAGS))

    # All of them wait for the first, and one has begun after max_wait. It was 53 / 32.
    assert sum(seconds) < 8 * slow.took * 42 / 32


def test_a_load_that_raises_is_not_waited_for_again(hasty: TaggedCache) -> None:
    raising = Slow(MAX_WAIT / 2, LookupError())
    spent(1, lambda: hasty.get_or_load("k", raising, tags=TAGS))

    seconds = spent(8, lambda: hasty.get_or_load("k", raising, tags=TAGS))

    # It was 15 / 8.
    assert sum(seconds) < 8 * raising.took * 11 / 8
    assert hasty.get_or_load("k", lambda: "v", tags=TAGS) == "v"
    # What works again is waited for again.
    hasty.delete("k")
    slow = Slow(MAX_WAIT / 4)
    spent(8, lambda: hasty.get_or_load("k", slow, tags=TAGS))
    assert slow.calls == 1


def watched(cache: TaggedCache, looks: list[Any]) -> Callable[..., Any]:
    """Its ``reread``, which notes that it has been called."""
    reread = cache._entries.reread

    def noted(*args: Any) -> Any:
        found = reread(*args)
        looks.append(id(cache))
        return found

    return noted


def test_loads_that_raise_in_other_processes_are_not_waited_for_in_turn(
    cache: TaggedCache,
    store: CacheStore,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = [TaggedCache(store, unique, max_wait=DEADLINE) for _ in range(5)]
    cache.reserve("k", tags=TAGS)
    loads = [Load(LookupError()) for _ in range(6)]
    leader = read(cache, loads[0])
    assert loads[0].started.wait(DEADLINE)
    looks: list[Any] = []
    for other in others:
        monkeypatch.setattr(other._entries, "reread", watched(other, looks))
    waiting = [read(other, load) for other, load in zip(others, loads[1:])]
    until(lambda: len(set(looks)) == len(others))

    loads[0].go_on.set()

    # All at once, though none of them has ended.
    assert all(load.started.wait(DEADLINE) for load in loads)
    for load in loads:
        load.go_on.set()
    for reader in [leader, *waiting]:
        with pytest.raises(LookupError):
            reader.end()


def test_a_load_that_hangs_is_relieved_for_all(hasty: TaggedCache) -> None:
    hanging = Load("late")
    leader = read(hasty, hanging)
    assert hanging.started.wait(DEADLINE)
    relief = Load("v")

    others = [read(hasty, relief) for _ in range(20)]
    assert relief.started.wait(DEADLINE)
    # Also who comes now waits for both of them.
    late = read(hasty, relief)
    relief.go_on.set()

    assert [reader.end() for reader in [*others, late]] == ["v"] * 21
    assert relief.calls == 1
    hanging.go_on.set()
    assert leader.end() == "late"
    assert len(hasty._loads._flights) == 0


def test_loaders_that_need_each_other_end(hasty: TaggedCache) -> None:
    both = threading.Barrier(2)

    def crosswise(key: str, other: str) -> Any:
        def load() -> str:
            both.wait(DEADLINE)
            inner = hasty.get_or_load(other, lambda: "plain", tags=TAGS)
            return f"{key} of {inner}"

        return hasty.get_or_load(key, load, tags=TAGS)

    began = time.monotonic()
    a, b = Reader(lambda: crosswise("a", "b")), Reader(lambda: crosswise("b", "a"))
    values = {a.end(), b.end()}

    assert values <= {"a of plain", "b of plain", "a of b of plain", "b of a of plain"}
    assert time.monotonic() - began < 5 * MAX_WAIT


def test_a_loader_that_asks_for_its_own_key_in_another_thread_ends(
    hasty: TaggedCache,
) -> None:
    def load() -> str:
        inner = Reader(lambda: hasty.get_or_load("k", lambda: "inner", tags=TAGS))
        return f"outer {inner.end()}"

    began = time.monotonic()

    assert hasty.get_or_load("k", load, tags=TAGS) == "outer inner"
    assert time.monotonic() - began < 5 * MAX_WAIT


# Readers that may not fill


def test_of_readers_whose_snapshot_is_young_enough_one_loads(
    store: CacheStore, unique: str
) -> None:
    # As in a web app, where each request has a snapshot of its own.
    cache = TaggedCache(store, unique, clock_skew=0.0)
    # The first such reader has the tokens stamped.
    cache.reserve("k", tags=TAGS, since=time.time())
    time.sleep(0.01)
    slow = Slow(0.2)

    spent(16, lambda: cache.get_or_load("k", slow, tags=TAGS, since=LocalMoment.now()))

    assert slow.calls == 1
    assert cache.get("k", tags=TAGS) == "v"


def test_of_readers_that_may_not_fill_few_load_at_once(cache: TaggedCache) -> None:
    # Their tokens are younger than the snapshots, so that nothing is stored.
    began = time.time()
    cache.reserve("k", tags=TAGS)
    slow = Slow(0.05)

    spent(16, lambda: cache.get_or_load("k", slow, tags=TAGS, since=began))

    assert slow.most_at_once == LOADS_AT_ONCE
    assert cache.get("k", tags=TAGS) is None
    assert len(cache._loads._limit) == 0


def fill_up(cache: TaggedCache) -> tuple[Load, list[Reader]]:
    """As many loads as may run at once, by readers that may not fill.

    Nor may those who begin later: what was found of the tokens is forgotten.
    """
    cache._entries._seen.add = lambda found: None  # type: ignore[method-assign]
    cache.reserve("k", tags=TAGS)
    load = Load("before")
    readers = [read(cache, load, since=LocalMoment.now()) for _ in range(LOADS_AT_ONCE)]
    until(lambda: load.calls == LOADS_AT_ONCE)
    return load, readers


def waiting(cache: TaggedCache) -> int:
    return sum(len(each.waiting) for each in cache._loads._limit._keys.values())


def test_who_waits_takes_the_value_of_a_snapshot_that_began_after_it(
    cache: TaggedCache,
) -> None:
    before, first = fill_up(cache)
    early = [read(cache, never, since=LocalMoment.now()) for _ in range(10)]
    until(lambda: waiting(cache) == 10)
    # A request that begins now.
    newest = read(cache, lambda: ["after"], since=LocalMoment.now())
    until(lambda: waiting(cache) == 11)

    before.go_on.set()
    values = [reader.end() for reader in [newest, *early]]

    assert [reader.end() for reader in first] == ["before"] * LOADS_AT_ONCE
    assert values == [["after"]] * 11
    assert len(set(map(id, values))) == 11


@pytest.mark.parametrize("local", [True, False])
def test_who_waits_takes_no_value_that_may_be_older_than_its_own(
    cache: TaggedCache, local: bool
) -> None:
    since: float = LocalMoment.now()
    before, first = fill_up(cache)
    own = Slow(0)
    for number in range(1, 7):
        # Of before they asked; or a moment of which only the wall clock is known.
        moment = since if local else float(LocalMoment.now())
        first.append(read(cache, own, since=moment))
        until(lambda: waiting(cache) == number)

    before.go_on.set()

    values = [reader.end() for reader in first]
    assert values == ["before"] * LOADS_AT_ONCE + ["v"] * 6
    assert own.calls == 6


def test_who_waits_for_a_place_in_vain_loads_all_the_same(hasty: TaggedCache) -> None:
    before, first = fill_up(hasty)

    value = hasty.get_or_load("k", lambda: "v", tags=TAGS, since=LocalMoment.now())
    before.go_on.set()

    assert value == "v"
    assert [reader.end() for reader in first] == ["before"] * LOADS_AT_ONCE
    assert len(hasty._loads._limit) == 0


def test_who_is_interrupted_on_the_way_to_a_place_gives_it_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = LoadLimit(1)
    go_on = threading.Event()

    def load() -> None:
        limit.enter("k", 1, snapshot=None)
        go_on.wait(DEADLINE)
        limit.leave("k", None)

    first = Reader(load)
    until(lambda: len(limit) == 1)

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            go_on.set()
            first.end()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(load_limit.threading, "Event", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            limit.enter("k", 1, snapshot=None)

    assert len(limit) == 0


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
    flights = list(cache._loads._flights._flights.values())
    return [flight for flight in flights if flight.previous is not None]

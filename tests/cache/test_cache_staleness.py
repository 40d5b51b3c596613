"""TaggedCache: no value from before an invalidation is served after it.

Whatever is read, loaded, stored, evicted or created in between, in whatever order.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Sequence

import pytest

from hydracache_sync import MemcachedStore, MemoryStore, TaggedCache
from hydracache_sync.cache import Address, CacheStore, Keyspace, Write, fresh_token
from hydracache_sync.cache.tokens.token import is_live, is_placeholder, stamp_ms
from support.clock import FakeClock
from support.servers import Memcached

TAGS = ("users", "user:42")


@pytest.fixture(params=["memory", "memcached"])
def store(request: pytest.FixtureRequest) -> CacheStore:
    if request.param == "memory":
        return MemoryStore()
    server: Memcached = request.getfixturevalue("memcached")
    return MemcachedStore([server.address], timeout=10, connect_timeout=10)


@pytest.fixture
def cache(store: CacheStore, unique: str, clock: FakeClock) -> TaggedCache:
    return TaggedCache(store, unique, clock=clock)


@pytest.fixture
def applier(store: CacheStore, unique: str, clock: FakeClock) -> Applier:
    return Applier(store, unique, clock)


class Applier:
    """Invalidates as an applier does: a fresh token in place of the one there."""

    def __init__(self, store: CacheStore, namespace: str, clock: FakeClock) -> None:
        self.store = store
        self.keyspace = Keyspace(store.ring, namespace)
        self.clock = clock

    def tag(self, tag: str) -> None:
        self._renew(self.keyspace.tag_token(tag))

    def key(self, key: str) -> None:
        self._renew(self.keyspace.key_token(key))

    def flush(self) -> None:
        self._renew(self.keyspace.namespace_token())

    def evict(self, address: Address) -> None:
        assert self.store.delete_many([address]) == {}

    def token(self, address: Address) -> bytes | None:
        [token] = self.store.get_many([address])
        return token

    def _renew(self, address: Address) -> None:
        token = fresh_token(int(self.clock() * 1000))
        assert self.store.set_many([(address, token, None)]) == {}


#: Everything that can be invalidated about the key "user:42" read with TAGS.
INVALIDATIONS: list[Callable[[Applier], None]] = [
    lambda applier: applier.tag("users"),
    lambda applier: applier.tag("user:42"),
    lambda applier: applier.key("user:42"),
    lambda applier: applier.flush(),
]
ALL_TOKENS: list[Callable[[Keyspace], Address]] = [
    lambda keyspace: keyspace.tag_token("users"),
    lambda keyspace: keyspace.tag_token("user:42"),
    lambda keyspace: keyspace.key_token("user:42"),
    lambda keyspace: keyspace.namespace_token(),
]


def never() -> Any:
    raise AssertionError("loaded")


# Invalidating


@pytest.mark.parametrize("invalidate", INVALIDATIONS)
def test_each_invalidation_makes_the_next_read_a_miss(
    cache: TaggedCache, applier: Applier, invalidate: Callable[[Applier], None]
) -> None:
    cache.get_or_load("user:42", lambda: "old", tags=TAGS)

    invalidate(applier)

    assert cache.get("user:42", tags=TAGS) is None
    assert cache.get_or_load("user:42", lambda: "new", tags=TAGS) == "new"
    assert cache.get("user:42", tags=TAGS) == "new"


def test_invalidating_something_else_leaves_the_entry(
    cache: TaggedCache, applier: Applier
) -> None:
    cache.get_or_load("user:42", lambda: "v", tags=TAGS)

    applier.tag("user:43")
    applier.key("user:43")

    assert cache.get("user:42", tags=TAGS) == "v"


@pytest.mark.parametrize("invalidate", INVALIDATIONS)
@pytest.mark.parametrize("warm", [False, True])
def test_a_value_loaded_before_an_invalidation_is_not_served_after_it(
    cache: TaggedCache,
    applier: Applier,
    invalidate: Callable[[Applier], None],
    warm: bool,
) -> None:
    if warm:
        cache.get_or_load("other", lambda: "v", tags=TAGS)
        cache.reserve("user:42")

    def load_the_old_value_while_a_writer_is_faster() -> str:
        invalidate(applier)
        return "old"

    cache.get_or_load("user:42", load_the_old_value_while_a_writer_is_faster, tags=TAGS)

    assert cache.get("user:42", tags=TAGS) is None


@pytest.mark.parametrize("invalidate", INVALIDATIONS)
def test_a_reservation_does_not_outlive_an_invalidation(
    cache: TaggedCache, applier: Applier, invalidate: Callable[[Applier], None]
) -> None:
    reservation = cache.reserve("user:42", tags=TAGS)
    invalidate(applier)
    cache.get_or_load("user:42", lambda: "new", tags=TAGS)

    stored = reservation.fill("old")

    assert stored
    assert cache.get("user:42", tags=TAGS) is None


def test_a_late_fill_does_not_come_back_after_many_invalidations(
    cache: TaggedCache, applier: Applier
) -> None:
    reservation = cache.reserve("user:42", tags=TAGS)

    for _ in range(20):
        applier.tag("users")
        reservation.fill("old")
        assert cache.get("user:42", tags=TAGS) is None


# Losing


@pytest.mark.parametrize("address", ALL_TOKENS)
def test_an_entry_without_one_of_its_tokens_is_a_miss_for_good(
    cache: TaggedCache, applier: Applier, address: Callable[[Keyspace], Address]
) -> None:
    cache.get_or_load("user:42", lambda: "old", tags=TAGS)

    applier.evict(address(applier.keyspace))

    assert cache.get("user:42", tags=TAGS) is None
    # Somebody creates the token again; it is another one.
    cache.reserve("user:42", tags=TAGS)
    assert cache.get("user:42", tags=TAGS) is None
    assert cache.get_or_load("user:42", lambda: "new", tags=TAGS) == "new"


def test_an_evicted_entry_is_loaded_again(cache: TaggedCache, applier: Applier) -> None:
    cache.get_or_load("user:42", lambda: "v", tags=TAGS)

    applier.evict(applier.keyspace.entry("user:42"))

    assert cache.get_or_load("user:42", lambda: "again", tags=TAGS) == "again"


@pytest.mark.parametrize("address", ALL_TOKENS)
def test_a_token_evicted_while_loading_leaves_nothing_to_serve(
    cache: TaggedCache, applier: Applier, address: Callable[[Keyspace], Address]
) -> None:
    def load() -> str:
        applier.evict(address(applier.keyspace))
        return "old"

    cache.get_or_load("user:42", load, tags=TAGS)

    assert cache.get("user:42", tags=TAGS) is None
    cache.reserve("user:42", tags=TAGS)
    assert cache.get("user:42", tags=TAGS) is None


@pytest.mark.parametrize(
    "damaged", [b"", b"garbage", b"L" * 16, b"L" * 18, b"P" + b"x" * 16, b"\x00" * 17]
)
@pytest.mark.parametrize("address", ALL_TOKENS)
def test_a_token_of_no_known_kind_neither_serves_nor_allows_a_fill(
    cache: TaggedCache,
    applier: Applier,
    address: Callable[[Keyspace], Address],
    damaged: bytes,
) -> None:
    where = address(applier.keyspace)
    cache.get_or_load("user:42", lambda: "old", tags=TAGS)
    applier.store.set_many([(where, damaged, None)])

    assert cache.get_or_load("user:42", lambda: "new", tags=TAGS) == "new"

    assert cache.get("user:42", tags=TAGS) is None
    assert cache.diagnostics().refused_unknown == 1
    # It may be of a newer version of us: it stays as it is.
    assert applier.token(where) == damaged


def test_a_damaged_entry_is_loaded_again(cache: TaggedCache, applier: Applier) -> None:
    cache.get_or_load("user:42", lambda: "v", tags=TAGS)
    where = applier.keyspace.entry("user:42")
    for damaged in (b"", b"garbage", b"HC\x02" + b"x" * 200):
        applier.store.set_many([(where, damaged, None)])

        assert cache.get("user:42", tags=TAGS) is None
        assert cache.get_or_load("user:42", lambda: "again", tags=TAGS) == "again"


# Tokens before the load


def test_missing_tokens_are_there_before_the_loader_runs(
    cache: TaggedCache, applier: Applier, clock: FakeClock
) -> None:
    seen: list[bytes | None] = []

    def load() -> str:
        seen.extend(applier.token(where(applier.keyspace)) for where in ALL_TOKENS)
        return "v"

    cache.get_or_load("user:42", load, tags=TAGS)

    assert len(seen) == len(set(seen)) == 4
    for token in seen:
        assert token is not None and is_live(token) and is_placeholder(token)


def test_missing_tokens_are_stamped_before_a_loader_of_an_older_snapshot_runs(
    cache: TaggedCache, applier: Applier, clock: FakeClock
) -> None:
    seen: list[bytes | None] = []

    def load() -> str:
        seen.extend(applier.token(where(applier.keyspace)) for where in ALL_TOKENS)
        return "v"

    cache.get_or_load("user:42", load, tags=TAGS, since=clock())

    assert len(seen) == len(set(seen)) == 4
    for token in seen:
        assert token is not None and is_live(token)
        assert stamp_ms(token) == clock.now_ms


def test_a_token_without_a_stamp_keeps_every_older_snapshot_out(
    cache: TaggedCache, clock: FakeClock
) -> None:
    cache.get_or_load("user:42", lambda: "fresh", tags=TAGS)
    cache.delete("user:42")
    clock.advance(3600)

    cache.get_or_load("user:42", lambda: "v", tags=TAGS, since=clock())

    assert cache.get("user:42", tags=TAGS) is None
    assert cache.diagnostics().refused_snapshot == 1


def test_a_token_that_is_stamped_late_is_the_same_token(
    cache: TaggedCache, applier: Applier, clock: FakeClock
) -> None:
    cache.get_or_load("user:42", lambda: "v", tags=TAGS)
    cache.get_or_load("user:43", lambda: "x", tags=TAGS, since=clock())
    clock.advance(5)

    cache.get_or_load("user:43", lambda: "y", tags=TAGS, since=clock())

    assert cache.get("user:42", tags=TAGS) == "v"
    assert cache.get("user:43", tags=TAGS) == "y"
    assert stamp_ms(applier.token(applier.keyspace.tag_token("users")) or b"") == (
        clock.now_ms - 5000
    )


def test_tokens_that_are_there_are_left_as_they_are(
    cache: TaggedCache, applier: Applier
) -> None:
    cache.reserve("user:42", tags=TAGS)
    before = [applier.token(where(applier.keyspace)) for where in ALL_TOKENS]

    cache.get_or_load("user:42", lambda: "v", tags=TAGS)
    cache.get_or_load("user:43", lambda: "v", tags=TAGS)

    after = [applier.token(where(applier.keyspace)) for where in ALL_TOKENS]
    assert before == after


def test_a_token_that_another_created_first_is_the_one_filled_under(
    store: CacheStore,
    cache: TaggedCache,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rival = TaggedCache(store, unique)
    add_many = store.add_many

    def add_after_the_rival(writes: Sequence[Write]) -> list[bytes | None]:
        monkeypatch.undo()
        rival.reserve("user:42", tags=TAGS)
        return add_many(writes)

    monkeypatch.setattr(store, "add_many", add_after_the_rival)
    cache.get_or_load("user:42", lambda: "v", tags=TAGS)

    assert rival.get("user:42", tags=TAGS) == "v"
    assert cache.diagnostics().fills == 1


def test_of_many_who_miss_at_once_the_last_fill_is_served(
    store: CacheStore, unique: str
) -> None:
    cache = TaggedCache(store, unique)
    barrier = threading.Barrier(8)
    loaded: list[str] = []

    def read(number: int) -> None:
        barrier.wait()
        loaded.append(cache.get_or_load("k", lambda: f"of {number}", tags=TAGS))

    threads = [threading.Thread(target=read, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(loaded) == 8
    assert cache.get("k", tags=TAGS) in loaded
    diagnostics = cache.diagnostics()
    assert diagnostics.hits + diagnostics.misses == 9
    assert diagnostics.fills + diagnostics.joined == diagnostics.misses


# Snapshots


@pytest.mark.parametrize(
    ("begun_after", "stored"),
    [(-10.0, False), (0.0, False), (0.999, False), (1.0, False), (1.0005, False)]
    + [(1.002, True), (60.0, True)],
)
@pytest.mark.parametrize("how", ["since", "snapshot", "reserve"])
def test_a_value_is_stored_only_if_its_snapshot_is_younger_than_every_token(
    store: CacheStore,
    unique: str,
    clock: FakeClock,
    applier: Applier,
    begun_after: float,
    stored: bool,
    how: str,
) -> None:
    moment = clock.now_ms / 1000 + begun_after
    snapshot = (lambda: moment) if how == "snapshot" else None
    cache = TaggedCache(store, unique, clock=clock, snapshot=snapshot, clock_skew=1.0)
    clock.advance(-100)
    cache.reserve("user:42", tags=TAGS, since=clock())
    clock.advance(100)
    applier.tag("users")
    clock.advance(61)

    if how == "reserve":
        assert cache.reserve("user:42", tags=TAGS, since=moment).fill("v") == stored
    else:
        since = moment if how == "since" else None
        assert cache.get_or_load("user:42", lambda: "v", tags=TAGS, since=since) == "v"

    assert cache.get("user:42", tags=TAGS) == ("v" if stored else None)
    assert cache.diagnostics().refused_snapshot == (0 if stored else 1)


@pytest.mark.parametrize("unit", [1, 1000])
def test_a_moment_that_is_yet_to_come_proves_nothing(
    cache: TaggedCache, applier: Applier, clock: FakeClock, unit: int
) -> None:
    """It was given in milliseconds, or the clock was set back after it."""
    clock.advance(-100)
    cache.reserve("user:42", tags=TAGS, since=clock())
    clock.advance(100)
    since = clock() * unit
    clock.advance(-5)
    applier.tag("users")

    cache.get_or_load("user:42", lambda: "old", tags=TAGS, since=since)

    assert cache.get("user:42", tags=TAGS) is None
    assert cache.diagnostics().refused_snapshot == 1


@pytest.mark.parametrize("invalidate", INVALIDATIONS)
def test_a_young_token_of_any_kind_keeps_an_old_snapshot_out(
    cache: TaggedCache,
    applier: Applier,
    clock: FakeClock,
    invalidate: Callable[[Applier], None],
) -> None:
    clock.advance(-100)
    cache.reserve("user:42", tags=TAGS, since=clock())
    clock.advance(100)
    since = clock()
    clock.advance(5)
    invalidate(applier)

    cache.get_or_load("user:42", lambda: "old", tags=TAGS, since=since)

    assert cache.get("user:42", tags=TAGS) is None


def test_a_token_created_by_the_read_itself_is_too_young_for_its_snapshot(
    cache: TaggedCache, clock: FakeClock
) -> None:
    # An evicted token may have been fresh: nobody knows what its successor replaces.
    since = clock()
    clock.advance(0.01)

    cache.get_or_load("user:42", lambda: "v", tags=TAGS, since=since)

    assert cache.get("user:42", tags=TAGS) is None


def test_an_old_snapshot_may_read_what_is_cached(
    cache: TaggedCache, clock: FakeClock
) -> None:
    cache.get_or_load("user:42", lambda: "v", tags=TAGS)

    assert cache.get_or_load("user:42", never, tags=TAGS, since=clock() - 50) == "v"


def test_a_snapshot_of_none_means_a_fresh_one(
    store: CacheStore, unique: str, clock: FakeClock
) -> None:
    asked: list[str] = []
    cache = TaggedCache(
        store, unique, clock=clock, snapshot=lambda: asked.append("asked")
    )

    cache.get_or_load("user:42", lambda: asked.append("loaded"), tags=TAGS)
    cache.get_or_load("user:42", never, tags=TAGS)

    assert asked == ["asked", "loaded"]


def test_a_given_since_is_taken_in_place_of_the_snapshot(
    store: CacheStore, unique: str, clock: FakeClock
) -> None:
    cache = TaggedCache(store, unique, clock=clock, snapshot=never)
    cache.reserve("user:42", since=clock())
    clock.advance(60)

    cache.get_or_load("user:42", lambda: "v", since=clock())

    assert cache.get("user:42") == "v"

"""TaggedCache: what it serves and stores, what it refuses, and in how many round trips.

That nothing is served out of date is in ``test_cache_staleness.py``.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator

import pytest

from hydracache_sync import MemcachedStore, MemoryStore, Reservation, TaggedCache
from hydracache_sync.cache import Address, CacheStore, Keyspace, fresh_token
from support.clock import FakeClock
from support.faulty_memcached import FaultyMemcached
from support.servers import Memcached

ABSENT = object()
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


def renew(store: CacheStore, token: Address) -> None:
    """Invalidate, as an applier does."""
    assert store.set_many([(token, fresh_token(0), None)]) == {}


def never() -> Any:
    raise AssertionError("loaded")


# Serving


@pytest.mark.parametrize(
    "value", [b"bytes", "text", {"a": [1, 2.5, None]}, [], 0, None]
)
def test_a_loaded_value_is_served_from_then_on(cache: TaggedCache, value: Any) -> None:
    loaded = cache.get_or_load("user:42", lambda: value, tags=TAGS)

    assert loaded == value
    assert cache.get("user:42", tags=TAGS, default=ABSENT) == value
    assert cache.get_or_load("user:42", never, tags=TAGS) == value


def test_what_is_not_cached_is_the_default(cache: TaggedCache) -> None:
    assert cache.get("user:42", tags=TAGS) is None
    assert cache.get("user:42", tags=TAGS, default="default") == "default"


def test_a_cached_none_is_not_the_default(cache: TaggedCache) -> None:
    cache.get_or_load("user:42", lambda: None)

    assert cache.get("user:42", default="default") is None
    assert cache.get_or_load("user:42", never) is None


def test_the_order_and_repetition_of_tags_do_not_matter(cache: TaggedCache) -> None:
    cache.get_or_load("user:42", lambda: "v", tags=["a", "b", "c"])

    for tags in [("c", "a", "b"), ["b", "c", "a", "a"], {"a", "b", "c"}]:
        assert cache.get("user:42", tags=tags) == "v"
    assert cache.get("user:42", tags=(tag for tag in "bca")) == "v"


@pytest.mark.parametrize("tags", [(), ("a",), ("a", "b", "c"), ("a", "c"), ("ab",)])
def test_a_read_with_other_tags_is_a_miss(
    cache: TaggedCache, tags: tuple[str, ...]
) -> None:
    cache.get_or_load("user:42", lambda: "v", tags=("a", "b"))

    assert cache.get("user:42", tags=tags, default=ABSENT) is ABSENT


def test_namespaces_and_rings_do_not_see_each_other(
    store: CacheStore, cache: TaggedCache, unique: str
) -> None:
    cache.get_or_load("user:42", lambda: "v")

    assert TaggedCache(store, unique + "x").get("user:42") is None
    store.ring = "2"
    assert TaggedCache(store, unique).get("user:42") is None


def test_another_process_sees_the_same(
    store: CacheStore, cache: TaggedCache, unique: str
) -> None:
    cache.get_or_load("user:42", lambda: "v", tags=TAGS)

    assert TaggedCache(store, unique).get("user:42", tags=TAGS) == "v"


def test_a_changed_value_of_a_caller_does_not_change_the_cached_one(
    cache: TaggedCache,
) -> None:
    loaded = cache.get_or_load("user:42", lambda: {"rows": [1]})
    loaded["rows"].append(2)
    cache.get("user:42")["rows"].append(3)

    assert cache.get("user:42") == {"rows": [1]}


# Loaders and values


def test_what_a_loader_raises_comes_out_and_nothing_is_stored(
    cache: TaggedCache,
) -> None:
    def fail() -> None:
        raise LookupError("no such user")

    with pytest.raises(LookupError, match="no such user"):
        cache.get_or_load("user:42", fail, tags=TAGS)

    assert cache.get("user:42", tags=TAGS, default=ABSENT) is ABSENT
    assert cache.diagnostics().fills == 0


def test_a_value_of_a_wrong_type_is_an_error_and_leaves_nothing(
    cache: TaggedCache,
) -> None:
    with pytest.raises(TypeError, match="object"):
        cache.get_or_load("user:42", lambda: {"a": object()}, tags=TAGS)
    with pytest.raises(TypeError, match="complex"):
        cache.reserve("user:42", tags=TAGS).fill(1j)

    assert cache.get("user:42", tags=TAGS, default=ABSENT) is ABSENT


def test_a_value_over_the_item_limit_is_returned_counted_and_not_cached(
    cache: TaggedCache,
) -> None:
    large = "x" * (1024 * 1024)

    loaded = cache.get_or_load("user:42", lambda: large, tags=TAGS)

    assert loaded == large
    assert cache.get("user:42", tags=TAGS) is None
    assert cache.diagnostics().refused_size == 1
    assert cache.diagnostics().errors == 0
    assert not cache.reserve("user:42", tags=TAGS).fill(large)


def test_a_large_new_value_does_not_leave_the_old_one(
    cache: TaggedCache, store: CacheStore, unique: str
) -> None:
    cache.get_or_load("user:42", lambda: "old", tags=TAGS)
    renew(store, Keyspace(store.ring, unique).tag_token("users"))

    cache.get_or_load("user:42", lambda: "x" * (1024 * 1024), tags=TAGS)

    assert cache.get("user:42", tags=TAGS) is None


def test_a_loader_may_read_the_cache_itself(cache: TaggedCache) -> None:
    def outer() -> str:
        return "outer " + cache.get_or_load("inner", lambda: "inner", tags=("a",))

    assert cache.get_or_load("outer", outer, tags=("a", "b")) == "outer inner"
    assert cache.get("outer", tags=("a", "b")) == "outer inner"


def test_an_entry_lives_for_its_ttl(unique: str) -> None:
    clock = FakeClock()
    cache = TaggedCache(
        MemoryStore(clock=clock), unique, ttl=100, jitter=0, clock=clock
    )
    cache.get_or_load("default", lambda: "v")
    cache.get_or_load("short", lambda: "v", ttl=9.5)
    cache.get_or_load("endless", lambda: "v", ttl=0)
    cache.reserve("reserved").fill("v", ttl=50)

    def there() -> list[str]:
        names = ("default", "short", "endless", "reserved")
        return [name for name in names if cache.get(name) == "v"]

    clock.advance(9.9)
    assert there() == ["default", "short", "endless", "reserved"]
    clock.advance(0.2)
    assert there() == ["default", "endless", "reserved"]
    clock.advance(40)
    assert there() == ["default", "endless"]
    clock.advance(10**7)
    assert there() == ["endless"]


def test_delete_removes_the_entry_alone(cache: TaggedCache) -> None:
    cache.get_or_load("user:42", lambda: "v", tags=TAGS)
    cache.get_or_load("user:43", lambda: "v", tags=TAGS)

    assert cache.delete("user:42")
    assert cache.delete("never there")

    assert cache.get("user:42", tags=TAGS) is None
    assert cache.get("user:43", tags=TAGS) == "v"


# Arguments


@pytest.mark.parametrize(
    "tags", ["users", b"users", [1.5], [None], [b"users"], 5, [["a"]]]
)
def test_tags_that_are_no_texts_are_refused(cache: TaggedCache, tags: Any) -> None:
    for call in (cache.get, cache.reserve):
        with pytest.raises(TypeError):
            call("user:42", tags=tags)
    with pytest.raises(TypeError):
        cache.get_or_load("user:42", never, tags=tags)


@pytest.mark.parametrize(
    "text", ["", "ü" * 2048, "a b\r\n\x00", "🦆", "x" * 4096], ids=range(5)
)
def test_any_text_within_the_limit_is_a_key_and_a_tag(
    cache: TaggedCache, store: CacheStore, unique: str, text: str
) -> None:
    cache.get_or_load(text, lambda: "v", tags=(text,))
    assert cache.get(text, tags=(text,)) == "v"

    renew(store, Keyspace(store.ring, unique).tag_token(text))

    assert cache.get(text, tags=(text,)) is None


@pytest.mark.parametrize("key", ["x" * 4097, "ü" * 2049, "\ud800"], ids=range(3))
def test_a_key_out_of_its_limits_is_refused(cache: TaggedCache, key: str) -> None:
    for call in (cache.get, cache.reserve, cache.delete):
        with pytest.raises(ValueError, match="key"):
            call(key)


@pytest.mark.parametrize("tag", ["x" * 24578, "ü" * 12289, "\ud800"], ids=range(3))
def test_a_tag_out_of_its_limits_is_refused(cache: TaggedCache, tag: str) -> None:
    for call in (cache.get, cache.reserve):
        with pytest.raises(ValueError, match="tag"):
            call("user:42", tags=(tag,))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"ttl": -1}, ValueError),
        ({"ttl": "60"}, TypeError),
        ({"ttl": float("nan")}, ValueError),
        ({"since": float("nan")}, ValueError),
        ({"since": float("inf")}, ValueError),
        ({"since": "now"}, TypeError),
        ({"since": True}, TypeError),
    ],
)
def test_a_wrong_argument_is_refused_before_the_loader_runs(
    cache: TaggedCache, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match="ttl|since"):
        cache.get_or_load("user:42", never, **arguments)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"clock_skew": -0.1}, ValueError),
        ({"clock_skew": None}, TypeError),
        ({"ttl": -1}, ValueError),
        ({"ttl": "x"}, TypeError),
    ],
)
def test_a_wrong_setting_is_refused(
    settings: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match="clock_skew|ttl"):
        TaggedCache(MemoryStore(), "shop", **settings)


def test_thousands_of_different_tag_sets_are_not_all_remembered(unique: str) -> None:
    cache = TaggedCache(MemoryStore(), unique)

    for number in range(5000):
        cache.get("k", tags=(f"user:{number}", "users"))

    assert len(cache._entries.tag_sets._remembered) <= 1024


# Round trips


@pytest.fixture
def faulty() -> Iterator[FaultyMemcached]:
    with FaultyMemcached() as server:
        yield server


def test_a_hit_is_one_round_trip_and_a_miss_two_or_three(
    faulty: FaultyMemcached, unique: str
) -> None:
    cache = TaggedCache(
        MemcachedStore([faulty.address], timeout=10, connect_timeout=10), unique
    )

    def trips(call: Callable[[], object]) -> int:
        faulty.forget()
        call()
        return faulty.round_trips

    def load() -> object:
        return cache.get_or_load("user:42", lambda: "v", tags=TAGS)

    assert trips(lambda: cache.get("user:42", tags=TAGS)) == 1
    assert trips(load) == 3
    assert trips(load) == 1
    assert trips(lambda: cache.get("user:42", tags=TAGS)) == 1
    assert trips(lambda: cache.delete("user:42")) == 1
    assert trips(load) == 3
    assert trips(lambda: cache.reserve("user:42", tags=TAGS)) == 1
    assert trips(lambda: cache.reserve("user:43", tags=TAGS)) == 2
    reservation: Reservation = cache.reserve("user:42", tags=TAGS)
    assert trips(lambda: reservation.fill("v")) == 1
    assert faulty.connections == 0

"""TaggedCache beyond one key: many keys, values of one's own, soft TTL, stale on error.

What single reads do is in ``test_tagged_cache.py``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
import uuid
from collections import Counter
from typing import Any, Callable, Iterator, Sequence

import pytest

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryStore,
    Stale,
    TaggedCache,
    collection_tag,
    entity_tag,
)
from hydracache_sync.cache import CacheStore
from hydracache_sync.outage import CALM
from support.clock import FakeClock
from support.faulty_memcached import FaultyMemcached, Mode
from support.servers import Memcached

ABSENT = object()
TAGS = ("users", "user:42")


@pytest.fixture(params=["memory", "memcached"])
def store(request: pytest.FixtureRequest, clock: FakeClock) -> CacheStore:
    if request.param == "memory":
        return MemoryStore(clock=clock)
    server: Memcached = request.getfixturevalue("memcached")
    return MemcachedStore([server.address], timeout=10, connect_timeout=10)


@pytest.fixture
def cache(store: CacheStore, unique: str, clock: FakeClock) -> TaggedCache:
    return TaggedCache(store, unique, clock=clock)


@pytest.fixture
def applier(store: CacheStore, unique: str, clock: FakeClock) -> MemcachedApplier:
    return MemcachedApplier(store, unique, clock=clock)


@pytest.fixture
def faulty() -> Iterator[FaultyMemcached]:
    with FaultyMemcached() as server:
        yield server


def remote(server: FaultyMemcached, **settings: Any) -> TaggedCache:
    store = MemcachedStore([server.address], timeout=10, connect_timeout=10)
    return TaggedCache(store, "shop", **settings)


def never(*arguments: Any) -> Any:
    raise AssertionError("loaded")


def users_of(number: str) -> tuple[str, ...]:
    return entity_tag("user", number), collection_tag("users")


# Many keys


def test_many_keys_are_loaded_at_once_and_served_from_then_on(
    cache: TaggedCache,
) -> None:
    asked: list[list[str]] = []

    def load(keys: list[str]) -> dict[str, Any]:
        asked.append(keys)
        return {key: {"id": key} for key in keys}

    first = cache.get_many_or_load(["1", "2", "1"], load, tags=users_of)
    second = cache.get_many_or_load(iter(["2", "3"]), load, tags=users_of)

    assert first == {"1": {"id": "1"}, "2": {"id": "2"}}
    assert second == {"2": {"id": "2"}, "3": {"id": "3"}}
    assert asked == [["1", "2"], ["3"]]
    assert cache.get_many(["1", "2", "3", "4"], tags=users_of) == {**first, **second}
    assert cache.get("1", tags=users_of("1")) == {"id": "1"}


def test_the_tags_of_many_keys_may_be_the_same_or_a_mapping(cache: TaggedCache) -> None:
    by_key = {"a": ("x",), "b": ("y", "z")}

    cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, 1), tags=by_key)
    cache.get_many_or_load(["c"], lambda keys: dict.fromkeys(keys, 2), tags=TAGS)

    assert cache.get_many(["a", "b"], tags=by_key) == {"a": 1, "b": 1}
    assert cache.get_many(["a", "c"], tags=TAGS) == {"c": 2}
    assert cache.get("b", tags=["z", "y"]) == 1
    with pytest.raises(KeyError, match="c"):
        cache.get_many(["a", "c"], tags=by_key)


def test_a_key_that_the_loader_leaves_out_is_not_in_the_result(
    cache: TaggedCache,
) -> None:
    loaded = cache.get_many_or_load(["a", "b", "c"], lambda keys: {"a": None, "d": 1})

    assert loaded == {"a": None}
    assert cache.get_many(["a", "b", "c", "d"]) == {"a": None}


def test_no_key_asks_for_nothing(cache: TaggedCache) -> None:
    assert cache.get_many([]) == {}
    assert cache.get_many_or_load([], never) == {}
    with pytest.raises(TypeError, match="several"):
        cache.get_many("abc")


@pytest.mark.parametrize(
    ("asked", "given"),
    [("42", 42), (42, "42"), (str(uuid.UUID(int=7)), uuid.UUID(int=7))],
)
def test_a_loader_of_many_that_names_a_key_otherwise_is_refused(
    cache: TaggedCache, asked: Any, given: Any
) -> None:
    """Else what is there is taken for what is not."""
    with pytest.raises(TypeError, match="its keys must be those that it was given"):
        cache.get_many_or_load([asked, "gone"], lambda keys: {given: "v", "more": "v"})

    assert cache.get_many([asked, given]) == {}


@pytest.mark.parametrize("loaded", [["a", "b"], [("1", "a")], None, "1"], ids=repr)
def test_a_loader_of_many_that_names_no_keys_is_refused(
    cache: TaggedCache, loaded: Any
) -> None:
    said = f"must return a dict, .* not {type(loaded).__name__}$"
    with pytest.raises(TypeError, match=said):
        cache.get_many_or_load(["1", "2"], lambda keys: loaded)

    assert cache.get_many(["1", "2"]) == {}


def test_one_of_many_that_is_invalidated_is_loaded_anew(
    cache: TaggedCache, applier: MemcachedApplier
) -> None:
    cache.get_many_or_load(
        ["1", "2"], lambda keys: dict.fromkeys(keys, "old"), tags=users_of
    )

    applier.apply_invalidation(InvalidationIntent.entity("user", "1"))

    assert cache.get_many(["1", "2"], tags=users_of) == {"2": "old"}


def test_what_is_invalidated_while_many_are_loaded_is_not_served(
    cache: TaggedCache, applier: MemcachedApplier
) -> None:
    def load(keys: list[str]) -> dict[str, str]:
        applier.apply_invalidation(InvalidationIntent.entity("user", "1"))
        return dict.fromkeys(keys, "old")

    cache.get_many_or_load(["1", "2"], load, tags=users_of)

    assert cache.get_many(["1", "2"], tags=users_of) == {"2": "old"}


def test_many_values_of_an_old_snapshot_are_not_stored(
    cache: TaggedCache, clock: FakeClock
) -> None:
    since = clock()

    cache.get_many_or_load(["1"], lambda keys: {"1": "old"}, since=since)

    assert cache.get_many(["1"]) == {}
    assert cache.diagnostics().refused_snapshot == 1
    assert cache.diagnostics().fills == 0


def test_a_value_of_many_that_cannot_be_stored_leaves_all_of_them_out(
    cache: TaggedCache,
) -> None:
    with pytest.raises(TypeError, match="object"):
        cache.get_many_or_load(["a", "b"], lambda keys: {"a": 1, "b": object()})

    assert cache.get_many(["a", "b"]) == {}


def test_many_hits_are_one_round_trip_and_misses_three(
    faulty: FaultyMemcached,
) -> None:
    cache = remote(faulty)
    cache.get("connect")

    def trips(call: Callable[[], object]) -> int:
        faulty.forget()
        call()
        return faulty.round_trips

    def load() -> object:
        return cache.get_many_or_load(
            list("abcdefgh"), lambda keys: dict.fromkeys(keys, 1), tags=TAGS
        )

    assert trips(load) == 3
    assert trips(load) == 1
    assert trips(lambda: cache.get_many(list("abcdefgh"), tags=TAGS)) == 1


# Values of one's own


def test_a_value_is_set_with_the_moment_its_snapshot_began(
    cache: TaggedCache, clock: FakeClock
) -> None:
    cache.get("user:42", tags=TAGS)
    cache.reserve("user:42", tags=TAGS, since=clock())
    clock.advance(5)

    assert cache.set("user:42", "v", tags=TAGS, since=clock())
    assert cache.get("user:42", tags=TAGS) == "v"


def test_a_value_is_not_set_under_a_token_as_young_as_its_snapshot(
    cache: TaggedCache, clock: FakeClock, applier: MemcachedApplier
) -> None:
    cache.reserve("user:42", tags=TAGS, since=clock())
    clock.advance(60)
    since = clock()
    applier.apply_invalidation(InvalidationIntent.tag("users"))

    assert not cache.set("user:42", "old", tags=TAGS, since=since)
    assert cache.get("user:42", tags=TAGS, default=ABSENT) is ABSENT


def test_set_without_since_does_not_exist(cache: TaggedCache) -> None:
    with pytest.raises(TypeError, match="since"):
        cache.set("user:42", "v", tags=TAGS)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="since"):
        cache.set("user:42", "v", tags=TAGS, since=None)  # type: ignore[arg-type]


# Lifetime


IDS = [42, uuid.UUID(int=42)]


@pytest.mark.parametrize("id", IDS, ids=repr)
def test_an_id_is_the_same_key_and_tag_as_its_text(
    cache: TaggedCache, applier: MemcachedApplier, id: Any
) -> None:
    text = str(id)

    assert cache.get_or_load(id, lambda: "Ada", tags=[id]) == "Ada"

    assert cache.get(text, tags=[text]) == cache.get(id, tags=(id,)) == "Ada"
    assert cache.get_many([id, text], tags=[id]) == {id: "Ada", text: "Ada"}
    assert cache.get_many([id], tags={id: [text]}) == {id: "Ada"}
    assert cache.get_many_or_load(
        [id, 7], lambda keys: {keys[0]: "Bob"}, tags=[id]
    ) == {
        id: "Ada",
        7: "Bob",
    }
    applier.apply_invalidation(InvalidationIntent.tag(id))
    assert cache.get(id, tags=[id]) is None
    assert cache.reserve(id, tags=[id]).fill("Eve")
    assert cache.get(text, tags=[text]) == "Eve"
    applier.apply_invalidation(InvalidationIntent.key(id))
    assert cache.get(text, tags=[text]) is None
    assert cache.reserve(id).fill("Eve") and cache.delete(id)
    assert cache.get(text) is None


@pytest.mark.parametrize("id", IDS, ids=repr)
def test_what_is_being_written_is_known_by_an_id_or_by_its_text(
    cache: TaggedCache, id: Any
) -> None:
    values = iter(range(100))
    batch = InvalidationIntentBatch().invalidate_key(id).invalidate_tag(id)

    with cache.writing(batch):
        for key, tag in ((id, "a"), (str(id), "a"), ("a", id), ("a", str(id))):
            first = cache.get_or_load(key, lambda: next(values), tags=[tag])
            assert cache.get_or_load(key, lambda: next(values), tags=[tag]) != first
            assert cache.get_many([key], tags=[tag]) == {}
            assert not cache.reserve(key, tags=[tag]).fillable


@pytest.mark.parametrize("wrong", [True, 1.0, None, b"1", (1,)], ids=repr)
def test_a_key_or_tag_that_is_no_id_is_refused_by_name(
    cache: TaggedCache, clock: FakeClock, wrong: Any
) -> None:
    # To a dict these are the number 1, under which nothing may be remembered.
    cache.get("1", tags=["b", 1])
    kind = type(wrong).__name__
    batch = InvalidationIntentBatch().flush()
    now = clock()

    with contextlib.ExitStack() as stack:
        for _ in range(2):  # also in a block in which every read goes round the cache
            for field, key, tags in (("key", wrong, []), ("tag", "a", ["b", wrong])):
                for call in (
                    lambda: cache.get(key, tags=tags),
                    lambda: cache.get_or_load(key, lambda: "value", tags=tags),
                    lambda: cache.get_many([key], tags=tags),
                    lambda: cache.get_many_or_load([key], lambda _: {}, tags=tags),
                    lambda: cache.reserve(key, tags=tags),
                    lambda: cache.set(key, "value", tags=tags, since=now),
                    lambda: cache.cached(key=lambda: key, tags=tags)(str)(),
                ):
                    with pytest.raises(
                        TypeError,
                        match=f"^{field} must be str, int or UUID, not {kind}",
                    ):
                        call()
            with pytest.raises(TypeError, match="^key must be str, int or UUID"):
                cache.delete(wrong)
            stack.enter_context(cache.writing(batch))


@pytest.mark.parametrize("tags", ["user:42", 42, uuid.UUID(int=42)], ids=repr)
def test_a_single_tag_in_place_of_several_is_refused(
    cache: TaggedCache, tags: Any
) -> None:
    with pytest.raises(TypeError, match="tags must be several texts"):
        cache.get("key", tags=tags)


def test_entries_stored_together_do_not_end_together(
    unique: str, clock: FakeClock
) -> None:
    cache = TaggedCache(MemoryStore(clock=clock), unique, ttl=1000, jitter=0.5)
    keys = [str(number) for number in range(200)]
    cache.get_many_or_load(keys, lambda missing: dict.fromkeys(missing, "v"))
    left = []

    for _ in range(10):
        clock.advance(100)
        left.append(len(cache.get_many(keys)))

    assert left[:5] == [200] * 5
    assert 200 > left[5] > left[6] > left[7] > left[8] > left[9] == 0


def test_an_entry_may_live_for_longer_than_memcached_counts(
    memcached: Memcached, unique: str
) -> None:
    store = MemcachedStore([memcached.address], timeout=10, connect_timeout=10)
    cache = TaggedCache(store, unique)

    cache.get_or_load("month", lambda: "v", ttl=31 * 24 * 3600)
    cache.get_or_load("century", lambda: "v", ttl=100 * 365 * 24 * 3600)

    assert cache.get_many(["month", "century"]) == {"month": "v", "century": "v"}


def test_a_soft_ttl_beyond_all_clocks_is_never_due(cache: TaggedCache) -> None:
    cache.get_or_load("k", lambda: "v", tags=TAGS, ttl=0, soft_ttl=1e30)

    assert cache.get_or_load("k", never, tags=TAGS, ttl=0, soft_ttl=1e30) == "v"


@pytest.mark.parametrize(("ttl", "soft_ttl"), [(10, 11), (10, 10), (None, 3600)])
def test_a_soft_ttl_that_no_entry_lives_to_see_is_refused(
    cache: TaggedCache, ttl: float | None, soft_ttl: float
) -> None:
    said = "soft_ttl must be below ttl"

    with pytest.raises(ValueError, match=said):
        cache.get_or_load("k", never, ttl=ttl, soft_ttl=soft_ttl)
    with pytest.raises(ValueError, match=said):
        cache.refresh("k", never, ttl=ttl, soft_ttl=soft_ttl)
    with pytest.raises(ValueError, match=said):
        cache.set("k", "v", ttl=ttl, soft_ttl=soft_ttl, since=1.0)
    with pytest.raises(ValueError, match=said):
        cache.reserve("k").fill("v", ttl, soft_ttl=soft_ttl)
    with pytest.raises(ValueError, match=said):
        cache.cached(tags=(), ttl=ttl, soft_ttl=soft_ttl)


def test_a_soft_ttl_of_a_cache_is_below_its_ttl() -> None:
    with pytest.raises(ValueError, match="soft_ttl must be below ttl, not 20"):
        TaggedCache(MemoryStore(), "shop", ttl=10, soft_ttl=20)

    cache = TaggedCache(MemoryStore(), "shop", ttl=0, soft_ttl=20)
    assert cache.get_or_load("short", lambda: "v", ttl=10) == "v"
    assert cache.get_or_load("short", never, ttl=10) == "v"


def test_past_its_soft_ttl_an_entry_is_loaded_anew_and_serves_until_then(
    cache: TaggedCache, clock: FakeClock
) -> None:
    values = iter(["first", "second", "third"])

    def load() -> str:
        return next(values)

    def read() -> str:
        return cache.get_or_load("k", load, tags=TAGS, soft_ttl=100)

    assert [read(), read()] == ["first", "first"]
    clock.advance(101)
    assert cache.get("k", tags=TAGS) == "first"
    assert [read(), read()] == ["second", "second"]
    clock.advance(101)
    assert read() == "third"
    assert cache.diagnostics().refreshed == 2


def test_while_one_loads_anew_the_others_get_the_entry(
    cache: TaggedCache, clock: FakeClock
) -> None:
    cache.get_or_load("k", lambda: "old", tags=TAGS, soft_ttl=100)
    clock.advance(101)
    seen = []

    def load() -> str:
        # In this process, and in another one.
        other = TaggedCache(cache._store, cache.namespace, clock=clock)
        for reader in (cache, other):
            seen.append(reader.get_or_load("k", never, tags=TAGS, soft_ttl=100))
        return "new"

    assert cache.get_or_load("k", load, tags=TAGS, soft_ttl=100) == "new"
    assert seen == ["old", "old"]


def test_what_is_invalidated_while_it_is_loaded_anew_is_not_served(
    cache: TaggedCache, clock: FakeClock, applier: MemcachedApplier
) -> None:
    cache.get_or_load("k", lambda: "old", tags=TAGS, soft_ttl=100)
    clock.advance(101)

    def load() -> str:
        applier.apply_invalidation(InvalidationIntent.tag("users"))
        return "old again"

    cache.get_or_load("k", load, tags=TAGS, soft_ttl=100)

    assert cache.get("k", tags=TAGS) is None


@pytest.fixture
def no_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first success end an outage."""
    readings = itertools.count(0.0, CALM)
    monkeypatch.setattr(time, "monotonic", lambda: next(readings))


@pytest.mark.usefixtures("no_calm")
def test_if_loading_anew_fails_the_entry_serves_on_and_the_log_says_so_once(
    cache: TaggedCache, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cache.get_or_load("k", lambda: "v", soft_ttl=100)
    clock.advance(101)

    def fail() -> str:
        raise LookupError("database away")

    assert cache.get_or_load("k", fail, soft_ttl=100) == "v"
    # The lock stays, so that not every reader tries.
    assert cache.get_or_load("k", never, soft_ttl=100) == "v"
    cache.delete("k")
    cache.get_or_load("k", lambda: "v", soft_ttl=100)
    clock.advance(101)
    assert cache.get_or_load("k", lambda: "new", soft_ttl=100) == "new"

    texts = [record.getMessage() for record in caplog.records]
    assert [text for text in texts if "loading again" in text] == [
        f"loading again for the cache of namespace {cache.namespace} fails:"
        " database away",
        f"loading again for the cache of namespace {cache.namespace} works again",
    ]


def test_a_reader_of_an_older_snapshot_loads_anew_if_it_may_store(
    cache: TaggedCache, clock: FakeClock, applier: MemcachedApplier
) -> None:
    """A web app's readers all say when their snapshot may have begun."""
    cache.get_or_load("k", lambda: "first", tags=TAGS, soft_ttl=100)
    before = clock()
    clock.advance(101)

    def read(load: Callable[[], str], since: float) -> str:
        return cache.get_or_load("k", load, tags=TAGS, soft_ttl=100, since=since)

    # Tokens of readers have no stamp, so nobody knows what is younger than they are.
    assert read(never, clock()) == "first"
    clock.advance(3)
    assert read(never, before) == "first"
    assert read(never, 0.0) == "first"
    assert read(lambda: "second", clock()) == "second"
    assert cache.get("k", tags=TAGS) == "second"
    assert cache.diagnostics().refreshed == 1


# Stale on error


def fail() -> Any:
    raise LookupError("database away")


def test_an_outdated_value_comes_only_if_asked_for_and_is_marked(
    cache: TaggedCache, applier: MemcachedApplier
) -> None:
    cache.get_or_load("k", lambda: "old", tags=TAGS)
    applier.apply_invalidation(InvalidationIntent.tag("users"))

    with pytest.raises(LookupError):
        cache.get_or_load("k", fail, tags=TAGS)
    stale = cache.get_or_load("k", fail, tags=TAGS, stale_on_error=lambda stale: stale)

    assert isinstance(stale, Stale)
    assert stale.value == "old"
    assert isinstance(stale.error, LookupError)
    assert cache.diagnostics().stale_on_error == 1
    assert cache.get("k", tags=TAGS) is None


def test_without_anything_outdated_the_error_comes_out(cache: TaggedCache) -> None:
    with pytest.raises(LookupError):
        cache.get_or_load("k", fail, tags=TAGS, stale_on_error=never)
    cache.get_or_load("k", lambda: "other tags", tags=("other",))
    with pytest.raises(LookupError):
        cache.get_or_load("k", fail, tags=TAGS, stale_on_error=never)


def test_an_outdated_value_does_not_hide_a_mistake_of_the_program(
    cache: TaggedCache, applier: MemcachedApplier
) -> None:
    cache.get_or_load("k", lambda: "old", tags=TAGS)
    applier.apply_invalidation(InvalidationIntent.tag("users"))

    with pytest.raises(TypeError, match="object"):
        cache.get_or_load("k", object, tags=TAGS, stale_on_error=never)


# What this thread is writing


@pytest.mark.parametrize(
    "intent",
    [
        InvalidationIntent.key("k"),
        InvalidationIntent.tag("users"),
        InvalidationIntent.entity("user", "42"),
        InvalidationIntent.flush(),
    ],
)
def test_what_is_being_written_is_neither_read_from_the_cache_nor_stored(
    cache: TaggedCache, intent: InvalidationIntent
) -> None:
    cache.get_or_load("k", lambda: "before", tags=TAGS)
    batch = InvalidationIntentBatch()
    earlier = cache.reserve("k", tags=TAGS)

    with cache.writing(batch):
        assert cache.get("k", tags=TAGS) == "before"
        batch.intent(intent)
        assert not earlier.fill("own")
        assert cache.get("k", tags=TAGS) is None
        assert cache.get_or_load("k", lambda: "own", tags=TAGS) == "own"
        assert cache.get_many(["k"], tags=TAGS) == {}
        many = cache.get_many_or_load(["k"], lambda keys: {"k": "own"}, tags=TAGS)
        assert many == {"k": "own"}
        assert not cache.reserve("k", tags=TAGS).fill("own")
        assert not cache.set("k", "own", tags=TAGS, since=2e9)

    assert cache.get("k", tags=TAGS) == "before"
    assert cache.diagnostics().bypassed > 0


def test_many_intents_are_looked_through_once_and_not_at_each_read(
    cache: TaggedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = Counter[InvalidationIntent]()
    really = InvalidationIntent.to_cache_invalidation

    def counted(intent: InvalidationIntent) -> Any:
        looked_at[intent] += 1
        return really(intent)

    def copied(batch: InvalidationIntentBatch) -> Any:
        raise AssertionError("a read has copied the whole batch")

    monkeypatch.setattr(InvalidationIntent, "to_cache_invalidation", counted)
    batch = InvalidationIntentBatch()
    monkeypatch.setattr(InvalidationIntentBatch, "intents", property(copied))
    with cache.writing(batch):
        for number in range(100):
            batch.invalidate_entity("item", str(number))
            assert cache.get_or_load("k", lambda: "v", tags=TAGS) == "v"
            assert cache.reserve(f"{number}", tags=TAGS).fill("v")

    assert len(looked_at) == 100
    # A second time where a loaded value is to be stored, by the addresses.
    assert set(looked_at.values()) == {2}


def test_wrong_arguments_are_told_as_always_while_something_is_written(
    cache: TaggedCache,
) -> None:
    batch = InvalidationIntentBatch().invalidate_key("other").invalidate_tag("t")

    with cache.writing(batch):
        with pytest.raises(TypeError, match="tag"):
            cache.get("k", tags=[["users"]])  # type: ignore[list-item]


def test_what_is_not_being_written_is_read_as_always(cache: TaggedCache) -> None:
    batch = InvalidationIntentBatch().invalidate_key("other").invalidate_tag("k")

    with cache.writing(batch):
        assert cache.get_or_load("k", lambda: "v", tags=TAGS) == "v"
        assert cache.get_or_load("k", never, tags=TAGS) == "v"


def test_blocks_of_writing_nest_and_end_with_an_error(cache: TaggedCache) -> None:
    outer, inner = InvalidationIntentBatch().flush(), InvalidationIntentBatch().flush()
    cache.get_or_load("k", lambda: "v")

    with pytest.raises(LookupError), cache.writing(outer):
        with cache.writing(inner):
            pass
        assert cache.get("k") is None
        raise LookupError

    assert cache.get("k") == "v"


# A store that fails


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.GARBAGE, Mode.SERVER_ERROR])
def test_a_failing_store_is_a_load_everywhere(
    faulty: FaultyMemcached, mode: Mode
) -> None:
    store = MemcachedStore([faulty.address], timeout=0.2, connect_timeout=10)
    cache = TaggedCache(store, "shop", soft_ttl=10)
    faulty.mode = mode

    assert cache.get("k") is None
    assert cache.get_many(["k"]) == {}
    assert cache.get_or_load("k", lambda: "v", tags=TAGS) == "v"
    assert cache.get_many_or_load(["k"], lambda keys: {"k": "v"}) == {"k": "v"}
    assert not cache.set("k", "v", since=2e9)
    assert not cache.delete("k")
    assert cache.diagnostics().errors >= 6


def test_a_call_asks_a_failing_store_once(faulty: FaultyMemcached) -> None:
    store = MemcachedStore([faulty.address], timeout=0.05, connect_timeout=10)
    cache = TaggedCache(store, "shop")
    faulty.mode = Mode.HANG
    calls: list[Callable[[], object]] = [
        lambda: cache.get("k"),
        lambda: cache.get_or_load("k", lambda: "v"),
        lambda: cache.get_many_or_load(["k", "l"], lambda keys: {}),
        lambda: cache.set("k", "v", since=2e9),
    ]

    for number, call in enumerate(calls, start=1):
        call()
        assert cache.diagnostics().errors == number


def test_tags_of_reads_are_those_of_intents() -> None:
    entity = InvalidationIntent.entity("us:er", "4%2").to_cache_invalidation()
    collection = InvalidationIntent.collection("users:active").to_cache_invalidation()

    tags: Sequence[str | None] = (entity.value, collection.value)

    assert tags == (entity_tag("us:er", "4%2"), collection_tag("users:active"))

"""Kinds of entities: a token that all reads of a kind rest on."""

from __future__ import annotations

import pytest

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryStore,
    TaggedCache,
    collection_tag,
    entity_tag,
    kind_tag,
)
from hydracache_sync.cache import EntityKinds

ALL_USERS = InvalidationIntent.tag(kind_tag("user"))
USER = entity_tag("user", 42)
ORDER = entity_tag("order", 7)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def cache(store: MemoryStore) -> TaggedCache:
    return TaggedCache(store, "shop", kinds=EntityKinds("user"))


def store_page(cache: TaggedCache, *tags: str) -> None:
    cache.get_or_load("page", lambda: "old", tags=tags)
    assert cache.get("page", tags=tags) == "old"


def apply(store: MemoryStore, *intents: InvalidationIntent) -> None:
    assert MemcachedApplier(store, "shop").apply_batch(intents) == [None] * len(intents)


@pytest.mark.parametrize("tags", [(USER,), (ORDER, USER), (entity_tag("user", "a:b"),)])
def test_a_change_of_a_kind_ends_the_pages_of_its_entities(
    store: MemoryStore, cache: TaggedCache, tags: tuple[str, ...]
) -> None:
    store_page(cache, *tags)

    apply(store, ALL_USERS)

    assert cache.get("page", tags=tags) is None


@pytest.mark.parametrize("tags", [(ORDER,), ("user",), ()])
def test_and_of_no_others(
    store: MemoryStore, cache: TaggedCache, tags: tuple[str, ...]
) -> None:
    store_page(cache, *tags)

    apply(store, ALL_USERS)

    assert cache.get("page", tags=tags) == "old"


def test_each_entity_has_its_own_token_still(
    store: MemoryStore, cache: TaggedCache
) -> None:
    store_page(cache, USER)

    apply(store, InvalidationIntent.entity("user", 43))
    assert cache.get("page", tags=[USER]) == "old"
    apply(store, InvalidationIntent.entity("user", 42))
    assert cache.get("page", tags=[USER]) is None


def test_a_kind_has_the_tag_of_no_entity_and_no_collection() -> None:
    texts = ["", "%", ":", "user", "user:", "user:%", "25", "user:%25"]
    tags = {entity_tag(one, other) for one in texts for other in texts}
    tags |= set(map(collection_tag, texts))

    assert tags.isdisjoint(map(kind_tag, texts))
    assert len(set(map(kind_tag, texts))) == len(texts)


def test_who_names_the_tag_reads_the_same_entry(
    store: MemoryStore, cache: TaggedCache
) -> None:
    store_page(cache, USER)
    other = TaggedCache(store, "shop")

    assert other.get("page", tags=[USER, kind_tag("user")]) == "old"


def test_what_was_stored_without_the_kind_is_not_served_with_it(
    store: MemoryStore, cache: TaggedCache
) -> None:
    store_page(TaggedCache(store, "shop"), USER)

    assert cache.get("page", tags=[USER]) is None


def test_kinds_may_be_added_while_a_cache_is_in_use(store: MemoryStore) -> None:
    kinds = EntityKinds()
    cache = TaggedCache(store, "shop", kinds=kinds)
    store_page(cache, USER)

    kinds.add("user")

    assert cache.get("page", tags=[USER]) is None
    store_page(cache, USER)
    apply(store, ALL_USERS)
    assert cache.get("page", tags=[USER]) is None


def test_a_read_inside_of_a_change_of_the_kind_goes_past_the_cache(
    cache: TaggedCache,
) -> None:
    store_page(cache, USER)
    batch = InvalidationIntentBatch().intent(ALL_USERS)

    with cache.writing(batch):
        assert cache.get_or_load("page", lambda: "new", tags=[USER]) == "new"
        assert cache.get_or_load("other", lambda: "new", tags=[ORDER]) == "new"

    assert cache.get("page", tags=[USER]) == "old"
    assert cache.get("other", tags=[ORDER]) == "new"


def test_get_many_and_reservations_rest_on_it_too(
    store: MemoryStore, cache: TaggedCache
) -> None:
    reservation = cache.reserve("reserved", tags=[USER])
    cache.get_many_or_load(["a"], lambda keys: {"a": "old"}, tags=[USER])

    apply(store, ALL_USERS)
    reservation.fill("old")

    assert cache.get_many(["a", "reserved"], tags=[USER]) == {}

"""What a load makes of a value that is for another load's caller alone."""

from __future__ import annotations

import contextlib
from typing import Any, Callable

import pytest

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryStore,
    TaggedCache,
)

TAGS = ["item"]


class Shop:
    """One item in a database that may be away, and what shows it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.cache = TaggedCache(self.store, "shop")
        self.name = "before"
        self.is_away = False

    def load(self) -> str:
        if self.is_away:
            raise ConnectionError("the database is away")
        return self.name

    def item(self) -> Any:
        """The item, or what it was if the database is away."""
        return self.cache.get_or_load(
            "item", self.load, tags=TAGS, stale_on_error=lambda stale: stale.value
        )

    def changes(self, name: str) -> None:
        self.name = name
        applier = MemcachedApplier(self.store, "shop")
        assert applier.apply_batch([InvalidationIntent.tag("item")]) == [None]


def by_get_or_load(shop: Shop, key: str, load: Callable[[], Any]) -> Any:
    return shop.cache.get_or_load(key, load, tags=TAGS)


def by_get_many_or_load(shop: Shop, key: str, load: Callable[[], Any]) -> Any:
    found = shop.cache.get_many_or_load([key], lambda keys: {key: load()}, tags=TAGS)
    return found[key]


def by_refresh(shop: Shop, key: str, load: Callable[[], Any]) -> Any:
    cached = shop.cache.get(key, tags=TAGS)
    return cached or shop.cache.refresh(key, load, tags=TAGS)


def by_a_function(shop: Shop, key: str, load: Callable[[], Any]) -> Any:
    return shop.cache.cached(key=lambda: key, tags=TAGS)(lambda: load())()


Read = Callable[[Shop, str, Callable[[], Any]], Any]


@pytest.fixture(params=[by_get_or_load, by_get_many_or_load, by_refresh, by_a_function])
def read(request: pytest.FixtureRequest) -> Read:
    found: Read = request.param
    return found


def test_what_is_made_of_an_outdated_value_is_not_stored(read: Read) -> None:
    shop = Shop()
    shop.item()
    shop.changes("after")

    shop.is_away = True
    page = read(shop, "page", lambda: read(shop, "box", lambda: [shop.item()]))
    shop.is_away = False

    assert page == ["before"]
    assert shop.cache.get_many(["page", "box"], tags=TAGS) == {}
    assert read(shop, "page", lambda: [shop.item()]) == ["after"]
    assert shop.cache.get("page", tags=TAGS) == ["after"]


def test_what_is_made_of_an_uncommitted_value_is_not_stored(read: Read) -> None:
    """Its own tags do not name what is being written: it has them of another key."""
    shop = Shop()
    batch = InvalidationIntentBatch().invalidate_key("item")

    with shop.cache.writing(batch):
        shop.name = "uncommitted"
        page = read(shop, "page", lambda: [shop.item()])
        other = read(shop, "other", lambda: ["unchanged"])
    shop.name = "before"

    assert (page, other) == (["uncommitted"], ["unchanged"])
    assert shop.cache.get_many(["page", "other"], tags=TAGS) == {"other": other}
    assert read(shop, "page", lambda: [shop.item()]) == ["before"]


def test_a_load_beside_it_is_stored(read: Read) -> None:
    shop = Shop()
    shop.item()
    shop.changes("after")
    shop.is_away = True

    def load() -> str:
        with contextlib.suppress(ConnectionError):
            read(shop, "nothing", shop.load)
        return "built"

    assert shop.item() == "before"
    assert read(shop, "page", load) == "built"
    assert shop.cache.get("page", tags=TAGS) == "built"


def test_nor_is_a_reservation_filled_with_it() -> None:
    shop = Shop()
    shop.item()
    shop.changes("after")
    shop.is_away = True

    reservation = shop.cache.reserve("page", tags=TAGS)
    assert not reservation.fill(shop.item())

    assert shop.cache.get("page", tags=TAGS) is None
    assert shop.cache.diagnostics().bypassed == 1

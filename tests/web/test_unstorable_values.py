"""A value that no cache keeps is refused at the first call, stored or not.

Else a page that was tried out while nothing could be stored fails in production, at the
first request that may store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
from shop import Shop, close_db, hydracache

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedStore,
    MemoryStore,
    TaggedCache,
)
from support.servers import free_port

PRICE = {"price": object()}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(
        tmp_path / "shop.db",
        first=lambda app: app.teardown_appcontext(close_db),
        options={"connection": lambda: None},
    )


def read(tags: list[str]) -> Any:
    return hydracache.get_or_load("price:1", lambda: PRICE, tags=tags)


def serve(shop: Shop, before: Callable[[], object], method: str = "GET") -> None:
    with shop.app.test_request_context(method=method):
        shop.app.preprocess_request()
        before()
        with pytest.raises(TypeError, match="cannot cache object at value.'price'."):
            read(["prices"])
        hydracache.discard()


class TestApp:
    def test_at_a_first_page_whose_tags_are_new(self, shop: Shop) -> None:
        serve(shop, lambda: None)

    def test_at_the_second_page(self, shop: Shop) -> None:
        serve(shop, lambda: None)
        serve(shop, lambda: None)

    def test_where_the_request_has_collected_it(self, shop: Shop) -> None:
        serve(shop, lambda: hydracache.invalidate_tag("prices"))

    def test_where_the_request_has_collected_something_else(self, shop: Shop) -> None:
        serve(shop, lambda: hydracache.invalidate_tag("others"))

    def test_where_the_request_has_changed_and_collected_nothing(
        self, shop: Shop
    ) -> None:
        def change() -> None:
            shop.rename("after")
            hydracache.request_writes().know(shop.db())  # type: ignore[union-attr]

        serve(shop, change, "POST")

    def test_where_an_earlier_page_of_the_browser_is_not_published(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hydracache, "earlier_are_published", lambda: False)

        serve(shop, lambda: None)

    def test_where_memcached_is_away(self, tmp_path: Path) -> None:
        shop = Shop(
            tmp_path / "shop.db",
            HYDRACACHE_MEMCACHED=f"127.0.0.1:{free_port()}",
        )

        serve(shop, lambda: None)

    def test_where_the_load_itself_has_written(self, shop: Shop) -> None:
        def load() -> Any:
            hydracache.request_writes().know(shop.db())  # type: ignore[union-attr]
            shop.rename("after")
            return PRICE

        with shop.app.test_request_context():
            shop.app.preprocess_request()
            with pytest.raises(TypeError, match="cannot cache object"):
                hydracache.get_or_load("price:1", load)


class TestCache:
    @pytest.fixture
    def cache(self) -> TaggedCache:
        return TaggedCache(MemoryStore(), "shop")

    def test_by_a_snapshot_that_is_too_old(self, cache: TaggedCache) -> None:
        with pytest.raises(TypeError, match="cannot cache object"):
            cache.get_or_load("price:1", lambda: PRICE, since=1.0)

    def test_where_one_of_many_may_not_be_stored(self, cache: TaggedCache) -> None:
        with pytest.raises(TypeError, match="cannot cache object"):
            cache.get_many_or_load(["a"], lambda keys: {"a": PRICE}, since=1.0)

    def test_while_this_thread_writes_it(self, cache: TaggedCache) -> None:
        with cache.writing(InvalidationIntentBatch().invalidate_key("a")):
            with pytest.raises(TypeError, match="cannot cache object"):
                cache.get_or_load("a", lambda: PRICE)
            with pytest.raises(TypeError, match="cannot cache object"):
                cache.get_many_or_load(["a"], lambda keys: {"a": PRICE})

    def test_where_no_node_answers(self) -> None:
        cache = TaggedCache(MemcachedStore([f"127.0.0.1:{free_port()}"]), "shop")

        with pytest.raises(TypeError, match="cannot cache object"):
            cache.get_or_load("a", lambda: PRICE)

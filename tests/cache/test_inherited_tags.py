"""Cached functions that call others: what they show is out of date when theirs is."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
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
from hydracache_sync.cache.functions import inherited_tags
from hydracache_sync.cache.functions.decorator import CachedFunction
from hydracache_sync.cache.functions.inherited_tags import MAX_REMEMBERED
from hydracache_sync.cache.tag_sets import MAX_TAGS
from support.servers import Memcached

#: Seconds for what must happen; only a failing test waits for them.
DEADLINE = 30.0


class Shop:
    """A page of orders, each of which shows its items; and one process's functions.

    :ivar loads: the keys that were loaded, in order.
    """

    def __init__(self, cache: TaggedCache, data: dict[str, list[str]]) -> None:
        self.cache = cache
        self.data = data
        self.loads: list[str] = []
        self.while_loading: Callable[[], None] = lambda: None

        def item(name: str) -> str:
            self.loads.append(f"item:{name}")
            return self.data[name][0]

        def order(number: str) -> list[str]:
            self.loads.append(f"order:{number}")
            names = self.data[number]
            shown = [self.item(name) for name in names]
            self.while_loading()
            return shown

        def page() -> list[list[str]]:
            self.loads.append("page")
            return [self.order(number) for number in self.data["page"]]

        self.item = self.cached(item, lambda name: [f"item-{name}"])
        self.order = self.cached(order, lambda number: [f"order-{number}"])
        self.page = self.cached(page, ["page"])

    def cached(self, function: Any, tags: Any, **more: Any) -> CachedFunction[Any]:
        name = function.__name__
        return self.cache.cached(
            key=lambda *args: ":".join((name, *args)), tags=tags, **more
        )(function)

    def loaded(self) -> list[str]:
        """What was loaded since this was asked last."""
        loads, self.loads = self.loads, []
        return loads


@pytest.fixture(params=["memory", "memcached"])
def store(request: pytest.FixtureRequest) -> CacheStore:
    if request.param == "memory":
        return MemoryStore()
    server: Memcached = request.getfixturevalue("memcached")
    return MemcachedStore([server.address], timeout=10, connect_timeout=10)


@pytest.fixture
def data() -> dict[str, list[str]]:
    return {"page": ["1"], "1": ["pen"], "pen": ["red"], "cap": ["new"]}


@pytest.fixture
def shop(store: CacheStore, unique: str, data: dict[str, list[str]]) -> Shop:
    return Shop(TaggedCache(store, unique, max_wait=DEADLINE), data)


@pytest.fixture
def elsewhere(store: CacheStore, unique: str, data: dict[str, list[str]]) -> Shop:
    """The same functions in another process, which remembers nothing of this one."""
    return Shop(TaggedCache(store, unique, max_wait=DEADLINE), data)


@pytest.fixture
def invalidate(store: CacheStore, unique: str) -> Callable[[str], None]:
    applier = MemcachedApplier(store, unique)
    return lambda tag: applier.apply_invalidation(InvalidationIntent.tag(tag))


def test_what_a_function_shows_of_another_goes_with_it(
    shop: Shop, elsewhere: Shop, invalidate: Callable[[str], None]
) -> None:
    for _ in range(4):
        assert shop.page() == [["red"]]
    # The first load has met tags under which nothing could be stored.
    assert shop.loaded() == ["page", "order:1", "item:pen", "page", "order:1"]
    assert shop.page.tags() == ("page", "item-pen", "order-1")

    # Another process has to meet them, too, and then gets what this one has stored.
    for _ in range(4):
        assert elsewhere.page() == [["red"]]
    assert elsewhere.loaded() == ["page", "order:1"]

    shop.data["pen"] = ["blue"]
    invalidate("item-pen")

    assert shop.page() == elsewhere.page() == shop.page() == [["blue"]]
    assert shop.loaded() == ["page", "order:1", "item:pen"]
    assert elsewhere.loaded() == []


def test_tags_that_a_load_meets_for_the_first_time_are_taken_over(
    shop: Shop, elsewhere: Shop, invalidate: Callable[[str], None]
) -> None:
    for each in (shop, elsewhere):
        each.page(), each.page()
    shop.data["1"] = ["pen", "cap"]
    invalidate("order-1")

    for each in (shop, elsewhere, shop, elsewhere):
        assert each.page() == [["red", "new"]]
    shop.data["cap"] = ["old"]
    invalidate("item-cap")

    for each in (shop, elsewhere, shop, elsewhere):
        assert each.page() == [["red", "old"]]
    # And those that it does not meet any more are left.
    shop.data["1"] = ["cap"]
    invalidate("order-1")
    for each in (shop, elsewhere, shop, elsewhere):
        assert each.page() == [["old"]]
    assert shop.page.tags() == ("page", "item-cap", "order-1")
    shop.loaded(), elsewhere.loaded()
    invalidate("item-pen")
    assert shop.page() == elsewhere.page() == [["old"]]
    assert shop.loaded() == elsewhere.loaded() == []


@pytest.mark.parametrize("known", [False, True])
def test_what_is_invalidated_while_it_is_shown_is_not_served(
    shop: Shop, invalidate: Callable[[str], None], known: bool
) -> None:
    if known:
        shop.order("1"), shop.order("1")
        invalidate("order-1")

    def change() -> None:
        shop.while_loading = lambda: None
        shop.data["pen"] = ["blue"]
        invalidate("item-pen")

    shop.while_loading = change

    assert shop.order("1") == ["red"]
    assert shop.order("1") == ["blue"]


def test_who_waits_for_a_load_does_not_get_what_was_invalidated_before_they_asked(
    shop: Shop, invalidate: Callable[[str], None]
) -> None:
    loading, go_on = threading.Event(), threading.Event()
    results: list[Any] = []

    def stop() -> None:
        shop.while_loading = lambda: None
        loading.set()
        assert go_on.wait(DEADLINE)

    shop.while_loading = stop
    early = threading.Thread(target=lambda: results.append(shop.order("1")))
    early.start()
    assert loading.wait(DEADLINE)
    shop.data["pen"] = ["blue"]
    invalidate("item-pen")
    late = [
        threading.Thread(target=lambda: results.append(shop.order("1")))
        for _ in range(3)
    ]
    for each in late:
        each.start()
    # They are waiting by now, or will load by themselves.
    late[0].join(0.2)
    go_on.set()
    for each in [early, *late]:
        each.join(DEADLINE)

    assert sorted(results) == [["blue"], ["blue"], ["blue"], ["red"]]


def test_a_function_that_has_all_tags_itself_is_stored_at_once(
    shop: Shop, invalidate: Callable[[str], None]
) -> None:
    order = shop.cached(
        shop.order.uncached,
        lambda number: [f"order-{number}", *shop.item.tags("pen")],
    )

    assert [order("1"), order("1")] == [["red"], ["red"]]
    assert shop.loaded() == ["order:1", "item:pen"]
    shop.data["pen"] = ["blue"]
    invalidate("item-pen")
    assert order("1") == ["blue"]


def test_a_function_may_keep_to_its_own_tags(
    shop: Shop, invalidate: Callable[[str], None]
) -> None:
    shop.order = shop.cached(
        shop.order.uncached, lambda number: [f"order-{number}"], inherit_tags=False
    )

    assert [shop.order("1"), shop.order("1")] == [["red"], ["red"]]
    assert shop.loaded() == ["order:1", "item:pen"]
    shop.page(), shop.page()

    # It answers for what it calls, and hands on its own.
    assert shop.page.tags() == ("page", "order-1")
    shop.data["pen"] = ["blue"]
    invalidate("item-pen")
    assert shop.order("1") == ["red"]


def test_tags_of_a_function_that_has_raised_are_taken_over(
    shop: Shop, invalidate: Callable[[str], None]
) -> None:
    def careful() -> str:
        try:
            return str(shop.item("hat"))
        except KeyError:
            return "no hat"

    load = shop.cached(careful, ())

    assert [load(), load()] == ["no hat", "no hat"]
    shop.data["hat"] = ["straw"]
    invalidate("item-hat")
    assert load() == "straw"


def test_a_key_that_ends_no_value_which_shows_it_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    user = cache.cached(key=lambda id: f"user:{id}", tags=())(lambda id: id)
    page = cache.cached(key=lambda id: f"page:{id}", tags=())(lambda id: [user(id)])

    user.intent(1)
    assert caplog.messages == []

    page(1)
    page.intent(1)
    assert caplog.messages == []

    user.intent(1)
    user.intent(2)
    [said] = caplog.messages
    assert "is invalidated by its key, which does not end the values of" in said


def test_past_its_soft_ttl_too_tags_are_met_before_a_value_is_stored(
    shop: Shop, invalidate: Callable[[str], None]
) -> None:
    shop.order = shop.cached(
        shop.order.uncached, lambda number: [f"order-{number}"], soft_ttl=0.001
    )
    shop.order("1"), shop.order("1")
    shop.data["1"] = ["cap"]

    deadline = time.monotonic() + DEADLINE
    while shop.order("1") != ["new"]:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    shop.data["cap"] = ["old"]
    invalidate("item-cap")

    assert shop.order("1") == ["old"]


def test_a_process_that_only_refreshes_stores_what_it_loads(
    shop: Shop, elsewhere: Shop
) -> None:
    shop.order("1"), shop.order("1")
    shop.data["1"] = ["cap"]

    assert elsewhere.order.refresh("1") == ["new"]
    assert elsewhere.loaded() == ["order:1", "item:cap", "order:1"]

    assert shop.order("1") == elsewhere.order("1") == ["new"]


def test_a_load_that_needs_itself_is_an_error(shop: Shop) -> None:
    def even(number: str) -> bool:
        return not odd(number)

    def odd(number: str) -> bool:
        return not cached_even(number)

    cached_even = shop.cached(even, ())

    with pytest.raises(RecursionError, match="load of 'even:1' calls .*even with the"):
        cached_even("1")

    def factorial(number: str) -> int:
        return int(number) * load(str(int(number) - 1)) if number != "0" else 1

    # With other arguments it is a call like others.
    load = shop.cached(factorial, ())
    assert load("5") == 120 and load("6") == 720


def test_what_a_load_has_started_is_no_part_of_it_after_its_end(shop: Shop) -> None:
    contexts: list[contextvars.Context] = []
    shop.while_loading = lambda: contexts.append(contextvars.copy_context())
    shop.page()

    # As a task of asyncio does, or a thread that was given its starter's context.
    assert contexts[0].run(shop.page) == [["red"]]


@pytest.mark.parametrize("store", ["memory"], indirect=True)
def test_more_tags_than_an_entry_has_are_not_stored(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"n{number}" for number in range(999)]
    shop.data.update({name: [name] for name in names})
    shop.data["1"] = names
    shop.order("1"), shop.order("1")
    assert shop.loaded().count("order:1") == 2

    shop.data["2"] = [*names, "pen"]
    with caplog.at_level(logging.INFO, logger=inherited_tags.__name__):
        big = shop.cached(shop.order.uncached, lambda number: [f"order-{number}"])
        for _ in range(3):
            assert len(big("2")) == 1000

    assert shop.loaded().count("order:2") == 3
    [line] = [
        record.getMessage()
        for record in caplog.records
        if record.name == inherited_tags.__name__
    ]
    assert "2 is not stored: with those of the functions it calls it has 1001" in line


def test_what_is_remembered_is_bounded(shop: Shop) -> None:
    def part() -> str:
        return "part"

    def whole(number: str) -> str:
        return cached_part()

    cached_part = shop.cached(part, [f"n{n}" for n in range(MAX_TAGS - 1)])
    cached_whole = shop.cached(whole, ["whole"])
    numbers = [str(n) for n in range(MAX_REMEMBERED // MAX_TAGS + 20)]
    for number in numbers:
        cached_whole(number)

    remembered = sum(len(cached_whole.tags(number)) for number in numbers)
    assert remembered <= MAX_REMEMBERED + MAX_TAGS

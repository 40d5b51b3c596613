"""Functions with a cache in front: keys that never meet, tags, methods."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import uuid
from typing import Any, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync import (
    InvalidationIntent,
    MemcachedApplier,
    MemoryStore,
    TaggedCache,
    entity_tag,
)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Size(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2
    LIST = 4


def users(*arguments: Any, **named: Any) -> None:
    """Only for its keys."""


@pytest.fixture
def cache() -> TaggedCache:
    return TaggedCache(MemoryStore(), "shop")


def test_a_call_with_the_same_arguments_is_cached(cache: TaggedCache) -> None:
    calls: list[tuple[int, str]] = []

    @cache.cached(tags=["users"])
    def load(number: int, kind: str = "user") -> dict[str, Any]:
        """Say who."""
        calls.append((number, kind))
        return {"id": number, "kind": kind}

    results = [load(1), load(number=1), load(1, "user"), load(1, kind="user")]

    assert results == [{"id": 1, "kind": "user"}] * 4
    assert calls == [(1, "user")]
    assert load(2) == {"id": 2, "kind": "user"}
    assert load(1, "bot") == {"id": 1, "kind": "bot"}
    assert len(calls) == 3
    assert load.__name__ == "load" and load.__doc__ == "Say who."


def test_none_is_a_result(cache: TaggedCache) -> None:
    calls = []

    @cache.cached()
    def load(number: int) -> None:
        calls.append(number)

    assert load(1) is None and load(1) is None
    assert calls == [1]


def test_key_and_tags_are_made_from_the_arguments(cache: TaggedCache) -> None:
    calls = []

    @cache.cached(
        key=lambda number: f"user:{number}",
        tags=lambda number: [entity_tag("user", str(number))],
        ttl=60,
    )
    def load(number: int) -> int:
        calls.append(number)
        return number

    load(1), load(1), load(2)
    applier = MemcachedApplier(cache._store, "shop")
    applier.apply_invalidation(InvalidationIntent.entity("user", "1"))
    load(1), load(2)

    assert calls == [1, 2, 1]
    assert load.key(7) == "user:7"
    assert load.tags(7) == ["user:7"]
    assert load.uncached(7) == 7
    assert cache.get("user:1", tags=["user:1"]) == 1


def test_the_result_of_one_call_can_be_invalidated(cache: TaggedCache) -> None:
    calls = []

    @cache.cached()
    def load(number: int) -> int:
        calls.append(number)
        return number

    load(1), load(2)
    MemcachedApplier(cache._store, "shop").apply_invalidation(load.intent(1))
    load(1), load(2)

    assert calls == [1, 2, 1]


def test_a_method_is_cached_by_object(cache: TaggedCache) -> None:
    class Shop:
        def __init__(self, name: str) -> None:
            self.cache_key = name

        @cache.cached(tags=lambda self, number: [f"{self.cache_key}-{number}"])
        def item(self, number: int) -> str:
            return f"{self.cache_key} {number}"

        @classmethod
        @cache.cached()
        def title(cls, number: int) -> str:
            return f"{cls.__name__} {number}"

        @staticmethod
        @cache.cached()
        def price(number: int) -> int:
            return number * 2

    one, two = Shop("one"), Shop("two")

    assert [one.item(1), two.item(1), one.item(1)] == ["one 1", "two 1", "one 1"]
    assert cache.diagnostics().hits == 1
    assert one.item.key(1) != two.item.key(1)
    assert one.item.tags(1) == ["one-1"]
    assert one.item.uncached(5) == "one 5"
    assert one.item.intent(1) == Shop.item.intent(one, 1)
    assert Shop.title(1) == "Shop 1"
    assert one.price(4) == 8


def test_an_object_without_a_text_of_its_own_needs_a_key(cache: TaggedCache) -> None:
    @cache.cached()
    def load(what: object) -> None:
        """Never runs."""

    for argument in (object(), [1], {"a": 1}, {1}, lambda: None, b"x".__iter__()):
        with pytest.raises(TypeError, match="argument what of .*load.*key="):
            load(argument)


class Text(str):
    pass


DIFFERENT: list[Any] = [
    None, True, False, 0, 1, 0.0, 1.0, -0.0, "", "1", "None", "True", b"", b"1",
    (), (1,), ((1,),), ("a", "b"), ("a b",), ("a,b",), Colour.RED, Colour.BLUE,
    Size.RED,
    Access.READ | Access.WRITE,
    Access.READ | Access.LIST,
    Access(0), int, str, decimal.Decimal(1), decimal.Decimal("1.0"),
    uuid.UUID(int=1), datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
]  # fmt: skip


def test_different_arguments_never_have_the_same_key(cache: TaggedCache) -> None:
    load = cache.cached()(users)

    keys = [load.key(value) for value in DIFFERENT]
    keys += [load.key(a, b) for a in DIFFERENT for b in DIFFERENT]
    keys += [load.key(), load.key(a=1), load.key(b=1), load.key(a=1, b=2)]
    keys += [load.key(("a", 1)), load.key("a", 1)]

    assert len(set(keys)) == len(keys)
    with pytest.raises(TypeError, match="Text"):
        load.key(Text("1"))


scalars = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
values = st.recursive(scalars, lambda inner: st.lists(inner).map(tuple), max_leaves=5)


def typed(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple, tuple(map(typed, value))
    return type(value), value


@given(st.lists(values), st.lists(values))
def test_keys_are_equal_exactly_when_the_arguments_are(
    ours: list[Any], theirs: list[Any]
) -> None:
    load = TaggedCache(MemoryStore(), "shop").cached()(users)

    same = typed(tuple(ours)) == typed(tuple(theirs))

    assert (load.key(*ours) == load.key(*theirs)) == same


@given(st.lists(values))
def test_every_key_is_one_that_a_cache_takes(arguments: list[Any]) -> None:
    cache = TaggedCache(MemoryStore(), "shop")

    assert cache.cached()(users)(*arguments) is None


def test_what_cannot_be_cached_is_refused_at_once(cache: TaggedCache) -> None:
    async def coroutine() -> None:
        """Nothing."""

    def generator() -> Iterator[int]:
        yield 1

    for function in (coroutine, generator):
        with pytest.raises(TypeError, match="coroutine|generator"):
            cache.cached()(function)
    for nameless in (lambda: 1, functools.partial(users)):
        with pytest.raises(TypeError, match="give @cached a key="):
            cache.cached()(nameless)
    with pytest.raises(TypeError, match="above"):
        cache.cached()(staticmethod(users))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ttl"):
        cache.cached(ttl=-1)

"""Functions with a cache in front: keys that never meet, tags, methods."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import importlib
import io
import runpy
import struct
import sys
import types
import uuid
import zoneinfo
from pathlib import Path
from typing import Any, Callable, Iterator

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


class Shown(enum.Enum):
    """Members with a name of the class's own, which is the same for both."""

    FIRST = 1
    SECOND = 2

    @property
    def name(self) -> str:
        return "one of two"


class Access(enum.Flag):
    READ = 1
    WRITE = 2
    LIST = 4


def users(*arguments: Any, **named: Any) -> None:
    """Only for its keys."""


#: What ``described`` was called with.
calls: list[tuple[int, str]] = []


def described(number: int, kind: str = "user") -> dict[str, Any]:
    """Say who."""
    calls.append((number, kind))
    return {"id": number, "kind": kind}


def numbered(number: int, seen: None = None) -> None:
    calls.append((number, "number"))


class Service:
    """One of each tenant's."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    def fetch(self) -> str:
        return self.tenant

    @classmethod
    def named(cls) -> str:
        return cls.__name__

    def __call__(self) -> str:
        return self.tenant


class Shop:
    cached: Any

    def __init__(self, name: str) -> None:
        self.cache_key = name

    def item(self, number: int) -> str:
        return f"{self.cache_key} {number}"

    def title(cls: type, number: int) -> str:  # type: ignore[misc]  # a class method
        return f"{cls.__name__} {number}"

    def price(number: int) -> int:  # type: ignore[misc]  # a static one
        return number * 2


@pytest.fixture
def cache() -> TaggedCache:
    return TaggedCache(MemoryStore(), "shop")


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


def test_a_call_with_the_same_arguments_is_cached(cache: TaggedCache) -> None:
    load = cache.cached(tags=["users"])(described)

    results = [load(1), load(number=1), load(1, "user"), load(1, kind="user")]

    assert results == [{"id": 1, "kind": "user"}] * 4
    assert calls == [(1, "user")]
    assert load(2) == {"id": 2, "kind": "user"}
    assert load(1, "bot") == {"id": 1, "kind": "bot"}
    assert len(calls) == 3
    assert load.__name__ == "described" and load.__doc__ == "Say who."


def test_none_is_a_result(cache: TaggedCache) -> None:
    load = cache.cached(tags=())(numbered)

    assert load(1) is None and load(1) is None
    assert calls == [(1, "number")]


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
    assert load.tags(7) == ("user:7",)
    assert load.uncached(7) == 7
    assert cache.get("user:1", tags=["user:1"]) == 1


def test_the_result_of_one_call_can_be_invalidated(cache: TaggedCache) -> None:
    load = cache.cached(tags=())(numbered)

    load(1), load(2)
    MemcachedApplier(cache._store, "shop").apply_invalidation(load.intent(1))
    load(1), load(2)

    assert [number for number, _ in calls] == [1, 2, 1]


def test_tags_are_given_or_said_to_be_none(cache: TaggedCache) -> None:
    with pytest.raises(TypeError, match="missing .* argument: 'tags'"):
        cache.cached()  # type: ignore[call-arg]
    for wrong in ("users", 42, uuid.UUID(int=1)):
        with pytest.raises(TypeError, match="tags must be several texts"):
            cache.cached(tags=wrong)(described)  # type: ignore[arg-type]
        load = cache.cached(key=str, tags=lambda number: wrong)(numbered)
        with pytest.raises(TypeError, match="tags must be several texts"):
            load(1)
    with pytest.raises(TypeError, match="tag must be str, int or UUID, not float"):
        cache.cached(tags=["users", 4.2])(described)  # type: ignore[list-item]
    assert calls == []


def test_functions_that_make_the_same_key_are_named_once(
    cache: TaggedCache, caplog: pytest.LogCaptureFixture
) -> None:
    def closure(number: int) -> Any:
        made = cache.cached(key=lambda number: number, tags=())(lambda number: "user")
        return made(number)

    assert [closure(1), closure(1)] == ["user", "user"]
    assert caplog.messages == []

    product = cache.cached(key=lambda number: number, tags=())(lambda number: "product")
    for number in (1, 1, 2, 1):
        product(number)

    [said] = caplog.messages
    assert "closure.<locals>.<lambda> (line" in said
    assert "both make the key '1': each is given what the other has stored" in said
    with pytest.raises(TypeError, match="key must be a function .*, not 'user'"):
        cache.cached(key="user", tags=())(numbered)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"tags is None: give \(\) for none"):
        cache.cached(tags=None)(numbered)  # type: ignore[arg-type]


def test_the_result_of_a_call_can_be_loaded_anew(cache: TaggedCache) -> None:
    values = iter(["first", "second", "third", 4.2j])
    load = cache.cached(key=lambda number: number, tags=lambda number: [number])(
        lambda number: next(values)
    )

    assert [load(1), load.refresh(1), load(1)] == ["first", "second", "second"]
    assert load.key(1) == "1" and load.tags(1) == ("1",)
    # Under the tokens from before the load, so that it goes with its tags.
    MemcachedApplier(cache._store, "shop").apply_invalidation(load.intent(1))
    assert load(1) == "third"
    with pytest.raises(TypeError, match="complex"):
        load.refresh(1)
    assert load(1) == "third"


def test_a_value_loaded_anew_is_not_served_if_it_was_invalidated_meanwhile(
    cache: TaggedCache,
) -> None:
    def loader(number: int) -> str:
        if shown == "old":
            applier.apply_invalidation(InvalidationIntent.tag("number"))
        return shown

    applier = MemcachedApplier(cache._store, "shop")
    load = cache.cached(key=str, tags=["number"])(loader)
    shown = "before"
    load(1)
    shown = "old"

    assert load.refresh(1) == "old"

    shown = "new"
    assert load(1) == "new"


def test_what_belongs_to_no_app_collects_nothing(cache: TaggedCache) -> None:
    load = cache.cached(tags=())(numbered)

    with pytest.raises(TypeError, match="no app.*give its intent.* to a batch"):
        load.invalidate(1)


def test_a_method_is_cached_by_object(
    cache: TaggedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As decorators within the class would.
    tags = cache.cached(tags=lambda self, number: [f"{self.cache_key}-{number}"])
    title, price = cache.cached(tags=())(Shop.title), cache.cached(tags=())(Shop.price)
    monkeypatch.setattr(Shop, "item", tags(Shop.item))
    monkeypatch.setattr(Shop, "title", classmethod(title))  # type: ignore[arg-type]
    monkeypatch.setattr(Shop, "price", staticmethod(price))

    one, two = Shop("one"), Shop("two")

    assert [one.item(1), two.item(1), one.item(1)] == ["one 1", "two 1", "one 1"]
    assert cache.diagnostics().hits == 1
    assert one.item.key(1) != two.item.key(1)
    assert one.item.tags(1) == ("one-1",)
    assert one.item.uncached(5) == "one 5"
    assert one.item.intent(1) == Shop.item.intent(one, 1)
    assert one.item.refresh(1) == "one 1"
    with pytest.raises(TypeError, match="belongs to no app"):
        one.item.invalidate(1)
    with pytest.raises(
        TypeError,
        match="argument self of Shop.item cannot be part of a key: it is Service, which"
        " has no text of its own, and no cache_key",
    ):
        cache.cached(tags=())(Shop.item.uncached).key(Service("acme"), 1)
    assert Shop.title(1) == "Shop 1"
    assert one.price(4) == 8


def test_an_object_without_a_text_of_its_own_needs_a_key(cache: TaggedCache) -> None:
    load = cache.cached(tags=())(numbered)

    for argument in (object(), [1], {"a": 1}, {1}, lambda: None, b"x".__iter__()):
        with pytest.raises(TypeError, match="argument number of numbered.*key="):
            load(argument)  # type: ignore[arg-type]


class Text(str):
    pass


DIFFERENT: list[Any] = [
    None, True, False, 0, 1, 0.0, 1.0, -0.0, "", "1", "None", "True", b"", b"1",
    (), (1,), ((1,),), ("a", "b"), ("a b",), ("a,b",), Colour.RED, Colour.BLUE,
    Size.RED, Shown.FIRST, Shown.SECOND,
    Access.READ | Access.WRITE,
    Access.READ | Access.LIST,
    Access(0), int, str, decimal.Decimal(1), decimal.Decimal("1.0"),
    uuid.UUID(int=1), datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
]  # fmt: skip


def test_different_arguments_never_have_the_same_key(cache: TaggedCache) -> None:
    load = cache.cached(tags=())(users)

    keys = [load.key(value) for value in DIFFERENT]
    keys += [load.key(a, b) for a in DIFFERENT for b in DIFFERENT]
    keys += [load.key(), load.key(a=1), load.key(b=1), load.key(a=1, b=2)]
    keys += [load.key(("a", 1)), load.key("a", 1)]
    keys += [load.key(**{"a=1, b": 2}), load.key("a=1", b=2), load.key("a=1, b=2")]

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
    load = TaggedCache(MemoryStore(), "shop").cached(tags=())(users)

    same = typed(tuple(ours)) == typed(tuple(theirs))

    assert (load.key(*ours) == load.key(*theirs)) == same


@given(st.lists(values))
def test_every_key_is_one_that_a_cache_takes(arguments: list[Any]) -> None:
    cache = TaggedCache(MemoryStore(), "shop")

    assert cache.cached(tags=())(users)(*arguments) is None


def test_what_cannot_be_cached_is_refused_at_once(cache: TaggedCache) -> None:
    async def coroutine() -> None:
        """Nothing."""

    def generator() -> Iterator[int]:
        yield 1

    for function in (coroutine, generator):
        with pytest.raises(TypeError, match="coroutine|generator"):
            cache.cached(tags=())(function)
    with pytest.raises(TypeError, match="above"):
        cache.cached(tags=())(staticmethod(users))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ttl"):
        cache.cached(tags=(), ttl=-1)


def test_a_function_that_remembers_its_results_is_refused(cache: TaggedCache) -> None:
    # Or an invalidation would store the old result again.
    remembers = functools.lru_cache(maxsize=None)(numbered)

    for function in (remembers, functools.wraps(remembers)(lambda n: remembers(n))):
        with pytest.raises(TypeError, match="lru_cache.*take that decorator away"):
            cache.cached(tags=())(function)


# Wrappers


def listed(first: int, limit: int = 100) -> list[int]:
    return [first, limit]


def test_a_wrapper_is_called_by_its_own_signature(cache: TaggedCache) -> None:
    @functools.wraps(listed)
    def wrapper(first: int, limit: int = 10) -> list[int]:
        return listed(first, limit)

    load = cache.cached(tags=())(wrapper)

    assert [load(1), load(1, 100), load(1, 10)] == [[1, 10], [1, 100], [1, 10]]
    assert cache.diagnostics().hits == 1


def test_what_hands_on_all_that_it_is_given_has_the_wrapped_signature(
    cache: TaggedCache,
) -> None:
    @functools.wraps(listed)
    def wrapper(first: int, *args: Any, _retries: int = 3, **kwargs: Any) -> list[int]:
        return listed(first, *args, **kwargs)

    load = cache.cached(tags=())(wrapper)

    assert load.key(1) == load.key(1, 100) == load.key(first=1, limit=100)


def test_what_hands_on_and_changes_a_parameter_needs_a_key(cache: TaggedCache) -> None:
    @functools.wraps(listed)
    def other_default(first: int = 0, *args: Any, **kwargs: Any) -> list[int]:
        return listed(first, *args, **kwargs)

    @functools.wraps(listed)
    def other_place(limit: int, *args: Any) -> list[int]:
        return listed(*args, limit)

    for wrapper in (other_default, other_place):
        with pytest.raises(TypeError, match="another default or place.*key="):
            cache.cached(tags=())(wrapper)


# A name that several functions have


def closure_of(tenant: str) -> Callable[[], str]:
    def name() -> str:
        return tenant

    return name


def class_of(tenant: str) -> Any:
    class Local:
        cache_key = "one"

        def fetch(self) -> str:
            return tenant

    return Local


def named_partial() -> Any:
    return functools.update_wrapper(functools.partial(users, 1), users)


@pytest.mark.parametrize(
    "function",
    [
        lambda: 1,
        functools.partial(users),
        named_partial(),
        closure_of("acme"),
        class_of("acme").fetch,
        Service("acme").fetch,
        Service.named,
        Service("acme"),
        "acme".__len__,
        {"a": 1}.get,
    ],
)
def test_a_name_that_does_not_identify_a_function_needs_a_key(
    cache: TaggedCache, function: Callable[..., Any]
) -> None:
    with pytest.raises(TypeError, match="give @cached a key= of your own"):
        cache.cached(tags=())(function)
    cache.cached(key=lambda *args: "key", tags=())(function)


def test_a_function_of_an_app_factory_is_to_move_out_of_it(cache: TaggedCache) -> None:
    with pytest.raises(TypeError, match="top level of its module, or give @cached"):
        cache.cached(tags=())(closure_of("acme"))
    with pytest.raises(TypeError, match="arguments: those of two .*: give @cached"):
        cache.cached(tags=())(class_of("acme")().fetch)


def test_closures_with_keys_do_not_get_each_others_values(cache: TaggedCache) -> None:
    both = [
        cache.cached(key=lambda tenant=tenant: f"name:{tenant}", tags=())(
            closure_of(tenant)
        )
        for tenant in ("acme", "umbrella")
    ]

    assert [load() for load in both] == ["acme", "umbrella"]


@pytest.mark.parametrize("run_name", ["__main__", "__mp_main__"])
def test_a_function_of_a_program_needs_a_key(tmp_path: Path, run_name: str) -> None:
    script = tmp_path / "nightly.py"
    script.write_text(
        "from hydracache_sync import MemoryStore, TaggedCache\n"
        "cache = TaggedCache(MemoryStore(), 'shop')\n"
        "@cache.cached(tags=())\n"
        "def load(): ...\n"
    )

    with pytest.raises(TypeError, match=f"load is in {run_name}.*key="):
        runpy.run_path(str(script), run_name=run_name)
    runpy.run_path(str(script), run_name="shop.nightly")


TWICE = """
import functools

from two_names import cache

@cache.cached(tags=())
def index():
    return "shop"

def kept(function):
    @functools.wraps(function)
    def inner():
        return function()
    return inner
"""


@pytest.mark.parametrize(
    "more, said",
    [
        (
            "@cache.cached(tags=())\ndef index(): return 'blog'",
            "has the name of another",
        ),
        ("cache.cached(tags=())(kept(index.uncached))", "already, in another wrapper"),
        ("[cache.cached(tags=())(kept(kept)) for app in range(2)]", "Wrap it once"),
    ],
)
def test_two_functions_of_one_name_need_a_key(
    cache: TaggedCache,
    more: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beside = types.ModuleType("two_names")
    beside.cache = cache  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "two_names", beside)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "views_of_two", types.ModuleType("views_of_two"))
    del sys.modules["views_of_two"]
    source = tmp_path / "views_of_two.py"
    source.write_text(TWICE)
    views = importlib.import_module("views_of_two")
    views = importlib.reload(views)  # defines the same function again
    assert views.index() == "shop"
    source.write_text(TWICE + more)
    importlib.invalidate_caches()

    with pytest.raises(TypeError, match=f"of views_of_two .*{said}.*key=lambda"):
        importlib.reload(views)

    # In another cache, and the same function twice in one, it is no other.
    other = TaggedCache(MemoryStore(), "other")
    assert other.cached(tags=())(views.index.uncached)() == "shop"
    assert cache.cached(tags=(), ttl=1)(views.index.uncached)() == "shop"


def test_a_module_and_a_class_of_one_name_do_not_share_entries(
    cache: TaggedCache,
) -> None:
    def of(module: str, name: str) -> Callable[..., None]:
        function = types.FunctionType(users.__code__, {})
        function.__module__, function.__qualname__ = module, name
        return function

    cache.cached(tags=())(of("shop", "users.find"))

    with pytest.raises(TypeError, match="find of shop.users has the name of another"):
        cache.cached(tags=())(of("shop.users", "find"))


def test_a_file_that_is_run_again_defines_its_functions_anew(
    cache: TaggedCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is no module that was imported, as with mod_wsgi."""
    beside = types.ModuleType("two_names")
    beside.cache = cache  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "two_names", beside)
    source = tmp_path / "app.wsgi"
    source.write_text(TWICE)

    runpy.run_path(str(source), run_name="site_run_twice")
    again = runpy.run_path(str(source), run_name="site_run_twice")

    assert again["index"]() == "shop"
    source.write_text(TWICE + "@cache.cached(tags=())\ndef index(): return 'blog'")
    with pytest.raises(TypeError, match="index of site_run_twice has the name of ano"):
        runpy.run_path(str(source), run_name="site_run_twice")


def test_a_function_without_a_module_needs_a_key(cache: TaggedCache) -> None:
    names: dict[str, Any] = {}
    exec("def load(): ...", names)

    with pytest.raises(TypeError, match="no module.*key="):
        cache.cached(tags=())(names["load"])


# An argument that several have the text of


class Offset(datetime.tzinfo):
    """A time zone as many write it, with the text that every object has."""

    def __init__(self, hours: int) -> None:
        self._hours = hours

    def utcoffset(self, moment: Any) -> datetime.timedelta:
        return datetime.timedelta(hours=self._hours)

    def __repr__(self) -> str:
        return "<Offset>"


#: A file of zoneinfo's, of a zone an hour east: one kind of time and its name.
ZONE = (
    b"TZif" + bytes(16) + struct.pack(">6lLbb", 0, 0, 0, 0, 1, 4, 3600, 0, 0) + b"CET\0"
)


def moment(zone: datetime.tzinfo) -> datetime.datetime:
    return datetime.datetime(2024, 1, 1, tzinfo=zone)


@pytest.mark.parametrize(
    "argument",
    [
        moment(Offset(1)),
        moment(zoneinfo.ZoneInfo.from_file(io.BytesIO(ZONE), key="CET")),
        (1, moment(Offset(2))),
        class_of("acme")(),
        class_of("acme"),
        enum.Enum("Nowhere", "RED").RED,  # type: ignore[attr-defined]
    ],
)
def test_an_argument_whose_text_does_not_identify_it_needs_a_key(
    cache: TaggedCache, argument: Any
) -> None:
    load = cache.cached(tags=())(numbered)

    with pytest.raises(TypeError, match="argument number of numbered.*key="):
        load(argument)


def test_times_of_different_zones_have_different_keys(
    cache: TaggedCache, tmp_path: Path
) -> None:
    for name in ("Berlin", "Paris"):
        (tmp_path / name).write_bytes(ZONE)
    zoneinfo.reset_tzpath([tmp_path])
    load = cache.cached(tags=())(users)
    zones = [
        datetime.timezone.utc,
        datetime.timezone(datetime.timedelta(hours=1)),
        datetime.timezone(datetime.timedelta(hours=1), "CET"),
        zoneinfo.ZoneInfo("Berlin"),
        zoneinfo.ZoneInfo("Paris"),
    ]
    zoneinfo.reset_tzpath()

    assert len({load.key(moment(zone)) for zone in zones}) == len(zones)


def test_how_a_key_reads(cache: TaggedCache) -> None:
    load = cache.cached(tags=())(described)

    assert load.key(1) == f"{__name__}.described(1, 'user')"
    assert load.key(1, kind="\N{SNOWMAN}") == f"{__name__}.described(1, '\\u2603')"
    assert load.key(1, "x" * 400).startswith(f"{__name__}.described#")
    every = cache.cached(tags=())(users).key(
        (1,), b"b", Colour.RED, Shop("one"), size=2, **{"a b": None}
    )
    assert every.replace(f"{__name__}.", "") == (
        "users((1,), b'b', Colour['RED'], Shop('one'), 'a b'=None, size=2)"
    )

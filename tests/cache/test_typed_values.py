"""Values of more types than JSON has: each comes back as it was, or is refused."""

from __future__ import annotations

import enum
import functools
import math
import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid1
from zlib import crc32
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.msgpack import Ext
from msgspec.msgpack import encode as packed
from sqlalchemy import column, create_engine, literal, select

from hydracache_sync import MemcachedStore, SignedCodec, TaggedCache, cacheable
from hydracache_sync.cache import Codec
from hydracache_sync.cache.codecs import typed, value_types
from hydracache_sync.cache.codecs.codec import JSON, MISS, TYPED
from hydracache_sync.cache.entry_format import (
    pack,
    tag_digest,
    token_prefix_of,
    unpack,
)
from hydracache_sync.cache.tokens.token import fresh_tokens
from hydracache_sync.integrations.sqlalchemy import cacheable_rows
from support.servers import Memcached

DIGEST = tag_digest(["a"])
TOKENS = fresh_tokens(3, 1_700_000_000_000)
BASIS = token_prefix_of(DIGEST, TOKENS)
CODEC = Codec()
BERLIN = ZoneInfo("Europe/Berlin")


@cacheable
class Colour(enum.Enum):
    RED = object()
    GREEN = "green"
    GRUEN = "green"


@cacheable
class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


@cacheable
@dataclass(frozen=True)
class Price:
    amount: Decimal
    currency: str = "EUR"
    shown: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", f"{self.amount} {self.currency}")


@cacheable
@dataclass
class Slotted:
    __slots__ = ("one",)
    one: Any


@cacheable
class Point(NamedTuple):
    x: Any
    y: Any


Pair = cacheable(namedtuple("Pair", "left right"))


@cacheable
class Rights(enum.Flag):
    NONE = 0
    READ = 1
    WRITE = 2
    BOTH = 3
    OWN = 4


@cacheable
class Marks(enum.Flag):
    A = 1
    B = 2


@cacheable
@dataclass
class Rich:
    one: int

    def __post_init__(self) -> None:
        self.extra = self.one + 1


@cacheable
class Doubled(namedtuple("Doubled", "one")):
    """A field that a property of its name shows as something else."""

    __slots__ = ()

    @property
    def one(self) -> Any:
        return self[0] * 2


@cacheable
class Named(namedtuple("Named", "one")):
    def __init__(self, one: int) -> None:
        self.seen = one


class Base:
    __slots__ = ("__more",)


@cacheable
@dataclass
class Hidden(Base):
    __slots__ = ("one",)
    one: int

    def __post_init__(self) -> None:
        self._Base__more = 2


@cacheable
@dataclass(frozen=True)
class Summed:
    parts: Any

    @functools.cached_property
    def total(self) -> int:
        return sum(self.parts)


class Undeclared(enum.Enum):
    ONE = 1


class Words(str):
    pass


class Amount(Decimal):
    pass


class Zone(tzinfo):
    def __repr__(self) -> str:
        return "Zone()"


def kept(value: Any) -> Any:
    return CODEC.decode(CODEC.encode(value, BASIS), DIGEST, TOKENS)


def read(payload: bytes) -> Any:
    """What is read of a payload in the form that is tested here."""
    return CODEC.decode(pack(BASIS, TYPED, payload), DIGEST, TOKENS)


def same(one: Any, other: Any) -> bool:
    """Equal and of the same types, with all that equality overlooks."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and all(
            any(same(each, its) for its in other) for each in one
        )
    if isinstance(one, (datetime, time)):
        # Two moments of different zones may be equal.
        return (
            one.replace(tzinfo=None) == other.replace(tzinfo=None)
            and one.fold == other.fold
            and type(one.tzinfo) is type(other.tzinfo)
            and one.tzinfo == other.tzinfo
        )
    if isinstance(one, Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, (Price, Slotted)):
        return all(
            same(getattr(one, name), getattr(other, name))
            for name in type(one).__dataclass_fields__
        )
    return bool(one == other)


#: The first and the last moment, and those about the one that MessagePack counts from.
EDGES = [
    datetime.min,
    datetime.max,
    datetime(1969, 12, 31, 23, 59, 59, 999999),
    datetime(1970, 1, 1),
]

zones = st.one_of(
    st.none(),
    st.just(timezone.utc),
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]).map(ZoneInfo),
)
texts = st.text(st.characters(codec=None, categories=None, exclude_categories=()))
hashable_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(allow_nan=False),
    texts,
    st.binary(),
    st.decimals(allow_nan=False),
    st.datetimes(timezones=zones, allow_imaginary=True),
    st.datetimes().map(lambda moment: moment.replace(fold=1)),
    st.builds(time.replace, st.times(timezones=zones), fold=st.sampled_from([0, 1])),
    st.dates(),
    st.timedeltas(),
    st.uuids(),
    st.sampled_from([Colour.RED, Colour.GREEN, Access.READ, Access.WRITE]),
)
hashables = st.recursive(
    hashable_scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
    ),
    max_leaves=5,
)
values = st.recursive(
    hashables,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(hashables, inner, max_size=4),
        st.dictionaries(texts, inner, max_size=4),
        st.sets(hashables, max_size=4),
        st.builds(Slotted, inner),
        st.builds(Pair, inner, inner),
        st.builds(Price, st.decimals(allow_nan=False), st.text()),
    ),
    max_leaves=15,
)


@given(values)
@example((1, "a", ()))
@example({1: "a", "1": "b", None: 0, (1, 2): 3, b"1": 4})
@example([Decimal("1.10"), Decimal("-0"), Decimal("1E+400"), Decimal("Infinity")])
@example(math.inf)
@example([-0.0, 2**64, -(2**63) - 1, {"\ud800": "\ud800\udc00"}, {1}])
@example([datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=fold) for fold in (0, 1)])
@example(datetime.max.replace(tzinfo=timezone(timedelta(microseconds=-1))))
@example([moment.replace(tzinfo=timezone.utc) for moment in EDGES])
@example([*EDGES, *(moment.replace(fold=1) for moment in EDGES)])
@example([timedelta.min, timedelta.max, date.min, time.max])
@example([10**5000, ()])
def test_a_value_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    assert same(kept(value), value)


def test_what_is_made_of_it_is_of_the_same_moment() -> None:
    late = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)

    assert kept(late).timestamp() == late.timestamp()
    assert kept(late).tzinfo is BERLIN
    assert kept(datetime(2026, 1, 1, tzinfo=timezone.utc)).tzinfo is timezone.utc


def test_what_json_keeps_stays_json() -> None:
    for value, form in (({"a": [1, 2.5, None]}, JSON), ({"a": (1,)}, TYPED)):
        found = unpack(CODEC.encode(value, BASIS), DIGEST, TOKENS)
        assert found is not None and found[0] == form


def test_the_library_is_loaded_only_for_what_json_does_not_keep() -> None:
    program = """if True:
        import sys
        from hydracache_sync.cache import Codec
        codec = Codec()
        codec.encode({"a": 1}, b"")
        assert "msgspec" not in sys.modules
        codec.encode({"a": (1,)}, b"")
        assert "msgspec" in sys.modules
    """

    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_signed_codec_keeps_the_same() -> None:
    codec = SignedCodec(key=b"k" * 32)
    value = {"price": Decimal("9.99"), "seen": {1, 2}}

    entry = codec.encode(value, BASIS, 0, b"name")

    assert codec.decode(entry, DIGEST, TOKENS, b"name") == value
    assert codec.decode(entry, DIGEST, TOKENS, b"other") is MISS


@pytest.mark.parametrize("over", [None, 0], ids=["as it is", "compressed"])
def test_a_cache_keeps_it_in_memcached(
    over: int | None, memcached: Memcached, unique: str
) -> None:
    store = MemcachedStore([memcached.address], timeout=10, connect_timeout=10)
    writer = TaggedCache(store, unique, codec=Codec(compress_over=over))
    reader = TaggedCache(store, unique)
    value = [{"price": Decimal("9.90"), "at": datetime(2026, 1, 2, tzinfo=BERLIN)}] * 9

    # An entry may be lost at any time.
    found = None
    for _ in range(10):
        assert same(writer.get_or_load("k", lambda: value, tags=["t"]), value)
        found = found or reader.get("k", tags=["t"])

    assert same(found, value)


def test_a_nest_of_dicts_with_keys_of_two_kinds_is_walked_once() -> None:
    nest: Any = None
    for _ in range(100):
        nest = {"in": nest, 1: 0}

    # Walked twice at each level it would take for ever.
    assert kept(nest) == nest


@pytest.mark.parametrize(
    "flags",
    [
        *(Rights(number) for number in range(8)),
        *(Marks(number) for number in range(4)),
        Access(0),
        Access.READ | Access.WRITE,
    ],
    ids=repr,
)
def test_flags_come_back_together_and_none_of_them(flags: Any) -> None:
    for value in (flags, [flags], {flags: (flags, 1)}):
        found = kept(value)

        assert found == value
    assert type(kept(flags)) is type(flags)
    assert kept(flags).value == flags.value


def test_what_a_property_has_cached_is_made_anew() -> None:
    value = Summed((1, 2))
    assert value.total == 3
    found = kept(value)

    assert found == value and "total" not in vars(found)
    assert found.total == 3


# What is refused


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "^cannot cache object: it would not come back"),
        ({"rows": [(1, {2: Words("x")})]}, r"Words at value\['rows'\]\[0\]\[1\]\[2\]:"),
        ([Words("x")], r"Words at value\[0\]"),
        ({Words("a"): 1}, r"Words at value.keys\(\)"),
        ({"a": {(1, 2j): 1}}, r"complex at value\['a'\].keys\(\)\[1\]"),
        ({1, 2, b"x", Amount(7)}, r"Amount at value\{...\}"),
        (frozenset([Words()]), r"Words at value\{...\}"),
        ((1, bytearray(b"x")), r"bytearray at value\[1\]"),
        (memoryview(b"x"), "memoryview"),
        (OrderedDict(a=1), "OrderedDict"),
        ([Undeclared.ONE], r"Undeclared at value\[0\].*cacheable"),
        ([Access(9)], r"Access at value\[0\]: its value 9 has bits that have no name"),
        (
            [Rich(1)],
            r"Rich at value\[0\]: its attribute 'extra' is no field, and would",
        ),
        ({1: Named(1)}, r"Named at value\[1\]: its attribute 'seen' is no field"),
        (Hidden(1), "Hidden: its attribute '_Base__more' is no field"),
        (Price(Words("1")), r"Words at value\['amount'\]"),  # type: ignore[arg-type]
        (Slotted.__new__(Slotted), "Slotted: one of its fields is not set"),
        (Point(1, {"a": range(3)}), r"range at value\['y'\]\['a'\]"),
        ({"at": datetime(2026, 1, 1, tzinfo=Zone())}, r"\['at'\]: its time zone is Z"),
        (time(1, tzinfo=timezone(timedelta(hours=1), "CET")), "its time zone is"),
        (type, "cannot cache type"),
        ({"x" * 10_000: 1j}, r"value\['x{50,70}\.\.\.\]: "),
    ],
    ids=range(22),
)
def test_a_value_of_another_type_is_refused_with_its_path(
    value: Any, said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        CODEC.encode(value, BASIS)


@pytest.mark.parametrize("nan", [math.nan, Decimal("nan"), Decimal("sNaN")], ids=str)
def test_what_equals_nothing_is_refused(nan: Any) -> None:
    with pytest.raises(ValueError, match=r"at value\['a'\]\[0\]: it is NaN"):
        CODEC.encode({"a": [nan]}, BASIS)


def test_a_value_that_holds_itself_or_is_nested_too_deeply_is_refused() -> None:
    own: dict[str, Any] = {"set": {1}}
    own["own"] = (own,)
    deep: Any = ()
    for _ in range(5000):
        deep = (deep,)

    for value in (own, deep):
        with pytest.raises(ValueError, match="nested too deeply, or holds itself"):
            CODEC.encode(value, BASIS)


# What an app declares


@pytest.mark.parametrize("kind", [int, str, Words, object, OrderedDict, "Price"])
def test_only_kinds_that_are_known_can_be_declared(kind: Any) -> None:
    with pytest.raises(TypeError, match="cacheable takes"):
        cacheable(kind)


def test_a_dataclass_that_is_made_in_its_own_way_cannot_be_declared() -> None:
    @dataclass
    class Listed(list):  # type: ignore[type-arg]
        one: int = 1

    with pytest.raises(TypeError, match="Listed"):
        cacheable(Listed)


def test_two_classes_of_one_name_cannot_be_declared() -> None:
    def declared() -> Any:
        class Local(enum.Enum):
            ONE = 1

        return cacheable(Local)

    first = declared()
    with pytest.raises(ValueError, match="another class .*Local"):
        declared()

    assert cacheable(first) is first
    assert kept(first.ONE) is first.ONE


def test_a_class_is_made_anew_without_running_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = CODEC.encode(Price(Decimal("1.50")), BASIS)
    monkeypatch.setattr(Price, "__post_init__", lambda self: pytest.fail("ran"))
    monkeypatch.setattr(Price, "__init__", lambda self: pytest.fail("ran"))

    found = CODEC.decode(entry, DIGEST, TOKENS)

    assert (found.amount, found.shown) == (Decimal("1.50"), "1.50 EUR")


@pytest.mark.parametrize(
    "taken",
    [
        {"amount": 1, "currency": "EUR"},
        {"amount": 1, "currency": "EUR", "shown": "", "more": 1},
        [],
        None,
    ],
    ids=str,
)
def test_an_object_of_other_fields_is_a_miss(taken: Any) -> None:
    name = value_types.BY_CLASS[Price].name

    assert read(packed(Ext(typed.OBJECT, packed([name, taken])))) is MISS


def test_an_object_of_a_class_that_was_not_declared_is_a_miss() -> None:
    for name in ("os:system", "builtins:object", f"{__name__}:Undeclared", 1, None):
        assert read(packed(Ext(typed.OBJECT, packed([name, "ONE"])))) is MISS


def test_a_row_comes_back_with_its_names() -> None:
    cacheable_rows()
    engine = create_engine("sqlite://", future=True)
    query = select(literal(1).label("id"), literal("a").label("name"), literal(None))
    try:
        with engine.connect() as connection:
            rows = connection.execute(query).fetchall()
    finally:
        engine.dispose()

    found = kept({"rows": rows})["rows"]

    assert found == rows
    assert type(found[0]) is type(rows[0])
    assert (found[0].id, found[0]._mapping["name"]) == (1, "a")
    assert found[0]._fields == rows[0]._fields
    with pytest.raises(TypeError, match=r"Column.* at value\[1\]"):
        CODEC.encode([rows[0], column("x")], BASIS)


# What a store may give back


def ext(code: int, data: bytes) -> bytes:
    return packed(Ext(code, data))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        packed(1) + b"\x00",
        # Lengths that are not there.
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x03",
        b"\xdd\x0f\xff\xff\xff" * 100,
        # Too deep.
        b"\x91" * 100_000,
        b"\x81\xa1a" * 100_000,
        # Numbers that stand for nothing.
        ext(0, b""),
        ext(15, b""),
        ext(127, b"x"),
        ext(-2, b"x"),
        # Not what is written under these.
        ext(typed.TEXT, b"\xff"),
        ext(typed.TUPLE, packed({})),
        ext(typed.TUPLE, packed("ab")),
        ext(typed.SET, packed([{}])),
        ext(typed.FROZENSET, packed(None)),
        ext(typed.DICT, packed([1, 2, 1, 3])),
        ext(typed.DICT, packed([1, 2, 3])),
        ext(typed.DICT, packed([[], 2])),
        ext(typed.DECIMAL, b"one"),
        ext(typed.DECIMAL, b"1E99999999999999999999"),
        ext(typed.DECIMAL, b"\xff"),
        ext(typed.DATETIME, b""),
        ext(typed.NAIVE_DATETIME, b"2026"),
        # A moment beyond the years that there are.
        ext(-1, b"\x00" * 4 + b"\x7f" * 8),
        *(
            ext(typed.DATETIME, packed([text, fold, zone]))
            for text, fold, zone in [
                ("2026-13-01T00:00:00", 0, None),
                ("2026-01-01T00:00:00", 2, None),
                ("2026-01-01T00:00:00", 0, "Nowhere/At_all"),
                ("2026-01-01T00:00:00", 0, "../../../../etc/passwd"),
                ("2026-01-01T00:00:00", 0, "/etc/passwd"),
                ("2026-01-01T00:00:00", 0, 10**12),
                ("2026-01-01T00:00:00", 0, []),
            ]
        ),
        ext(typed.DATE, b""),
        ext(typed.TIME, packed(["25:00", 0, None])),
        ext(typed.TIMEDELTA, packed([10**10, 0, 0])),
        ext(typed.TIMEDELTA, packed(["1"])),
        ext(typed.UUID_BYTES, b"short"),
        ext(typed.OBJECT, packed([])),
        ext(typed.OBJECT, b""),
    ],
    ids=range(43),
)
def test_what_is_no_result_of_this_codec_is_a_miss(payload: bytes) -> None:
    assert read(payload) is MISS


def test_extensions_within_extensions_end_as_a_miss() -> None:
    bomb = packed(1)
    for _ in range(3000):
        bomb = ext(typed.TUPLE, b"\x91" + bomb)

    assert read(bomb) is MISS


def test_the_form_is_a_miss_where_json_is_all_and_in_an_unknown_form() -> None:
    entry = CODEC.encode((1,), BASIS)

    assert Codec(json_only=True).decode(entry, DIGEST, TOKENS) is MISS
    body = bytearray(entry[len(BASIS) + 4 :])
    body[0] = 250
    other = BASIS + crc32(body).to_bytes(4, "big") + body
    assert CODEC.decode(other, DIGEST, TOKENS) is MISS


@given(st.binary(max_size=60))
def test_foreign_bytes_are_a_miss_or_a_value(payload: bytes) -> None:
    read(payload)


@given(st.integers(1, 14), st.binary(max_size=40))
def test_foreign_bytes_in_an_extension_are_a_miss_or_a_value(
    code: int, data: bytes
) -> None:
    read(ext(code, data))


@given(st.data(), values)
def test_a_payload_with_one_byte_changed_is_a_miss_or_a_value(
    data: st.DataObject, value: Any
) -> None:
    payload = bytearray(typed.dump(value))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))

    read(bytes(payload))


def test_a_uuid_that_says_how_it_was_made_is_kept() -> None:
    made = uuid1()

    assert kept([made, UUID(int=0)]) == [made, UUID(int=0)]


def test_a_named_tuple_keeps_its_items_whatever_its_properties_show() -> None:
    entry = CODEC.encode(Doubled(3), BASIS)

    found = CODEC.decode(entry, DIGEST, TOKENS)

    assert type(found) is Doubled
    assert tuple(found) == (3,)


def test_a_named_tuple_with_more_items_than_fields_is_refused() -> None:
    longer = tuple.__new__(Doubled, (1, 2))

    with pytest.raises(TypeError, match="2 items, and its class 1 fields"):
        CODEC.encode(longer, BASIS)

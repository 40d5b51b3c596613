"""Entries: what goes in comes out equal and of the same types, or not at all."""

from __future__ import annotations

import datetime
import enum
import math
import struct
import zlib
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hydracache_sync.cache.codecs.codec import MISS, Codec
from hydracache_sync.cache.entry_format import soft_ms_of, tag_digest, token_prefix_of
from hydracache_sync.cache.tokens.token import fresh_tokens

DIGEST = tag_digest(["a", "b"])
TOKENS = fresh_tokens(4, 1_700_000_000_000)
BASIS = token_prefix_of(DIGEST, TOKENS)

FAST = Codec(use_orjson=True)
PLAIN = Codec(use_orjson=False)
JSON_ONLY = Codec(json_only=True)
encode = FAST.encode
decode = FAST.decode

#: Whoever writes, whoever reads.
PAIRS = [(FAST, FAST), (FAST, PLAIN), (PLAIN, FAST), (PLAIN, PLAIN)]

texts = st.text(st.characters(codec=None, categories=None, exclude_categories=()))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    # Around the edges of 64 bits, where orjson begins to differ.
    st.builds(
        lambda power, more, sign: sign * (2**power + more),
        st.sampled_from([53, 62, 63, 64, 65, 200]),
        st.integers(min_value=-2, max_value=2),
        st.sampled_from([1, -1]),
    ),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
jsonable = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(texts, inner, max_size=5)
    ),
    max_leaves=20,
)
values = st.one_of(st.binary(max_size=200), jsonable)


def same(one: Any, other: Any) -> bool:
    """Equal, with equal types all the way down, -0.0 and the order of keys included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


@given(values)
@example("")
@example(b"")
@example(None)
@example("\ud800\udc00")
@example(["\ud800\udc00", {"\udfff": "\u2028"}])
@example(-0.0)
@example([-0.0, 1e308, 5e-324, 0.1, 10**300, True, 1, 1.0])
@example({"": {}, "a": []})
@example([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1])
@example({"id": 18446744073709551616, "text": "\ud800"})
@example("12345678901234567890")
@example([0.00012345678901234567, 1e16, 1e22, 1.5e300])
def test_a_value_comes_back_equal_and_of_the_same_types_whoever_reads(
    value: Any,
) -> None:
    for writer, reader in PAIRS:
        entry = writer.encode(value, BASIS)
        assert same(reader.decode(entry, DIGEST, TOKENS), value)
        assert same(JSON_ONLY.decode(entry, DIGEST, TOKENS), value)


class Colour(enum.IntEnum):
    RED = 1


class Words(str):
    pass


class Numbers(float):
    pass


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ((1, 2), "tuple"),
        ({"rows": [(1, 2)]}, r"tuple at value\['rows'\]\[0\]"),
        ({1: "a"}, "key 1: it is int"),
        ({"a": {None: 1}}, r"key None at value\['a'\]: it is NoneType"),
        ({("a",): 1}, "tuple"),
        ({Words("a"): 1}, "Words"),
        ({1, 2}, "set"),
        (bytearray(b"x"), "bytearray"),
        (memoryview(b"x"), "memoryview"),
        ([b"x"], "bytes"),
        (OrderedDict(a=1), "OrderedDict"),
        (datetime.date(2026, 1, 1), "date"),
        (Colour.RED, "Colour"),
        ([Words("x")], "Words"),
        (Words("x"), "Words"),
        ([Numbers(1)], "Numbers"),
        (object(), "object"),
        ([1, [2, [object]]], r"type at value\[1\]\[1\]\[0\]"),
        (1j, "complex"),
    ],
)
def test_a_value_that_json_would_change_is_refused_by_name_where_it_is_all(
    value: Any, named: str
) -> None:
    for use_orjson in (True, False):
        codec = Codec(json_only=True, use_orjson=use_orjson)
        with pytest.raises(TypeError, match=named):
            codec.encode(value, BASIS)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": -math.inf}])
def test_a_number_that_json_has_not_is_refused_where_it_is_all(value: Any) -> None:
    with pytest.raises(ValueError, match="no such number"):
        JSON_ONLY.encode(value, BASIS)


def test_a_value_that_holds_itself_is_refused() -> None:
    own: list[Any] = []
    own.append({"own": own})

    for codec in (FAST, PLAIN, JSON_ONLY):
        with pytest.raises(ValueError, match="cannot cache this list"):
            codec.encode(own, BASIS)


def test_a_value_that_holds_one_part_twice_is_not_taken_for_a_loop() -> None:
    part = [1]

    assert decode(encode([part, part], BASIS), DIGEST, TOKENS) == [[1], [1]]


def test_a_value_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(200_000):
        deep = [deep]

    for codec in (FAST, PLAIN, JSON_ONLY):
        with pytest.raises(ValueError, match="nested too deeply"):
            codec.encode(deep, BASIS)
    # Python frees such a list with recursion of its own; take it apart instead.
    while deep:
        deep = deep.pop()


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_a_value_nested_deeper_than_orjson_goes_is_kept(
    writer: Codec, reader: Codec
) -> None:
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]

    assert reader.decode(writer.encode(deep, BASIS), DIGEST, TOKENS) == deep


@pytest.mark.parametrize("soft_ms", [0, 1, 1_700_000_000_000, 2**63])
@pytest.mark.parametrize("value", [None, b"", "text", [1]])
def test_the_soft_expiry_is_read_without_taking_the_entry_apart(
    value: Any, soft_ms: int
) -> None:
    entry = encode(value, BASIS, soft_ms)

    assert soft_ms_of(entry, len(TOKENS)) == soft_ms
    assert decode(entry, DIGEST, TOKENS) == value


@given(st.data(), values)
def test_a_truncated_entry_is_a_miss(data: st.DataObject, value: Any) -> None:
    entry = encode(value, BASIS)
    length = data.draw(st.integers(min_value=0, max_value=len(entry) - 1))

    assert decode(entry[:length], DIGEST, TOKENS) is MISS


@given(st.data(), values)
def test_an_entry_with_one_byte_changed_is_a_miss(
    data: st.DataObject, value: Any
) -> None:
    entry = bytearray(encode(value, BASIS))
    at = data.draw(st.integers(min_value=0, max_value=len(entry) - 1))
    entry[at] ^= data.draw(st.integers(min_value=1, max_value=255))

    assert decode(bytes(entry), DIGEST, TOKENS) is MISS


@given(st.binary(min_size=1, max_size=20), values)
def test_an_entry_with_bytes_added_is_a_miss(added: bytes, value: Any) -> None:
    assert decode(encode(value, BASIS) + added, DIGEST, TOKENS) is MISS


@given(st.binary(max_size=300))
def test_foreign_bytes_are_a_miss(data: bytes) -> None:
    assert decode(data, DIGEST, TOKENS) is MISS


@given(st.binary(max_size=100))
def test_foreign_bytes_on_the_right_tokens_are_a_miss(data: bytes) -> None:
    assert decode(BASIS + data, DIGEST, TOKENS) is MISS


@pytest.mark.parametrize("version", [0, 2, 255])
def test_an_entry_of_an_older_or_newer_version_is_a_miss(version: int) -> None:
    entry = encode("value", BASIS)

    assert decode(entry[:2] + bytes([version]) + entry[3:], DIGEST, TOKENS) is MISS


def test_an_entry_with_flags_of_a_newer_version_is_a_miss() -> None:
    body = struct.pack(">BBQ", 1, 1, 0) + b"value"
    entry = BASIS + zlib.crc32(body).to_bytes(4, "big") + body
    plain = struct.pack(">BBQ", 1, 0, 0) + b"value"

    assert decode(entry, DIGEST, TOKENS) is MISS
    # The same without the flag is what this version writes.
    assert BASIS + zlib.crc32(plain).to_bytes(4, "big") + plain == encode(
        b"value", BASIS
    )


def test_an_entry_of_a_version_that_sets_a_soft_expiry_is_read() -> None:
    body = struct.pack(">BBQ", 1, 0, 1_700_000_000_000) + b"value"

    assert (
        decode(BASIS + zlib.crc32(body).to_bytes(4, "big") + body, DIGEST, TOKENS)
        == b"value"
    )


def test_nothing_is_a_miss_and_none_is_a_value() -> None:
    assert decode(None, DIGEST, TOKENS) is MISS
    assert decode(encode(None, BASIS), DIGEST, TOKENS) is None


@pytest.mark.parametrize("missing", range(4))
def test_an_entry_is_a_miss_without_any_of_its_tokens(missing: int) -> None:
    tokens: list[bytes | None] = list(TOKENS)
    tokens[missing] = None

    assert decode(encode("value", BASIS), DIGEST, tokens) is MISS


@pytest.mark.parametrize("changed", range(4))
def test_an_entry_is_a_miss_when_any_of_its_tokens_is_another(changed: int) -> None:
    tokens = list(TOKENS)
    [tokens[changed]] = fresh_tokens(1, 1_700_000_000_000)

    assert decode(encode("value", BASIS), DIGEST, tokens) is MISS


@pytest.mark.parametrize("changed", range(4))
def test_an_entry_is_a_miss_when_any_of_its_tokens_is_no_longer_live(
    changed: int,
) -> None:
    tokens = list(TOKENS)
    tokens[changed] = b"P" + tokens[changed][1:]

    assert decode(encode("value", BASIS), DIGEST, tokens) is MISS


def test_an_entry_for_other_tags_is_a_miss() -> None:
    entry = encode("value", BASIS)

    assert decode(entry, tag_digest(["a", "c"]), TOKENS) is MISS
    assert decode(entry, tag_digest(["ab"]), TOKENS) is MISS
    assert decode(entry, tag_digest([]), TOKENS) is MISS


@given(
    st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4)
)
def test_different_tags_have_different_digests(
    one: list[str], other: list[str]
) -> None:
    one, other = sorted(set(one)), sorted(set(other))

    assert (tag_digest(one) == tag_digest(other)) == (one == other)

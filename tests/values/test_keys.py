"""Escaping, the key builder, and the limits of what identifies."""

from __future__ import annotations

import decimal
import enum
import json
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync.keys import (
    CacheKeyBuilder,
    Identity,
    checked_identity,
    checked_namespace,
    checked_text,
    collection_tag,
    entity_key,
    entity_tag,
    escape_segment,
    identity_text,
    identity_texts,
)

VECTORS = json.loads((Path(__file__).parent / "vectors/keys.json").read_text("utf-8"))

#: Text that is likely to be escaped wrongly, and any other.
TEXT = st.text(alphabet="%:235Aa", max_size=8) | st.text(max_size=20)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["text"])
def test_keys_are_those_of_the_rust_crate(vector: dict) -> None:
    assert CacheKeyBuilder(*vector["segments"]).build_string() == vector["text"]


class Size(enum.IntEnum):
    LARGE = 3


class Plan(str, enum.Enum):
    PRO = "pro:1"


NUMBER = uuid.UUID("6BA7B810-9DAD-11D1-80B4-00C04FD430C8")

#: Of each kind of id its text.
IDENTITIES: list[tuple[Identity, str]] = [
    ("42", "42"),
    (42, "42"),
    (-1, "-1"),
    (10**40, "1" + "0" * 40),
    (Size.LARGE, "3"),
    (Plan.PRO, "pro:1"),
    (NUMBER, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
]

#: What names nothing that is stored.
REFUSED: list[object] = [
    True, 42.0, None, b"42", decimal.Decimal(42), (42,), ["42"], {"42"}, object(),
]  # fmt: skip


@pytest.mark.parametrize("given_as, text", IDENTITIES, ids=repr)
def test_an_id_has_one_text_however_it_is_given(given_as: Identity, text: str) -> None:
    found = identity_text("key", given_as)

    assert found == text and type(found) is str
    assert identity_texts("tag", ["a", given_as]) == ("a", text)
    assert entity_tag("user", given_as) == entity_tag("user", text)
    assert entity_tag(given_as, "1") == entity_tag(text, "1")
    assert collection_tag(given_as) == collection_tag(text)


@pytest.mark.parametrize("part", REFUSED, ids=lambda part: type(part).__name__)
def test_what_is_no_id_is_refused_by_name(part: object) -> None:
    name = type(part).__name__

    for make in (
        lambda: entity_tag("user", part),  # type: ignore[arg-type]
        lambda: entity_tag(part, "42"),  # type: ignore[arg-type]
        lambda: collection_tag(part),  # type: ignore[arg-type]
    ):
        with pytest.raises(
            TypeError, match=f"^a segment must be str, int or UUID, not {name}$"
        ):
            make()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("digits", [4097, 5000])
def test_an_integer_longer_than_any_key_is_refused(digits: int, sign: int) -> None:
    number = sign * 10 ** (digits - 1)

    with pytest.raises(ValueError, match="^key is .* allowed are .*4096"):
        checked_identity("key", number)
    assert len(checked_identity("key", 10**4095)) == 4096


def test_a_key_of_several_columns_has_one_text() -> None:
    assert entity_key(42) == "42"
    assert entity_key(NUMBER) == str(NUMBER)
    assert entity_key("a:b", 7) == "a%3Ab:7"
    assert entity_key("a", "b:7") != entity_key("a:b", 7)
    assert entity_key(Plan.PRO) == "pro:1"
    for wrong in ((True,), (1, 2.0), (decimal.Decimal(1),)):
        with pytest.raises(TypeError, match="must be str, int or UUID, not"):
            entity_key(*wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no column"):
        entity_key()


@given(TEXT)
def test_escaping_is_reversible_and_free_of_separators(segment: str) -> None:
    escaped = escape_segment(segment)

    assert unquote(escaped) == segment
    assert ":" not in escaped


@given(st.lists(TEXT, min_size=1, max_size=4), st.lists(TEXT, min_size=1, max_size=4))
def test_distinct_segments_never_build_the_same_key(
    first: list[str], second: list[str]
) -> None:
    built = [CacheKeyBuilder(*segments).build_string() for segments in (first, second)]

    assert (built[0] == built[1]) == (first == second)


@given(st.lists(TEXT, min_size=1, max_size=6))
def test_segments_can_be_read_back_out_of_a_key(segments: list[str]) -> None:
    built = CacheKeyBuilder(*segments).build_string()

    assert [unquote(part) for part in built.split(":")] == segments


def test_builder_appends_in_order_and_returns_itself() -> None:
    builder = CacheKeyBuilder("report")

    returned = builder.tenant(7).entity("user", 42).segment("a:b")

    assert returned is builder
    assert builder.build_string() == "report:tenant:7:user:42:a%3Ab"
    assert str(builder) == builder.build_string()


class _Colour(str, enum.Enum):
    RED = "red"


def test_builder_takes_an_id_as_a_tag_does() -> None:
    for id in (42, uuid.UUID(int=1), _Colour.RED):
        text = identity_text("id", id)

        assert str(CacheKeyBuilder(id).entity(id, id).tenant(id)) == (
            f"{text}:{text}:{text}:tenant:{text}"
        )
        assert str(CacheKeyBuilder().entity("user", id)) == entity_tag("user", id)


@pytest.mark.parametrize(
    "id", [None, True, 1.0, b"a", decimal.Decimal(1), (42,), object()], ids=type
)
def test_builder_takes_nothing_whose_text_is_a_guess(id: Any) -> None:
    name = type(id).__name__
    for build in (
        CacheKeyBuilder,
        CacheKeyBuilder().segment,
        CacheKeyBuilder().tenant,
        lambda each: CacheKeyBuilder().entity("user", each),
    ):
        with pytest.raises(TypeError, match=f"segment must be .* not {name}$"):
            build(id)
    with pytest.raises(ValueError, match="integer of [0-9]+ bits, allowed are 4096"):
        CacheKeyBuilder(10**5000)


def test_entity_and_tenant_are_two_segments_each() -> None:
    assert str(CacheKeyBuilder().entity("a:b", 1)) == str(CacheKeyBuilder("a:b", "1"))
    assert str(CacheKeyBuilder().tenant(1)) == str(CacheKeyBuilder("tenant", "1"))


@given(TEXT, TEXT)
def test_tags_are_keys_of_the_same_segments(first: str, second: str) -> None:
    assert entity_tag(first, second) == str(CacheKeyBuilder(first, second))
    assert collection_tag(first) == str(CacheKeyBuilder(first))


@pytest.mark.parametrize(
    "text", ["x" * 64, "é" * 32, "\N{GRINNING FACE}" * 16, "\0" * 64]
)
def test_limits_count_bytes_and_include_their_last(text: str) -> None:
    assert checked_namespace(text) == text


@pytest.mark.parametrize(
    "text", ["", "x" * 65, "é" * 33, "\N{GRINNING FACE}" * 17], ids=ascii
)
def test_beyond_a_limit_the_error_names_field_length_and_limit(text: str) -> None:
    length = len(text.encode("utf-8"))

    with pytest.raises(ValueError, match=rf"^namespace is {length} bytes.*\b64$"):
        checked_namespace(text)


@pytest.mark.parametrize("text", ["\ud800", "ok\udfff", "\ude00\ud83d"], ids=ascii)
def test_lone_surrogate_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(ValueError, match="^reason .*surrogate"):
        checked_text("reason", text, maximum=255)


@pytest.mark.parametrize("value", [None, 5, b"shop", True, ["shop"]], ids=repr)
def test_what_is_no_text_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="namespace must be str"):
        checked_namespace(value)

"""Escaping, the key builder, and the limits of what identifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync.keys import (
    CacheKeyBuilder,
    checked_namespace,
    checked_text,
    collection_tag,
    entity_tag,
    escape_segment,
    unescape_segment,
)

VECTORS = json.loads((Path(__file__).parent / "vectors/keys.json").read_text("utf-8"))

#: Text that is likely to be escaped wrongly, and any other.
TEXT = st.text(alphabet="%:235Aa", max_size=8) | st.text(max_size=20)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["text"])
def test_keys_are_those_of_the_rust_crate(vector: dict) -> None:
    assert CacheKeyBuilder(*vector["segments"]).build_string() == vector["text"]


@pytest.mark.parametrize("part", [42, (42,), ["42"], {"42"}, b"42", None])
def test_a_tag_is_made_of_text_alone(part: object) -> None:
    for make in (
        lambda: entity_tag("user", part),  # type: ignore[arg-type]
        lambda: entity_tag(part, "42"),  # type: ignore[arg-type]
        lambda: collection_tag(part),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match="must be str, not .*: write str"):
            make()


@given(TEXT)
def test_escaping_is_reversible_and_free_of_separators(segment: str) -> None:
    escaped = escape_segment(segment)

    assert unescape_segment(escaped) == segment
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

    assert [unescape_segment(part) for part in built.split(":")] == segments


def test_builder_appends_in_order_and_returns_itself() -> None:
    builder = CacheKeyBuilder("report")

    returned = builder.tenant(7).entity("user", 42).segment("a:b")

    assert returned is builder
    assert builder.build_string() == "report:tenant:7:user:42:a%3Ab"
    assert str(builder) == builder.build_string()


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

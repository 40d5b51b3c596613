"""Intents: their fixed hashes, what they mean to a cache, and batches of them."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync.intents import (
    KINDS,
    EntityIntents,
    InvalidationIntent,
    InvalidationIntentBatch,
    hash_parts,
)

VECTORS = json.loads(
    (Path(__file__).parent / "vectors/intents.json").read_text("utf-8")
)

#: Text that delimiters could make ambiguous, and any other.
TEXT = st.text(alphabet=":/%a\0 ", max_size=4) | st.text(max_size=10)
INTENTS = st.one_of(
    TEXT.map(InvalidationIntent.key),
    TEXT.map(InvalidationIntent.tag),
    st.builds(InvalidationIntent.entity, TEXT, TEXT),
    TEXT.map(InvalidationIntent.collection),
    st.just(InvalidationIntent.flush()),
)

#: A constructor with one text free, and the name of that field in errors.
FIELDS = {
    "key": InvalidationIntent.key,
    "tag": InvalidationIntent.tag,
    "entity": lambda text: InvalidationIntent.entity(text, "42"),
    "entity key": lambda text: InvalidationIntent.entity("user", text),
    "collection": InvalidationIntent.collection,
}


def intent_of(vector: dict) -> InvalidationIntent:
    return getattr(InvalidationIntent, vector["kind"])(*vector["arguments"])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["kind"])
def test_hashes_are_fixed_for_ever(vector: dict) -> None:
    intent = intent_of(vector)

    assert intent.target_hash().hex() == vector["target_hash"]
    assert intent.target_hash_hex() == vector["target_hash"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["kind"])
def test_each_kind_maps_to_one_cache_invalidation(vector: dict) -> None:
    invalidation = intent_of(vector).to_cache_invalidation()

    assert [invalidation.kind, invalidation.value] == vector["cache_invalidation"]


def test_separators_inside_an_entity_are_escaped_in_its_tag() -> None:
    intent = InvalidationIntent.entity("account:user", "42%beta")

    assert intent.to_cache_invalidation() == ("tag", "account%3Auser:42%25beta")


def test_hash_tells_kinds_and_the_ends_of_parts_apart() -> None:
    intents = [
        InvalidationIntent.key("tenant:7/users"),
        InvalidationIntent.tag("tenant:7/users"),
        InvalidationIntent.entity("tenant:7", "users"),
        InvalidationIntent.entity("tenant:7u", "sers"),
        InvalidationIntent.collection("tenant:7:users"),
        InvalidationIntent.collection("tenant:7/users"),
    ]

    assert len({intent.target_hash() for intent in intents}) == len(intents)


@pytest.mark.parametrize("letter", ["a", "\x7f", "\x80", "\xe9", "\u20ac"])
@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 256, 1365])
def test_hash_is_over_lengths_and_bytes_of_any_text(letter: str, length: int) -> None:
    text = letter * length
    intents = (
        InvalidationIntent.key(text),
        InvalidationIntent.entity("user", text),
        InvalidationIntent.entity(text, "42"),
        InvalidationIntent.entity(text, text),
    )

    for kind, value, entity in intents:
        intent = InvalidationIntent(kind, value, entity)
        names = [each for each in (entity, value) if each is not None]
        expected = hash_parts("hydracache-invalidation-intent-v1", kind, *names)
        assert intent.target_hash() == expected


@given(INTENTS, INTENTS)
def test_distinct_intents_never_collide(
    first: InvalidationIntent, second: InvalidationIntent
) -> None:
    same = first == second

    assert (first.target_hash() == second.target_hash()) == same
    assert (tuple(first) == tuple(second)) == same


@given(INTENTS)
def test_intent_is_rebuilt_out_of_its_columns(intent: InvalidationIntent) -> None:
    rebuilt = InvalidationIntent.from_storage(
        intent.kind, intent.value, intent.entity_name
    )

    assert rebuilt == intent
    assert rebuilt.target_hash() == intent.target_hash()


@pytest.mark.parametrize(
    "columns",
    [
        ("bogus", "a", None),
        ("", None, None),
        ("KEY", "a", None),
        ("key", None, None),
        ("key", "a", "user"),
        ("tag", None, None),
        ("collection", None, None),
        ("entity", "42", None),
        ("entity", None, "user"),
        ("flush", "a", None),
        ("flush", None, "user"),
    ],
    ids=repr,
)
def test_columns_that_form_no_intent_are_a_value_error(columns: tuple) -> None:
    with pytest.raises(ValueError, match="kind"):
        InvalidationIntent.from_storage(*columns)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("text", ["", "x" * 4096, "é" * 2048, "a\0b"], ids=ascii)
def test_texts_within_the_limits_are_kept_whole(field: str, text: str) -> None:
    intent = FIELDS[field](text)

    assert text in (intent.value, intent.entity_name)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("text", ["x" * 4097, "é" * 2049], ids=["ascii", "two-byte"])
def test_text_beyond_its_limit_is_refused_with_field_length_and_limit(
    field: str, text: str
) -> None:
    length = len(text.encode("utf-8"))

    with pytest.raises(ValueError, match=rf"^{field} is {length} bytes.*\b4096$"):
        FIELDS[field](text)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("wrong", [None, 42.0, b"users", True, (42,)], ids=repr)
def test_what_is_no_id_is_a_type_error(field: str, wrong: object) -> None:
    name = type(wrong).__name__

    with pytest.raises(
        TypeError, match=f"^{field} must be str, int or UUID, not {name}"
    ):
        FIELDS[field](wrong)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("given_as", [42, uuid.UUID(int=42)], ids=repr)
def test_an_intent_holds_the_text_of_an_id(
    field: str, given_as: int | uuid.UUID
) -> None:
    intent, same = FIELDS[field](given_as), FIELDS[field](str(given_as))

    assert intent == same and intent.target_hash() == same.target_hash()
    assert intent.checked() is not None


@pytest.mark.parametrize("field", FIELDS)
def test_lone_surrogate_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} .*surrogate"):
        FIELDS[field]("user\ud83d")


def test_intent_is_immutable_and_hashable() -> None:
    intent = InvalidationIntent.entity("user", "42")

    with pytest.raises(AttributeError):
        intent.value = "43"

    assert len({intent, InvalidationIntent.entity("user", "42")}) == 1


def test_intents_of_entities_in_columns_are_a_sequence_of_them() -> None:
    intents = EntityIntents(["user", "user", "item"], ["1", "2", "2"])

    one, two, three = wanted = [
        InvalidationIntent.entity(*each)
        for each in (("user", "1"), ("user", "2"), ("item", "2"))
    ]
    assert list(intents) == [one, two, three] and len(intents) == 3
    assert intents[1] == two and intents[1:] == [two, three] and three in intents
    assert intents == wanted and intents != wanted[:2] and intents != tuple(wanted)
    assert repr(intents) == repr(wanted)


@pytest.mark.parametrize(
    ("names", "values", "are_distinct"),
    [
        (["user", "user"], ["1", "2"], True),
        (["user", "item"], ["1", "1"], True),
        (["user", "user"], ["1", "1"], False),
    ],
)
def test_entities_in_columns_differ_by_name_or_key(
    names: list[str], values: list[str], are_distinct: bool
) -> None:
    assert EntityIntents(names, values).are_distinct() is are_distinct


def test_batch_keeps_reason_and_order() -> None:
    batch = (
        InvalidationIntentBatch("user-write")
        .invalidate_key("db:user:42")
        .invalidate_tag("users")
        .invalidate_entity("user", "42")
        .invalidate_collection("users:active")
        .flush()
        .intent(InvalidationIntent.key("db:user:42"))
    )

    assert batch.reason == "user-write"
    assert [intent.kind for intent in batch.intents] == [*KINDS, "key"]
    assert len(batch) == 6
    assert tuple(batch) == batch.intents


def test_batch_is_true_if_it_invalidates_something() -> None:
    assert not InvalidationIntentBatch("nothing yet")
    assert InvalidationIntentBatch().flush()


def test_batches_are_equal_by_reason_and_ordered_intents() -> None:
    def batch(*keys: str, reason: str = "r") -> InvalidationIntentBatch:
        made = InvalidationIntentBatch(reason)
        for key in keys:
            made.invalidate_key(key)
        return made

    assert batch("a", "b") == batch("a", "b")
    assert batch("a", "b") != batch("b", "a")
    assert batch("a") != batch("a", reason="other")
    assert batch("a") != ("a",)


def test_batch_hands_out_no_way_to_change_it() -> None:
    batch = InvalidationIntentBatch("r").flush()

    with pytest.raises(AttributeError):
        batch.reason = "other"
    with pytest.raises(AttributeError):
        batch.intents = ()

    assert isinstance(batch.intents, tuple)


def test_distinct_keeps_the_first_of_each_in_order() -> None:
    batch = InvalidationIntentBatch()
    for key in ("b", "a", "b", "c", "a"):
        batch.invalidate_key(key)

    assert [intent.value for intent in batch.distinct()] == ["b", "a", "c"]


@pytest.mark.parametrize(
    "reason", ["x" * 256, "é" * 128, "ok\ud800"], ids=["ascii", "two-byte", "surrogate"]
)
def test_reason_that_cannot_be_kept_is_refused(reason: str) -> None:
    with pytest.raises(ValueError, match="^reason "):
        InvalidationIntentBatch(reason)


def test_reason_may_be_empty_or_at_its_limit() -> None:
    assert InvalidationIntentBatch().reason == ""
    assert len(InvalidationIntentBatch("é" * 127 + "x").reason) == 128


@pytest.mark.parametrize("wrong", [None, "user:42", ("key", "a", None)], ids=repr)
def test_batch_takes_intents_only(wrong: object) -> None:
    with pytest.raises(TypeError, match="InvalidationIntent"):
        InvalidationIntentBatch().intent(wrong)


@pytest.mark.parametrize(
    "made_by_hand",
    [
        InvalidationIntent("bogus", "a"),
        InvalidationIntent("key"),
        InvalidationIntent("entity", "42"),
        InvalidationIntent("flush", "a"),
        InvalidationIntent("key", "x" * 4097),
        InvalidationIntent("key", "\ud800"),
        InvalidationIntent("entity", "42", "x" * 4097),
    ],
    ids=["kind", "value", "name", "flush", "long", "surrogate", "long name"],
)
def test_batch_refuses_what_the_constructors_would_not_have_built(
    made_by_hand: InvalidationIntent,
) -> None:
    batch = InvalidationIntentBatch()

    with pytest.raises(ValueError):
        batch.intent(made_by_hand)

    assert not batch

"""What rows decode to, from records as the drivers of every database give them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.outbox import OutboxRow, OutboxState
from hydracache_sync.outbox.claimed_row import Claim, ClaimedRows
from hydracache_sync.outbox.row import COLUMNS
from support import TESTS

VECTORS = json.loads((TESTS / "values/vectors/row_ids.json").read_text("utf-8"))


def row_of(**columns: Any) -> OutboxRow:
    """A pending row of the key ``user:42``, but for ``columns``."""
    record = {
        "id": 1,
        "namespace": b"shop",
        "commit_position": b"tx:7",
        "target_hash": b"\0" * 32,
        "kind": b"key",
        "value": b"user:42",
        "entity_name": None,
        "reason": b"why",
        "created_at_ms": 1000,
        "state": 0,
        "at_ms": 2000,
        "attempts": 0,
        "claimed_at_ms": None,
        "claim_until_ms": None,
        "claim_owner": None,
        "claim_token": None,
        "waits_for": None,
        "abandoned": 0,
        "last_error": None,
        "traceparent": None,
    }
    record.update(columns)
    assert set(record) == set(COLUMNS)
    return OutboxRow(tuple(record[column] for column in COLUMNS))


@pytest.mark.parametrize("state", OutboxState)
def test_state_is_found_by_its_code_and_its_name(state: OutboxState) -> None:
    assert OutboxState.from_storage(state.code) is state
    assert OutboxState.from_storage(state.value) is state


def test_codes_of_states_are_fixed_for_ever() -> None:
    assert {state.value: state.code for state in OutboxState} == {
        "pending": 0,
        "published": 1,
        "dead": 2,
    }


@pytest.mark.parametrize("stored", [3, -1, "PENDING", "", None, b"dead", 0.5], ids=repr)
def test_unknown_state_is_none(stored: object) -> None:
    assert OutboxState.from_storage(stored) is None


@pytest.mark.parametrize(
    "vector", VECTORS, ids=lambda vector: vector["commit_position"]
)
def test_row_id_is_fixed_for_ever(vector: dict) -> None:
    intent = getattr(InvalidationIntent, vector["kind"])(*vector["arguments"])
    row = row_of(
        namespace=vector["namespace"].encode(),
        commit_position=vector["commit_position"].encode(),
        target_hash=intent.target_hash(),
    )

    assert row.row_id == vector["row_id"]


@pytest.mark.parametrize("given_as", [bytes, str])
def test_drivers_may_give_text_as_bytes_or_as_str(given_as: type) -> None:
    def text(value: str) -> Any:
        return value if given_as is str else value.encode()

    row = row_of(
        namespace=text("caf\xe9"),
        commit_position=text("tx:\xe9"),
        target_hash=bytearray(b"\1" * 32),
        kind=text("entity"),
        value=text("4\xe92"),
        entity_name=text("us\xe9r"),
        reason=text("b\xe9cause"),
        claim_owner=text("w\xe9rker"),
        waits_for=text("n\xe9:1"),
        last_error=text("t\xe9mps"),
    )

    assert row.namespace == "caf\xe9"
    assert row.commit_position.value == "tx:\xe9"
    assert row.target_hash == "01" * 32
    assert row.intent == InvalidationIntent.entity("us\xe9r", "4\xe92")
    assert row.reason == "b\xe9cause"
    assert row.claim_owner == "w\xe9rker"
    assert row.waits_for == "n\xe9:1"
    assert row.last_error == "t\xe9mps"


@given(st.text(max_size=20), st.text(max_size=20))
def test_intents_survive_storage_as_utf_8(first: str, second: str) -> None:
    for intent in (
        InvalidationIntent.key(first),
        InvalidationIntent.tag(first),
        InvalidationIntent.entity(first, second),
        InvalidationIntent.collection(first),
        InvalidationIntent.flush(),
    ):
        kind, value, name = (
            None if column is None else column.encode() for column in intent
        )

        assert row_of(kind=kind, value=value, entity_name=name).intent == intent


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"kind": b"bogus"}, "bogus"),
        ({"kind": b"\xff"}, ""),
        ({"kind": None}, "kind"),
        ({"kind": 7}, "kind"),
        ({"value": None}, "value"),
        ({"value": b"\xff\xfe"}, "value is not UTF-8"),
        ({"value": b"\xed\xa0\x80"}, "value is not UTF-8"),
        ({"value": 7}, "value"),
        ({"value": b"x" * 4097}, "4097"),
        ({"value": "\xe9" * 2049}, "4098"),
        ({"kind": b"entity"}, "entity"),
        ({"kind": b"entity", "entity_name": b"\xff"}, "entity_name is not UTF-8"),
        ({"kind": b"entity", "entity_name": b"x" * 4097}, "4097"),
        ({"entity_name": b"user"}, "entity"),
        ({"kind": b"flush"}, "value"),
        ({"state": 9}, "state 9"),
        ({"state": None}, "state"),
    ],
    ids=repr,
)
def test_malformed_row_has_no_intent_and_says_why(
    columns: dict[str, Any], said: str
) -> None:
    row = row_of(**columns)

    assert row.intent is None
    assert row.last_error is not None
    assert row.last_error.startswith("malformed row: ")
    assert said in row.last_error


def test_malformed_columns_beside_the_intent_are_still_shown() -> None:
    row = row_of(
        namespace=b"sh\xffop",
        commit_position=b"tx:\xff",
        reason=b"\xff",
        claim_owner=b"\xff",
        last_error=b"\xff",
        attempts=b"many",
    )

    assert row.intent == InvalidationIntent.key("user:42")
    assert row.namespace == r"sh\xffop"
    assert row.commit_position.value == r"tx:\xff"
    assert row.reason == row.claim_owner == row.last_error == r"\xff"
    assert row.attempts == 0
    assert repr(row)
    assert row.row_id


@pytest.mark.parametrize("position", [b"", b"x" * 129], ids=["empty", "too long"])
def test_position_of_a_foreign_hand_does_not_break_its_row(position: bytes) -> None:
    row = row_of(commit_position=position)

    assert row.commit_position.value
    assert row.row_id


def test_published_row_says_when() -> None:
    row = row_of(state=1, at_ms=5000)

    assert row.is_published
    assert not row.is_dead_lettered
    assert row.published_at_ms == 5000


def test_dead_row_was_never_published() -> None:
    row = row_of(state=2, at_ms=5000)

    assert row.is_dead_lettered
    assert not row.is_published
    assert row.published_at_ms is None


@pytest.mark.parametrize(
    "attribute", ["id", "intent", "state", "attempts", "last_error", "claim_token"]
)
def test_row_is_immutable(attribute: str) -> None:
    with pytest.raises(AttributeError):
        setattr(row_of(), attribute, None)


def test_rows_are_equal_as_long_as_nothing_has_changed() -> None:
    assert row_of() == row_of()
    assert row_of() != row_of(attempts=1)
    assert row_of() != row_of(claim_token=5)
    assert row_of() != "row"
    assert len({row_of(), row_of()}) == 1


@pytest.mark.parametrize("columns", [{}, {"kind": b"bogus"}, {"state": 9}], ids=repr)
def test_repr_is_readable_for_any_row(columns: dict[str, Any]) -> None:
    assert repr(row_of(**columns)).startswith("<OutboxRow 1 ")


PLAIN = ("entity", "42", "user")


@pytest.mark.parametrize(
    "other",
    [
        PLAIN,
        ("entity", "42", "item"),
        ("entity", "4\n2", "user"),
        ("entity", "\n", "\n"),
        ("entity", "", ""),
        ("entity", "x" * 4096, "user"),
        ("entity", "x" * 4097, "user"),
        ("entity", "Zoë", "\u65e5"),
        ("entity", b"\xff", "user"),
        ("entity", "42", b"\xff"),
        ("entity", 42, "user"),
        ("entity", None, "user"),
        ("entity", "42", None),
        ("key", "42", None),
        ("flush", None, None),
        ("other", "42", "user"),
        (b"entity", "42", "user"),
        (None, None, None),
    ],
)
@pytest.mark.parametrize("given_as", [str, bytes])
def test_intents_of_a_claim_are_those_of_its_rows(
    other: tuple[Any, ...], given_as: type
) -> None:
    records = [
        (
            number,
            *(
                text.encode() if given_as is bytes and isinstance(text, str) else text
                for text in columns
            ),
            0,
        )
        for number, columns in enumerate([PLAIN, other, PLAIN])
    ]
    claim = Claim(("shop", 0, 0, 0, "me", 1), [0, 1, 2], lambda ids: [])

    rows = ClaimedRows(records, claim)

    assert list(rows.intents()) == [
        OutboxRow(each).intent
        for each in ((*record[:4], *[None] * 10, *claim.common) for record in records)
    ]
    assert rows.intents()[0] == InvalidationIntent.entity("user", "42")

"""Commit positions, and receipts that travel as text."""

from __future__ import annotations

import dataclasses
import re
import time
from http.cookies import SimpleCookie
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
from support.processes import in_processes, in_threads


def text_of(limit: int) -> st.SearchStrategy:
    """Any text of 1 to ``limit`` bytes of UTF-8."""
    return st.text(min_size=1, max_size=limit).filter(
        lambda text: len(text.encode("utf-8")) <= limit
    )


RECEIPTS = st.builds(
    InvalidationReceipt,
    text_of(64),
    text_of(128).map(CommitPosition),
    st.integers(0, 10**15 - 1),
    st.integers(0, 10**15 - 1),
)


def generate(count: int) -> list[str]:
    return [CommitPosition.generate().value for _ in range(count)]


def test_position_wraps_the_identity_of_a_write() -> None:
    position = CommitPosition("pg:123")

    assert str(position) == position.value == "pg:123"
    assert position == CommitPosition("pg:123")
    assert hash(position) == hash(CommitPosition("pg:123"))
    assert position < CommitPosition("pg:124")


def test_position_is_immutable() -> None:
    position = CommitPosition("tx:1")

    with pytest.raises(dataclasses.FrozenInstanceError):
        position.value = "tx:2"


@pytest.mark.parametrize("value", ["x", "x" * 128, "é" * 64, "a\0b", " "], ids=ascii)
def test_position_within_its_limits_is_kept(value: str) -> None:
    assert CommitPosition(value).value == value


@pytest.mark.parametrize("value", ["", "x" * 129, "é" * 65], ids=ascii)
def test_position_beyond_its_limits_is_refused(value: str) -> None:
    length = len(value.encode("utf-8"))

    with pytest.raises(ValueError, match=rf"^commit_position is {length} bytes.*128$"):
        CommitPosition(value)


@pytest.mark.parametrize("value", [None, 7, b"tx:1", True], ids=repr)
def test_position_that_is_no_text_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="commit_position"):
        CommitPosition(value)


def test_generated_positions_rise_in_the_order_of_the_calls() -> None:
    positions = [CommitPosition.generate() for _ in range(2000)]

    assert positions == sorted(set(positions))


@pytest.mark.parametrize("step", [0, -1_000_000], ids=["stands still", "goes back"])
def test_generated_positions_rise_even_if_the_clock_does_not(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    readings = iter(range(100))
    monkeypatch.setattr(time, "time_ns", lambda: now + step * next(readings))

    positions = generate(100)

    assert positions == sorted(set(positions))


def test_generated_positions_are_unique_over_threads() -> None:
    drawn = in_threads(8, lambda _: generate(1000))

    assert len({position for each in drawn for position in each}) == 8000
    assert all(each == sorted(each) for each in drawn)


def test_generated_positions_are_unique_over_forked_processes() -> None:
    generate(1)

    drawn = [*in_processes(4, lambda _: generate(1000)), generate(1000)]

    assert len({position for each in drawn for position in each}) == 5000


def test_position_generated_later_by_another_process_is_greater() -> None:
    [before] = generate(1)

    [[other]] = in_processes(1, lambda _: generate(1))

    assert before < other < CommitPosition.generate().value


@given(RECEIPTS)
def test_receipt_travels_as_text(receipt: InvalidationReceipt) -> None:
    travelled = InvalidationReceipt.from_string(receipt.to_string())

    assert travelled == receipt
    assert travelled.batch is None
    assert travelled.inserted is None


@given(RECEIPTS)
def test_text_of_a_receipt_goes_into_a_cookie_unquoted(
    receipt: InvalidationReceipt,
) -> None:
    text = receipt.to_string()
    cookie = SimpleCookie()
    cookie["receipt"] = text

    # RFC 6265, cookie-octet.
    assert re.fullmatch(r"[!#-+\--:<-\[\]-~]{1,1000}", text)
    assert cookie["receipt"].coded_value == text


@given(RECEIPTS)
def test_text_of_a_receipt_goes_into_a_url_unquoted(
    receipt: InvalidationReceipt,
) -> None:
    query = parse_qs(f"page=2&receipt={receipt.to_string()}", strict_parsing=True)

    assert InvalidationReceipt.from_string(query["receipt"][0]) == receipt


@given(
    st.text()
    | st.text(alphabet=st.characters())
    | st.lists(
        st.sampled_from(
            ["hc1", "hc2", "shop", "tx%3A1", "%ff", "%", "1", "-1", "1.0", "²", "٣", ""]
        ),
        max_size=7,
    ).map(":".join)
    | st.integers(min_value=10**15).map("hc1:shop:tx:{}:1".format)
)
def test_junk_is_a_value_error_and_nothing_else(text: str) -> None:
    try:
        receipt = InvalidationReceipt.from_string(text)
    except ValueError:
        return

    assert InvalidationReceipt.from_string(receipt.to_string()) == receipt


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hc1",
        "hc1:shop:tx:5",
        "hc1:shop:tx:5:1:1",
        "hc0:shop:tx:5:1",
        "hc2:shop:tx:5:1",
        "hc1::tx:5:1",
        "hc1:shop::5:1",
        "hc1:shop:tx::1",
        "hc1:shop:tx:5:",
        "hc1:shop:tx:-5:1",
        "hc1:shop:tx:+5:1",
        "hc1:shop:tx: 5:1",
        "hc1:shop:tx:5_0:1",
        "hc1:shop:tx:²:1",
        "hc1:shop:tx:5:1e3",
        "hc1:shop:tx:1000000000000000:1",
        "hc1:%ff:tx:5:1",
        "hc1:shop:%C3:5:1",
        "hc1:\ud800:tx:5:1",
        "hc1:" + "x" * 65 + ":tx:5:1",
        "hc1:shop:" + "x" * 129 + ":5:1",
    ],
    ids=ascii,
)
def test_text_that_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        InvalidationReceipt.from_string(text)


@pytest.mark.parametrize("wrong", [None, b"hc1:shop:tx:5:1", 5], ids=repr)
def test_receipt_that_is_no_text_is_a_type_error(wrong: object) -> None:
    with pytest.raises(TypeError, match="receipt must be str"):
        InvalidationReceipt.from_string(wrong)


def test_text_form_is_fixed() -> None:
    """Receipts are out there in browsers when the next version is installed."""
    receipt = InvalidationReceipt("shop", CommitPosition("tx-7"), 1700000000000, 3)

    assert receipt.to_string() == "hc1.c2hvcA.dHgtNw.1700000000000.3"


def test_receipt_is_immutable() -> None:
    receipt = InvalidationReceipt("shop", CommitPosition("tx:1"), 5, 1)

    with pytest.raises(dataclasses.FrozenInstanceError):
        receipt.targets = 2


def test_repr_of_a_receipt_does_not_spell_out_its_batch() -> None:
    batch = InvalidationIntentBatch().invalidate_key("k" * 4000)
    receipt = InvalidationReceipt("shop", CommitPosition("tx:1"), 5, 1, batch, 1)

    assert len(repr(receipt)) < 300

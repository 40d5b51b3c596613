"""Waits after failures: drawn from the whole range, doubled, and bounded."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync import backoff
from hydracache_sync.backoff import FULL_JITTER, Backoff

seconds = st.floats(min_value=0.0, max_value=1e9)


@pytest.fixture
def longest_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = SimpleNamespace(uniform=lambda low, high: high)
    monkeypatch.setattr(backoff, "random", draw)


@pytest.fixture
def shortest_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = SimpleNamespace(uniform=lambda low, high: low)
    monkeypatch.setattr(backoff, "random", draw)


def full_jitter(first: float, longest: float, failures: int) -> float:
    return Backoff(first, longest, FULL_JITTER).pause(failures)


@given(base=seconds, longest=seconds, failures=st.integers(-5, 100_000))
def test_a_wait_is_never_negative_nor_above_either_bound(
    base: float, longest: float, failures: int
) -> None:
    doubled = base * 2.0 ** min(max(failures, 1) - 1, 900)

    wait = full_jitter(base, longest, failures)

    assert 0.0 <= wait <= min(longest, doubled)
    assert math.isfinite(wait)


def test_the_longest_wait_doubles_until_it_meets_its_bound(longest_draw: None) -> None:
    waits = [full_jitter(1.0, 10.0, failures) for failures in range(1, 8)]

    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_the_shortest_wait_is_none_at_all(shortest_draw: None) -> None:
    waits = [full_jitter(1.0, 10.0, failures) for failures in range(1, 8)]

    assert waits == [0.0] * 7


def test_a_million_failures_do_not_overflow(longest_draw: None) -> None:
    assert full_jitter(1.0, 300.0, 1_000_000) == 300.0


def test_what_failed_together_does_not_come_back_together() -> None:
    waits = {full_jitter(1.0, 300.0, 3) for _ in range(100)}

    assert len(waits) > 90
    assert max(waits) - min(waits) > 2.0


def test_a_base_of_zero_means_no_wait() -> None:
    assert full_jitter(0.0, 300.0, 9) == 0.0


def test_by_default_half_of_a_wait_is_certain(shortest_draw: None) -> None:
    waits = [Backoff(1.0, 10.0).pause(failures) for failures in range(1, 8)]

    assert waits == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]

"""Which of the connections that an outbox lends a caller gets."""

from __future__ import annotations

import time

import pytest

from hydracache_sync.outbox.lent_connections import LentConnections


@pytest.fixture
def lent() -> LentConnections:
    return LentConnections(
        connect=object,
        close=lambda connection: None,
        abandon=lambda connection: None,
        is_stale=lambda connection: False,
        size=2,
    )


def test_a_connection_is_taken_again_only_while_it_is_the_last_given_back(lent):
    soon = time.monotonic() + 5.0
    first, second = lent.take(soon), lent.take(soon)
    lent.put(first)
    lent.put(second)

    assert lent.take_again(first.connection) is None
    assert lent.take_again(second.connection) is second
    assert lent.take_again(first.connection) is first
    assert lent.take_again(first.connection) is None
    lent.put(first)
    lent.put(second)
    # What was not taken has not been lost.
    assert {lent.take(soon), lent.take(soon)} == {first, second}

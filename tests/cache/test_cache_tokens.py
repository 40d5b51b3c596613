"""Tokens: never the same twice, and nothing but a token is live."""

from __future__ import annotations

import os
import random
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync.cache.tokens.token import (
    TOKEN_SIZE,
    fresh_token,
    fresh_tokens,
    is_live,
    stamp_ms,
)


def test_tokens_of_one_moment_differ() -> None:
    tokens = [fresh_token(5) for _ in range(1000)] + fresh_tokens(1000, 5)

    assert len(set(tokens)) == 2000
    assert all(is_live(token) for token in tokens)


def test_seeding_the_random_module_changes_nothing() -> None:
    state = random.getstate()
    random.seed(1)
    first = [fresh_token(5), *fresh_tokens(2, 5)]
    random.seed(1)
    second = [fresh_token(5), *fresh_tokens(2, 5)]
    random.setstate(state)

    assert not set(first) & set(second)


def test_a_forked_child_makes_other_tokens() -> None:
    receiving, sending = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.write(sending, b"".join(fresh_tokens(10, 5)))
        os._exit(0)
    own = fresh_tokens(10, 5)
    os.waitpid(child, 0)
    theirs = os.read(receiving, 10 * TOKEN_SIZE)
    os.close(receiving)
    os.close(sending)

    assert len(theirs) == 10 * TOKEN_SIZE
    assert not any(token in theirs for token in own)


@given(st.integers(min_value=0, max_value=2**63))
def test_a_token_tells_when_it_was_made(moment: int) -> None:
    assert stamp_ms(fresh_token(moment)) == moment
    assert [stamp_ms(token) for token in fresh_tokens(2, moment)] == [moment, moment]


@given(st.binary(max_size=40).filter(lambda d: not (len(d) == 17 and d[:1] == b"L")))
def test_anything_else_is_not_live(data: bytes) -> None:
    assert not is_live(data)


@pytest.mark.parametrize("kind", [b"P", b"C", b"l", b"\x00"])
def test_a_token_of_another_kind_is_not_live(kind: bytes) -> None:
    assert not is_live(kind + fresh_token(5)[1:])


def test_no_token_is_not_live() -> None:
    assert not is_live(None)

"""Signed pickles: any value comes back, and only what we signed is unpickled."""

from __future__ import annotations

import datetime
import os
import pickle
import sys
import types
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync import ConfigurationError, MemoryStore, TaggedCache
from hydracache_sync.cache import Codec, PickleCodec
from hydracache_sync.cache.codecs.codec import MISS, PICKLE, SIGNED
from hydracache_sync.cache.entry_format import (
    pack,
    soft_ms_of,
    tag_digest,
    token_prefix_of,
)
from hydracache_sync.cache.tokens.token import fresh_tokens

DIGEST = tag_digest(["a", "b"])
TOKENS = fresh_tokens(4, 1_700_000_000_000)
BASIS = token_prefix_of(DIGEST, TOKENS)

KEY = b"k" * 32
OLD_KEY = b"o" * 32
CODEC = PickleCodec(key=KEY)

values = st.recursive(
    st.one_of(
        st.none(),
        st.integers(),
        st.text(),
        st.binary(),
        st.dates(),
        st.decimals(allow_nan=False),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner), st.lists(inner), st.dictionaries(st.integers(), inner)
    ),
    max_leaves=10,
)


class Touch:
    """Unpickled, it makes a file: what an attacker would do, done harmlessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Refuses:
    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}

    def __setstate__(self, state: object) -> None:
        raise KeyError("of an older version")


@given(values)
def test_a_value_comes_back_equal(value: Any) -> None:
    assert CODEC.decode(CODEC.encode(value, BASIS), DIGEST, TOKENS) == value


def test_types_that_json_has_not_come_back() -> None:
    value = {1: (datetime.date(2026, 1, 1), Decimal("1.10"), {2, 3})}

    back = CODEC.decode(CODEC.encode(value, BASIS), DIGEST, TOKENS)

    assert back == value
    assert type(back[1]) is tuple


@given(st.data(), values)
def test_an_entry_with_one_byte_changed_is_a_miss(
    data: st.DataObject, value: Any
) -> None:
    entry = bytearray(CODEC.encode(value, BASIS))
    at = data.draw(st.integers(min_value=0, max_value=len(entry) - 1))
    entry[at] ^= data.draw(st.integers(min_value=1, max_value=255))

    assert CODEC.decode(bytes(entry), DIGEST, TOKENS) is MISS


@given(st.data(), values)
def test_a_truncated_entry_is_a_miss(data: st.DataObject, value: Any) -> None:
    entry = CODEC.encode(value, BASIS)
    length = data.draw(st.integers(min_value=0, max_value=len(entry) - 1))

    assert CODEC.decode(entry[:length], DIGEST, TOKENS) is MISS


@given(st.binary(max_size=300))
def test_foreign_bytes_are_a_miss(data: bytes) -> None:
    assert CODEC.decode(data, DIGEST, TOKENS) is MISS
    assert CODEC.decode(BASIS + data, DIGEST, TOKENS) is MISS


# Whoever writes to memcached knows the layout and the tokens, and makes a good CRC.


@pytest.mark.parametrize("signature", [b"", b"\x00" * 32, b"x" * 31])
def test_a_pickle_that_is_not_signed_is_not_unpickled(
    tmp_path: Path, signature: bytes
) -> None:
    evil = pickle.dumps(Touch(tmp_path / "ran"))

    inner = pack(BASIS, PICKLE, evil)
    for entry in (
        inner,
        pack(BASIS, SIGNED, signature + evil),
        pack(BASIS, SIGNED, signature + inner[len(BASIS) :]),
    ):
        assert CODEC.decode(entry, DIGEST, TOKENS) is MISS

    assert not (tmp_path / "ran").exists()


def test_a_pickle_signed_with_another_key_is_not_unpickled(tmp_path: Path) -> None:
    entry = PickleCodec(key=OLD_KEY).encode(Touch(tmp_path / "ran"), BASIS)

    assert CODEC.decode(entry, DIGEST, TOKENS) is MISS
    assert not (tmp_path / "ran").exists()
    # Signed with ours it would have run: the test sees what it should.
    CODEC.decode(CODEC.encode(Touch(tmp_path / "ran"), BASIS), DIGEST, TOKENS)
    assert (tmp_path / "ran").exists()


def test_a_signature_is_no_good_on_other_tokens_tags_or_another_soft_expiry() -> None:
    entry = CODEC.encode("v", BASIS, 1000)
    payload = entry[len(BASIS) + 14 :]
    others = fresh_tokens(4, 1_700_000_000_000)

    moved = pack(token_prefix_of(DIGEST, others), SIGNED, payload, 1000)
    retagged = pack(token_prefix_of(tag_digest(["a"]), TOKENS), SIGNED, payload, 1000)
    softer = pack(BASIS, SIGNED, payload, 2000)
    same = pack(BASIS, SIGNED, payload, 1000)

    assert CODEC.decode(moved, DIGEST, others) is MISS
    assert CODEC.decode(retagged, tag_digest(["a"]), TOKENS) is MISS
    assert CODEC.decode(softer, DIGEST, TOKENS) is MISS
    assert CODEC.decode(same, DIGEST, TOKENS) == "v"
    assert soft_ms_of(same, len(TOKENS)) == 1000


def test_the_plain_codec_unpickles_nothing(tmp_path: Path) -> None:
    entry = CODEC.encode(Touch(tmp_path / "ran"), BASIS)

    assert Codec().decode(entry, DIGEST, TOKENS) is MISS
    assert not (tmp_path / "ran").exists()


def test_an_unsigned_entry_of_the_plain_codec_is_a_miss() -> None:
    for value in (b"v", "v", None, [1]):
        assert CODEC.decode(Codec().encode(value, BASIS), DIGEST, TOKENS) is MISS


# Changing keys


def test_keys_change_without_a_moment_in_which_an_entry_is_not_read() -> None:
    before = PickleCodec(key=OLD_KEY)
    prepared = PickleCodec(key=[OLD_KEY, KEY])
    switched = PickleCodec(key=[KEY, OLD_KEY])
    after = PickleCodec(key=[KEY])

    for writer, reader in [
        (before, prepared),
        (prepared, before),
        (prepared, switched),
        (switched, prepared),
        (switched, after),
        (after, switched),
    ]:
        assert reader.decode(writer.encode("v", BASIS), DIGEST, TOKENS) == "v"
    assert after.decode(before.encode("v", BASIS), DIGEST, TOKENS) is MISS


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ([], "no key"),
        (b"short", "5 bytes"),
        ([KEY, b""], "0 bytes"),
        ("k" * 32, "not str"),
        ([None], "not NoneType"),
    ],
)
def test_a_key_that_is_none_is_refused(key: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        PickleCodec(key=key)


def test_keys_are_not_shown() -> None:
    assert "kkk" not in repr(CODEC)


# What cannot be


def test_a_value_that_cannot_be_pickled_is_refused_by_name() -> None:
    for value in (lambda: 1, types.SimpleNamespace(f=lambda: 1), {"r": iter}.items()):
        with pytest.raises(TypeError, match="cannot cache this"):
            CODEC.encode(value, BASIS)


def test_a_value_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(200_000):
        deep = [deep]

    with pytest.raises(ValueError, match="nested too deeply"):
        CODEC.encode(deep, BASIS)
    while deep:
        deep = deep.pop()


def test_an_object_whose_class_is_gone_is_a_miss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("soon_gone")
    exec("class Thing: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "soon_gone", module)
    entry = CODEC.encode(module.Thing(), BASIS)
    monkeypatch.delitem(sys.modules, "soon_gone")

    assert CODEC.decode(entry, DIGEST, TOKENS) is MISS


def test_an_object_that_raises_while_it_is_unpickled_is_a_miss() -> None:
    assert CODEC.decode(CODEC.encode(Refuses(), BASIS), DIGEST, TOKENS) is MISS


# In a cache


def test_a_cache_keeps_what_its_codec_takes_and_others_see_a_miss() -> None:
    store = MemoryStore()
    cache = TaggedCache(store, "shop", codec=CODEC)
    plain = TaggedCache(store, "shop")

    assert cache.get_or_load("k", lambda: (1, 2), tags=("t",)) == (1, 2)

    assert cache.get("k", tags=("t",)) == (1, 2)
    assert plain.get("k", tags=("t",)) is None

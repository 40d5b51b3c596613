"""A signature says who stored an entry, and where: moved, it is worth nothing."""

from __future__ import annotations

from typing import Any

import pytest

from hydracache_sync import (
    ConfigurationError,
    MemoryStore,
    PickleCodec,
    SignedCodec,
    TaggedCache,
)
from hydracache_sync.cache import CacheStore, Codec
from hydracache_sync.cache.codecs.codec import JSON, MISS, SIGNED
from hydracache_sync.cache.entry_format import pack, tag_digest, token_prefix_of
from hydracache_sync.cache.tokens.token import fresh_tokens

KEY = b"k" * 32
DIGEST = tag_digest(["a"])
TOKENS = fresh_tokens(3, 1_700_000_000_000)
BASIS = token_prefix_of(DIGEST, TOKENS)

CODECS = [SignedCodec, PickleCodec]


def copied(store: CacheStore, source: TaggedCache, to: TaggedCache, key: str) -> Any:
    """What ``to`` reads under ``key`` when alice's entry and its tokens are put there.

    As somebody does who can write to memcached and has no secret.
    """
    there = source._keyspace.of_key("alice") + (source._keyspace.tag_token("t"),)
    place = to._keyspace.of_key(key) + (to._keyspace.tag_token("t"),)
    found = store.get_many(there)
    store.set_many([(at, data or b"", None) for at, data in zip(place, found)])
    return to.get(key, tags=["t"])


@pytest.mark.parametrize("codec", CODECS)
def test_an_entry_is_no_good_under_another_key_namespace_or_ring(codec: Any) -> None:
    store = MemoryStore()
    shop, admin = (
        TaggedCache(store, namespace, codec=codec(key=KEY))
        for namespace in ("shop", "admin")
    )
    store.ring = "2"
    moved = TaggedCache(store, "shop", codec=codec(key=KEY))
    shop.get_or_load("alice", lambda: {"role": "admin"}, tags=["t"])

    assert copied(store, shop, shop, "alice") == {"role": "admin"}
    assert copied(store, shop, shop, "mallory") is None
    assert copied(store, shop, admin, "alice") is None
    assert copied(store, shop, moved, "alice") is None


def test_without_a_signature_it_would_be() -> None:
    store = MemoryStore()
    shop = TaggedCache(store, "shop")
    shop.get_or_load("alice", lambda: {"role": "admin"}, tags=["t"])

    assert copied(store, shop, shop, "mallory") == {"role": "admin"}


@pytest.mark.parametrize(
    "value", [b"bytes", "text", None, 1, [1.5, {"a": None}], 2**70, ""]
)
def test_it_keeps_what_the_plain_codec_keeps(value: Any) -> None:
    codec = SignedCodec(key=KEY)

    entry = codec.encode(value, BASIS, 1000, b"name")

    assert codec.decode(entry, DIGEST, TOKENS, b"name") == value
    assert codec.decode(entry, DIGEST, TOKENS, b"eman") is MISS
    assert codec.decode(entry[:-1] + b"?", DIGEST, TOKENS, b"name") is MISS
    with pytest.raises(TypeError, match="cannot cache object"):
        codec.encode([object()], BASIS)


def test_nothing_unsigned_is_read_and_nothing_signed_with_another_key() -> None:
    plain = Codec().encode({"price": 0}, BASIS)
    forged = pack(BASIS, SIGNED, bytes(32) + plain[len(BASIS) :])
    other = SignedCodec(key=b"o" * 32)
    both = SignedCodec(key=[KEY, b"o" * 32])
    codec = SignedCodec(key=KEY)

    for entry in (plain, forged, other.encode({"price": 0}, BASIS)):
        assert codec.decode(entry, DIGEST, TOKENS) is MISS
    assert both.decode(other.encode(1, BASIS), DIGEST, TOKENS) == 1


def test_what_one_codec_has_signed_the_other_does_not_read() -> None:
    pickles, json = PickleCodec(key=KEY), SignedCodec(key=KEY)

    assert json.decode(pickles.encode(1, BASIS), DIGEST, TOKENS) is MISS
    assert pickles.decode(json.encode(1, BASIS), DIGEST, TOKENS) is MISS


def test_a_key_that_is_too_short_is_refused_and_never_shown() -> None:
    with pytest.raises(ConfigurationError, match="5 bytes"):
        SignedCodec(key=b"short")
    assert "k" * 8 not in repr(SignedCodec(key=KEY))


@pytest.mark.parametrize("use_orjson", [True, False])
@pytest.mark.parametrize(
    "text", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"[-1e999]", b'{"a": NaN}']
)
def test_a_number_that_is_never_written_is_a_miss(
    text: bytes, use_orjson: bool
) -> None:
    codec = Codec(use_orjson=use_orjson)

    assert codec.decode(pack(BASIS, JSON, text), DIGEST, TOKENS) is MISS
    assert codec.decode(pack(BASIS, JSON, b"[1e3]"), DIGEST, TOKENS) == [1000.0]

"""Large payloads are made smaller, and small ones are kept from becoming huge."""

from __future__ import annotations

import logging
import os
import sys
import tracemalloc
import zlib
from decimal import Decimal
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync import ConfigurationError, MemoryStore, TaggedCache
from hydracache_sync.cache import Codec, PickleCodec, SignedCodec
from hydracache_sync.cache.codecs import compression
from hydracache_sync.cache.codecs.codec import (
    BYTES,
    JSON,
    MISS,
    PICKLE,
    TEXT,
    TYPED,
)
from hydracache_sync.cache.codecs.compression import (
    COMPRESSED,
    COMPRESSED_ZSTD,
    LARGEST,
    Compression,
)
from hydracache_sync.cache.entry_format import (
    pack,
    soft_ms_of,
    tag_digest,
    token_prefix_of,
    unpack,
)
from hydracache_sync.cache.tokens.token import fresh_tokens

DIGEST = tag_digest(["a"])
TOKENS = fresh_tokens(3, 1_700_000_000_000)
BASIS = token_prefix_of(DIGEST, TOKENS)
KEY = b"k" * 32

PLAIN = Codec()
BY_ZLIB = Codec(compress_over=100, compression="zlib")
BY_ZSTD = Codec(compress_over=100, compression="zstd")
SMALL = Codec(compress_over=100)

#: What compresses, by the form that an entry has then.
METHODS = {COMPRESSED: zlib.compress, COMPRESSED_ZSTD: zstandard.compress}

by_both = pytest.mark.parametrize("method", METHODS)


def form_of(entry: bytes) -> int:
    found = unpack(entry, DIGEST, TOKENS)
    assert found is not None
    return found[0]


def read(method: int, packed: bytes, codec: Any = PLAIN) -> Any:
    """What is read of ``packed`` in place of a compressed payload."""
    return codec.decode(pack(BASIS, method, packed), DIGEST, TOKENS)


@pytest.fixture
def no_zstandard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the library not installed."""
    monkeypatch.setitem(sys.modules, "zstandard", None)


@pytest.mark.parametrize(
    "small, method", [(BY_ZLIB, COMPRESSED), (BY_ZSTD, COMPRESSED_ZSTD)]
)
@pytest.mark.parametrize(
    "value",
    [
        b"x" * 101,
        "ab" * 1000,
        ["text"] * 100,
        [2**70] * 50,
        (Decimal("1.5"),) * 50,
        "\ud800" * 200,
    ],
    ids=range(6),
)
def test_a_value_over_the_limit_is_smaller_and_read_whatever_the_reader_says(
    value: Any, small: Codec, method: int
) -> None:
    entry = small.encode(value, BASIS, 1000)

    assert form_of(entry) == method
    assert len(entry) < len(PLAIN.encode(value, BASIS))
    assert soft_ms_of(entry, len(TOKENS)) == 1000
    for reader in (BY_ZLIB, BY_ZSTD, PLAIN):
        assert reader.decode(entry, DIGEST, TOKENS) == value
        assert reader.decode(PLAIN.encode(value, BASIS), DIGEST, TOKENS) == value
    assert small.decode(entry, DIGEST, [*TOKENS[:2], None]) is MISS


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (b"x" * 100, BYTES),
        ("x" * 100, TEXT),
        ([1] * 49, JSON),
        (os.urandom(999), BYTES),
    ],
    ids=range(4),
)
def test_a_value_up_to_the_limit_or_one_that_gets_no_smaller_stays(
    value: Any, form: int
) -> None:
    entry = SMALL.encode(value, BASIS)

    assert form_of(entry) == form
    assert SMALL.decode(entry, DIGEST, TOKENS) == value


@pytest.mark.parametrize(
    "codec",
    [
        SignedCodec(key=KEY, codec=SMALL),
        PickleCodec(key=KEY, compress_over=100),
        SignedCodec(key=KEY, codec=BY_ZLIB),
        PickleCodec(key=KEY, compress_over=100, compression="zlib"),
    ],
    ids=["signed", "pickle", "signed-zlib", "pickle-zlib"],
)
def test_a_signature_covers_what_was_made_smaller(codec: Any) -> None:
    value = {"text": "long " * 1000}
    entry = codec.encode(value, BASIS, 0, b"name")

    assert len(entry) < 1000
    assert codec.decode(entry, DIGEST, TOKENS, b"name") == value
    assert codec.decode(entry, DIGEST, TOKENS, b"other") is MISS
    packed = bytes([JSON]) + zlib.compress(b"[1]" + b" " * 99)
    assert read(COMPRESSED, packed, codec) is MISS


@by_both
def test_a_pickle_in_it_is_read_by_nobody_who_asks_for_no_signature(
    method: int,
) -> None:
    assert read(method, bytes([PICKLE]) + METHODS[method](b"." * 100)) is MISS


def test_a_value_over_the_item_limit_may_be_stored() -> None:
    store = MemoryStore()
    text = "a page of text " * 200_000
    plain = TaggedCache(store, "shop")
    small = TaggedCache(store, "shop", codec=Codec(compress_over=1000))

    assert plain.get_or_load("k", lambda: text) == text
    assert plain.get("k") is None
    assert plain.diagnostics().refused_size == 1
    assert small.get_or_load("k", lambda: text) == text
    assert small.get("k") == text
    assert plain.get("k") == text


def bomb(method: int, size: int, form: int = BYTES) -> bytes:
    return bytes([form]) + METHODS[method](bytes(size))


@by_both
@pytest.mark.parametrize("form", [BYTES, TEXT, JSON, TYPED])
def test_what_would_unpack_to_more_than_the_limit_is_a_miss(
    form: int, method: int
) -> None:
    packed = bomb(method, LARGEST + 1, form)

    # A third of what memcached takes for one item.
    assert len(packed) < 350_000
    assert read(method, packed) is MISS


def claiming(size: int, of: int) -> bytes:
    """A frame of ``of`` zeros that says that they are ``size``."""
    frame = bytearray(zstandard.compress(bytes(of)))
    # Behind the magic and what follows, and the window where there is more than one
    # segment.
    at = 5 if frame[4] & 0b10_0000 else 6
    assert frame[at : at + 4] == of.to_bytes(4, "little")
    frame[at : at + 4] = size.to_bytes(4, "little")
    return bytes(frame)


@pytest.mark.parametrize(
    "frame, most",
    [
        # One that says nothing, one that says too little, and one too much.
        (
            zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**27)),
            2**20,
        ),
        (claiming(100_000, of=2**27), 2**20),
        (claiming(LARGEST, of=100_000), LARGEST + 2**20),
        (claiming(2**32 - 1, of=100_000), 2**20),
    ],
    ids=["none", "less", "more", "beyond the limit"],
)
def test_what_a_frame_says_of_its_size_is_not_believed(frame: bytes, most: int) -> None:
    tracemalloc.start()
    try:
        assert read(COMPRESSED_ZSTD, bytes([BYTES]) + frame) is MISS
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def test_no_more_than_the_limit_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = bomb(COMPRESSED, LARGEST + 1000)
    sizes = []

    class Watched:
        def __init__(self) -> None:
            self.of = zlib.decompressobj()

        def decompress(self, data: bytes, limit: int) -> bytes:
            found = self.of.decompress(data, limit)
            sizes.append(len(found))
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self.of, name)

    class Zlib:
        error = zlib.error
        decompressobj = Watched

    monkeypatch.setattr(compression, "zlib", Zlib)

    assert read(COMPRESSED, packed) is MISS
    assert sizes == [LARGEST]


@by_both
@pytest.mark.parametrize("case", range(10))
def test_what_is_no_result_of_compression_is_a_miss(case: int, method: int) -> None:
    json, small = bytes([JSON]), METHODS[method]
    other = METHODS[COMPRESSED + COMPRESSED_ZSTD - method]
    packed = [
        b"",
        json,
        json + b"[1]",
        json + small(b"[1]")[:-1],
        json + small(b"[1]") + b"x",
        json + small(b"[1"),
        bytes([0]) + small(b"[1]"),
        bytes([255]) + small(b"[1]"),
        json + other(b"[1]"),
        # In itself: one step, and no second.
        bytes([method]) + small(json + small(b"[1]")),
    ][case]

    assert read(method, packed) is MISS


@given(st.binary(max_size=50), st.sampled_from(sorted(METHODS)))
def test_foreign_bytes_are_a_miss(data: bytes, method: int) -> None:
    assert read(method, data) is MISS


@given(
    st.binary(min_size=1, max_size=300),
    st.integers(0, 10_000),
    st.binary(min_size=1, max_size=3),
)
def test_a_damaged_frame_is_a_miss_or_of_its_size(
    data: bytes, at: int, damage: bytes
) -> None:
    frame = bytearray(zstandard.compress(data * 5))
    at %= len(frame)
    frame[at : at + len(damage)] = damage

    found = read(COMPRESSED_ZSTD, bytes([BYTES]) + frame)

    assert found is MISS or len(found) <= LARGEST


def test_the_library_is_used_where_it_is_installed() -> None:
    assert form_of(SMALL.encode(b"x" * 1000, BASIS)) == COMPRESSED_ZSTD


@pytest.mark.usefixtures("no_zstandard")
def test_without_the_library_zlib_is_used_and_what_it_made_is_a_told_miss(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    text = "a page of text " * 100
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setitem(sys.modules, "zstandard", zstandard)
        TaggedCache(store, "shop", codec=BY_ZSTD).get_or_load("k", lambda: text)
    without = TaggedCache(store, "shop", codec=Codec(compress_over=100))

    with caplog.at_level(logging.WARNING, logger="hydracache_sync"):
        assert [without.get("k"), without.get("k")] == [None, None]

    assert without.diagnostics().unreadable == 2
    assert without.diagnostics().misses == 2
    [said] = caplog.messages
    assert "install hydracache_sync with its extra 'zstd'" in said
    # It is loaded and stored so that everybody can read it.
    assert without.get_or_load("k", lambda: text) == text
    assert without.get("k") == TaggedCache(store, "shop").get("k") == text
    assert without.diagnostics().unreadable == 3


@pytest.mark.usefixtures("no_zstandard")
@pytest.mark.parametrize("by", [BY_ZSTD, None], ids=["default", "pickle"])
def test_what_lacks_its_library_counts_under_a_signature_too(by: Codec | None) -> None:
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setitem(sys.modules, "zstandard", zstandard)
        codec: Any = PickleCodec(key=KEY, compress_over=100)
        if by is not None:
            codec = SignedCodec(key=KEY, codec=Codec(compress_over=100))
        entry = codec.encode("x" * 1000, BASIS, 0, b"name")

    assert codec.decode(entry, DIGEST, TOKENS, b"name") is MISS
    assert codec.unreadable.total == 1


@pytest.mark.usefixtures("no_zstandard")
def test_the_library_is_refused_where_it_is_not_installed() -> None:
    for make in (Codec, lambda **kw: PickleCodec(key=KEY, **kw)):
        with pytest.raises(ConfigurationError, match="with its extra 'zstd'"):
            make(compress_over=100, compression="zstd")
    with pytest.raises(ConfigurationError, match="'auto', 'zlib' or 'zstd', not 'lz4"):
        Compression(100, "lz4")


@pytest.mark.parametrize("over", [-1, LARGEST + 1, 1.5, "1", True], ids=repr)
def test_a_limit_that_is_no_number_of_bytes_is_refused(over: Any) -> None:
    for make in (Codec, lambda **kw: PickleCodec(key=KEY, **kw)):
        with pytest.raises(ConfigurationError, match="compress_over must be"):
            make(compress_over=over)

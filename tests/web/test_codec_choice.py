"""``HYDRACACHE_CODEC`` and what is beside it: how an app's cached values are kept."""

from __future__ import annotations

import logging
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from shop import Shop, hydracache, text

from hydracache_sync import ConfigurationError, MemoryStore

KEY = "a key of 16 bytes and more"
DECIMALS = {"price": Decimal("9.90")}
OBJECTS = {"price": range(3)}


class Site:
    """An app with one page that shows what it was given, cached."""

    def __init__(self, path: Path, value: Any, **settings: Any) -> None:
        self.value = value
        self.loads = 0
        self.store: Any = settings.get("HYDRACACHE_MEMCACHED", MemoryStore())
        self.shop = Shop(
            path / f"{len(list(path.iterdir()))}.db",
            HYDRACACHE_SNAPSHOT="fresh",
            **{**settings, "HYDRACACHE_MEMCACHED": self.store},
        )
        self.shop.app.add_url_rule("/", view_func=self.page)
        self.cache = self.shop.state.runtime.cache

    def page(self) -> str:
        return repr(hydracache.get_or_load("k", self.load, tags=["t"]))

    def load(self) -> Any:
        self.loads += 1
        return self.value

    def get(self) -> str:
        return text(self.shop.app.test_client().get("/"))

    def entry(self) -> bytes:
        [found] = self.store.get_many(self.cache._keyspace.of_key("k")[:1])
        assert found is not None
        return found


@pytest.mark.parametrize(
    "codec, value",
    [
        ("default", DECIMALS),
        ("json", {"price": "9.90"}),
        ("signed", DECIMALS),
        ("pickle", OBJECTS),
    ],
)
def test_a_page_is_cached_by_each_codec(codec: str, value: Any, tmp_path: Path) -> None:
    key = {"HYDRACACHE_CODEC_KEY": KEY} if codec in ("signed", "pickle") else {}
    site = Site(tmp_path, value, HYDRACACHE_CODEC=codec, **key)

    assert [site.get(), site.get()] == [repr(value)] * 2
    assert site.loads == 1


@pytest.mark.parametrize(
    "codec, value", [("default", OBJECTS), ("json", DECIMALS), ("signed", OBJECTS)]
)
def test_what_a_codec_does_not_keep_is_an_error_or_by_choice_a_warning(
    codec: str, value: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"HYDRACACHE_CODEC": codec}
    if codec == "signed":
        settings["HYDRACACHE_CODEC_KEY"] = KEY
    strict = Site(tmp_path, value, **settings)
    strict.shop.app.testing = True
    with pytest.raises(TypeError, match="cannot cache .* at value.'price'."):
        strict.get()

    site = Site(tmp_path, value, HYDRACACHE_UNSTORABLE="log", **settings)
    with caplog.at_level(logging.WARNING, logger="hydracache_sync"):
        assert [site.get(), site.get()] == [repr(value)] * 2

    assert site.loads == site.cache.diagnostics().refused_value == 2
    assert caplog.text.count("a value is loaded at each read") == 1


@pytest.mark.parametrize("method", ["auto", "zlib", "zstd"])
@pytest.mark.parametrize("codec", ["default", "json", "signed", "pickle"])
def test_a_large_value_is_compressed_by_each_codec(
    codec: str, method: str, tmp_path: Path
) -> None:
    value = {"text": "a long text " * 1000}
    settings = {
        "HYDRACACHE_CODEC": codec,
        "HYDRACACHE_COMPRESS_OVER": "1000",
        "HYDRACACHE_COMPRESSION": method,
    }
    if codec in ("signed", "pickle"):
        settings["HYDRACACHE_CODEC_KEY"] = KEY
    site = Site(tmp_path, value, **settings)

    assert [site.get(), site.get()] == [repr(value)] * 2
    assert site.loads == 1
    assert len(site.entry()) < 1000
    # The magic of zstandard's frames.
    assert (b"\x28\xb5\x2f\xfd" in site.entry()) == (method != "zlib")


def test_zstandard_is_refused_at_the_start_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    settings = {"HYDRACACHE_COMPRESS_OVER": 1000, "HYDRACACHE_COMPRESSION": "zstd"}

    with pytest.raises(ConfigurationError) as caught:
        Site(tmp_path, 1, **settings)

    assert str(caught.value) == (
        "HYDRACACHE_COMPRESSION: zstandard is missing: install"
        " hydracache_sync with its extra 'zstd'"
    )


def test_a_key_is_changed_without_losing_what_is_cached(tmp_path: Path) -> None:
    store = MemoryStore()
    loads = []
    for keys in (KEY, f"{KEY}, the new key of the shop", "the new key of the shop"):
        site = Site(
            tmp_path,
            1,
            HYDRACACHE_MEMCACHED=store,
            HYDRACACHE_CODEC="signed",
            HYDRACACHE_CODEC_KEY=keys,
        )
        site.get()
        loads.append(site.loads)

    # The second accepts what the first has signed; the last knows no such key.
    assert loads == [1, 0, 1]


@pytest.mark.parametrize(
    "settings, said",
    [
        (
            {"CODEC": "json5"},
            "HYDRACACHE_CODEC: 'json5' is not allowed: one of default",
        ),
        ({"CODEC": "signed"}, "HYDRACACHE_CODEC_KEY is missing: HYDRACACHE_CODEC sig"),
        ({"CODEC": "pickle"}, "HYDRACACHE_CODEC_KEY is missing: HYDRACACHE_CODEC pic"),
        ({"CODEC_KEY": KEY}, "HYDRACACHE_CODEC_KEY has no effect without HYDRACACHE_C"),
        (
            {"CODEC": "pickle", "CODEC_KEY": "swordfish"},
            "has 9 bytes, and must have 16",
        ),
        ({"CODEC": "pickle", "CODEC_KEY": f"{KEY},"}, "has 0 bytes, and must have 16"),
        ({"COMPRESS_OVER": -1}, "HYDRACACHE_COMPRESS_OVER: '-1' is not allowed"),
        ({"COMPRESS_OVER": "1k"}, "HYDRACACHE_COMPRESS_OVER: '1k' is not allowed"),
        ({"COMPRESS_OVER": 2**27}, "HYDRACACHE_COMPRESS_OVER: '134217728' is not"),
        (
            {"COMPRESSION": "zlib"},
            "HYDRACACHE_COMPRESSION has no effect without HYDRACACHE_COMPRESS_OVER",
        ),
        (
            {"COMPRESSION": "lz4", "COMPRESS_OVER": 1000},
            "HYDRACACHE_COMPRESSION: 'lz4' is not allowed: one of auto, zlib, zstd",
        ),
        ({"UNSTORABLE": "ignore"}, "'ignore' is not allowed: one of raise, log"),
    ],
    ids=range(12),
)
def test_a_wrong_setting_is_named_and_no_key_is_shown(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Site(
            tmp_path,
            1,
            **{f"HYDRACACHE_{name}": value for name, value in settings.items()},
        )

    assert said in str(caught.value)
    assert "swordfish" not in str(caught.value) and KEY not in str(caught.value)

"""The page of a Flask app with its metrics, where it is asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from flask import Flask, abort
from shop import NAMESPACE, Shop, hydracache, text

from hydracache_sync import ConfigurationError


def ask_for_a_login(app: Flask) -> None:
    app.before_request(lambda: abort(401))


def test_it_has_what_the_app_did(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop.db", HYDRACACHE_METRICS="/ops/metrics")

    @shop.app.get("/")
    def page() -> str:
        return hydracache.get_or_load("home", lambda: "home")

    shop.client.get("/")
    shop.client.get("/")
    answer = shop.client.get("/ops/metrics")

    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    of = f'namespace="{NAMESPACE}"'
    reads = [
        float(line.rpartition(" ")[2])
        for line in text(answer).splitlines()
        if line.startswith(f"hydracache_cache_reads_total{{{of}")
    ]
    assert sum(reads) == 2
    assert f"hydracache_outbox_up{{{of}}} 1.0" in text(answer).splitlines()


def test_without_the_setting_there_is_none(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop.db")

    assert shop.client.get("/metrics").status_code == 404


def test_the_app_may_ask_for_a_login(tmp_path: Path) -> None:
    shop = Shop(
        tmp_path / "shop.db", first=ask_for_a_login, HYDRACACHE_METRICS="/metrics"
    )

    assert shop.client.get("/metrics").status_code == 401


def test_an_app_that_only_writes_has_the_outbox_alone(tmp_path: Path) -> None:
    shop = Shop(
        tmp_path / "shop.db",
        HYDRACACHE_METRICS="/metrics",
        HYDRACACHE_MEMCACHED=None,
    )

    shown = text(shop.client.get("/metrics"))

    assert f'hydracache_outbox_pending{{namespace="{NAMESPACE}"}} 0.0' in shown
    assert "hydracache_cache_reads_total{" not in shown


def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith("hydracache_sync.metrics"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(ConfigurationError, match=r"HYDRACACHE_METRICS needs .*metrics"):
        Shop(tmp_path / "shop.db", HYDRACACHE_METRICS="/metrics")

"""An app sends its metrics to a StatsD, whatever framework it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
from shop import NAMESPACE, Shop, hydracache

from hydracache_sync import MemoryStore, SQLiteOutbox
from hydracache_sync.integrations.wsgi import HydraCache
from support.statsd import StatsDServer
from support.waiting import eventually


def reads_of(server: StatsDServer, namespace: str) -> float:
    begin = f"hydracache.cache_reads.{namespace}."
    return sum(n for name, n in server.counts.items() if name.startswith(begin))


@pytest.fixture
def server() -> Iterator[StatsDServer]:
    with StatsDServer() as server:
        yield server


def test_an_app_of_flask_sends_what_it_did(
    tmp_path: Path, server: StatsDServer
) -> None:
    shop = Shop(tmp_path / "shop.db", HYDRACACHE_STATSD=server.address)

    @shop.app.get("/")
    def page() -> str:
        return str(hydracache.get_or_load("home", lambda: "home"))

    try:
        for _ in range(3):
            assert shop.client.get("/").status_code == 200

        eventually(lambda: server.read().counts and reads_of(server, NAMESPACE) == 3)
        eventually(lambda: f"hydracache.outbox_up.{NAMESPACE}" in server.read().gauges)
    finally:
        shop.state.runtime.statsd.close()


def test_an_app_of_wsgi_does_too(tmp_path: Path, server: StatsDServer) -> None:
    outbox = SQLiteOutbox(tmp_path / "shop.db")
    outbox.install_schema()
    calls = HydraCache(
        {
            "HYDRACACHE_OUTBOX": outbox,
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": MemoryStore(),
            "HYDRACACHE_POOL": "none",
            "HYDRACACHE_STATSD": server.address,
            "HYDRACACHE_STATSD_PREFIX": "ops",
        }
    )
    try:
        app = calls.middleware(lambda *_: [calls.get_or_load("home", lambda: b"home")])
        app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, print)

        eventually(lambda: server.read().counts.get("ops.cache_loads.shop") == 1)
    finally:
        calls.runtime.statsd.close()
        outbox.close()


def test_without_the_setting_there_is_none(tmp_path: Path) -> None:
    assert Shop(tmp_path / "shop.db").state.runtime.statsd is None


def test_an_app_that_is_off_sends_nothing(tmp_path: Path, server: StatsDServer) -> None:
    shop = Shop(
        tmp_path / "shop.db",
        HYDRACACHE_STATSD=server.address,
        HYDRACACHE_ENABLED=False,
        HYDRACACHE_OUTBOX=None,
        HYDRACACHE_MEMCACHED=None,
    )

    assert shop.state.runtime.statsd is None

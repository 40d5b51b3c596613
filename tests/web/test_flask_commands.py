"""``flask hydracache`` is the core's commands with the app's settings."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from shop import Shop

from hydracache_sync import InvalidationIntentBatch, MemcachedStore, TaggedCache
from hydracache_sync.cli import ExitCode
from support.servers import Memcached


@pytest.fixture
def app_shop(tmp_path: Path, memcached: Memcached) -> Shop:
    shop = Shop(tmp_path / "shop.db", HYDRACACHE_MEMCACHED=memcached.address)
    shop.outbox.enqueue("shop", InvalidationIntentBatch().invalidate_key("item:1"))
    return shop


def test_drain_publishes_what_the_app_has_written(app_shop: Shop) -> None:
    runner = app_shop.app.test_cli_runner()

    ended = runner.invoke(args=["hydracache", "drain"])

    assert ended.exit_code == 0, ended.output
    assert [row.is_published for row in app_shop.rows()] == [True]


def test_status_counts_the_apps_namespace(app_shop: Shop) -> None:
    runner = app_shop.app.test_cli_runner()

    ended = runner.invoke(args=["hydracache", "status", "--json"])

    assert '"pending": 1' in ended.output


def test_the_apps_settings_go_before_the_environment(
    app_shop: Shop, tmp_path: Path
) -> None:
    runner = app_shop.app.test_cli_runner()
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"

    ended = runner.invoke(
        args=["hydracache", "drain"], env={"HYDRACACHE_OUTBOX": elsewhere}
    )

    assert ended.exit_code == 0, ended.output
    assert [row.is_published for row in app_shop.rows()] == [True]


@pytest.mark.parametrize(
    "name", ["HYDRACACHE_RING", "HYDRACACHE_PREVIOUS_RING", "HYDRACACHE_TABLE"]
)
def test_a_place_that_the_app_does_not_have_is_not_of_the_environment(
    app_shop: Shop, memcached: Memcached, unique: str, name: str
) -> None:
    environment = {name: unique}
    if name == "HYDRACACHE_PREVIOUS_RING":
        environment["HYDRACACHE_PREVIOUS_MEMCACHED"] = memcached.address
    runner = app_shop.app.test_cli_runner()

    ended = runner.invoke(args=["hydracache", "drain", "-v"], env=environment)

    assert ended.exit_code == 0, ended.output
    assert f"Warning: {name} of the environment has no effect" in ended.output
    assert [row.is_published for row in app_shop.rows()] == [True]
    stored = MemcachedStore([memcached.address], ring=unique)
    with contextlib.closing(stored):
        cache = TaggedCache(stored, "shop")
        assert cache.invalidated_at("key", "item:1", beside="item:1") is None


def test_what_only_commands_need_is_of_the_environment(app_shop: Shop) -> None:
    runner = app_shop.app.test_cli_runner()
    environment = {"HYDRACACHE_MAX_PENDING": "0", "HYDRACACHE_BUSY_TIMEOUT": "7"}

    ended = runner.invoke(args=["hydracache", "status"], env=environment)

    assert ended.exit_code == ExitCode.ALERT
    assert "Warning" not in ended.output


def test_an_option_goes_before_the_apps_settings(
    app_shop: Shop, tmp_path: Path
) -> None:
    runner = app_shop.app.test_cli_runner()
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"

    installed = runner.invoke(
        args=["hydracache", "schema", "install", "--outbox", elsewhere]
    )

    assert installed.exit_code == 0, installed.output
    assert (tmp_path / "elsewhere.db").exists()


def test_an_object_of_the_app_is_not_replaced_by_the_environment(
    tmp_path: Path, memcached: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path / "shop.db")
    shop.outbox.enqueue("shop", InvalidationIntentBatch().invalidate_key("item:1"))
    monkeypatch.setenv("HYDRACACHE_MEMCACHED", memcached.address)
    runner = shop.app.test_cli_runner()

    refused = runner.invoke(args=["hydracache", "drain"])
    left = [row.is_published for row in shop.rows()]
    option = ["--memcached", memcached.address]
    ended = runner.invoke(args=["hydracache", "drain", *option])

    assert refused.exit_code == 2 and left == [False]
    assert "--memcached" in refused.output
    assert "HYDRACACHE_MEMCACHED of the app is an object" in refused.output
    assert ended.exit_code == 0, ended.output
    assert [row.is_published for row in shop.rows()] == [True]


def test_no_command_starts_a_pool(tmp_path: Path, memcached: Memcached) -> None:
    shop = Shop(
        tmp_path / "shop.db",
        HYDRACACHE_MEMCACHED=memcached.address,
        HYDRACACHE_POOL="every",
    )

    shop.app.test_cli_runner().invoke(args=["hydracache", "status"])

    assert shop.state.pool is None

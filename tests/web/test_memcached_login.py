"""A login to memcached (its option ``-Y``), in an app and in commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import pytest
from flask import Flask

from hydracache_sync import (
    ConfigurationError,
    InvalidationIntentBatch,
    SQLiteOutbox,
)
from hydracache_sync.integrations.flask import HydraCache
from support.commands import SECRET, run
from support.memcached_with_login import MemcachedWithLogin
from support.servers import Memcached


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemcachedWithLogin]:
    directory = tmp_path_factory.mktemp("logins")
    with MemcachedWithLogin(directory, f"shop:{SECRET}") as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, server: MemcachedWithLogin) -> dict[str, Any]:
    path = tmp_path / "shop.db"
    outbox = SQLiteOutbox(path)
    outbox.install_schema()
    outbox.enqueue("shop", InvalidationIntentBatch().invalidate_key("one"))
    outbox.close()
    return {
        "outbox": f"sqlite:///{path}",
        "namespace": "shop",
        "memcached": server.address,
        "connect_timeout": 10,
        "timeout": 10,
        "memcached_user": "shop",
        "memcached_password": SECRET,
    }


def app_with(settings: dict[str, Any], **more: Any) -> tuple[Flask, HydraCache]:
    app = Flask("shop")
    for name, value in {**settings, "pool": "none", **more}.items():
        app.config[f"HYDRACACHE_{name.upper()}"] = value
    return app, HydraCache(app)


def test_an_app_reads_fills_and_publishes(settings: dict[str, Any]) -> None:
    app, hydracache = app_with(settings, snapshot="fresh")
    with app.app_context():
        hydracache.cache.get_or_load("one", lambda: "first")
        assert hydracache.cache.get("one") == "first"

        assert hydracache.runtime.worker.run_once().published == 1

        assert hydracache.cache.get("one") is None


def test_commands_log_in_by_the_environment(settings: dict[str, Any]) -> None:
    looked = run("doctor", **settings)
    drained = run("drain", **settings)

    assert looked.code == 0, looked.out
    assert "1 published" in drained.out
    assert SECRET not in "".join([*looked[1:], *drained[1:]])


def test_an_apps_commands_log_in_by_its_config(settings: dict[str, Any]) -> None:
    app, _ = app_with(settings)

    drained = app.test_cli_runner().invoke(args=["hydracache", "drain"])

    assert "1 published" in drained.output


def test_the_list_before_the_last_change_is_logged_in_to_as_well(
    settings: dict[str, Any],
) -> None:
    more = {"previous_memcached": settings["memcached"], "previous_ring": "0"}

    assert "1 published" in run("drain", **settings, **more).out


@pytest.mark.parametrize("password", [None, "other"])
def test_doctor_says_which_settings_a_login_takes(
    settings: dict[str, Any], password: str | None
) -> None:
    settings["memcached_password"] = password
    given = {name: settings[name] for name in settings if "_" not in name}

    looked = run("doctor", **(settings if password else given))

    assert looked.code == 5
    mend = looked.out.partition("-> ")[2]
    assert "HYDRACACHE_MEMCACHED_USER and HYDRACACHE_MEMCACHED_PASSWORD" in mend


def test_doctor_warns_of_a_server_that_asks_for_no_login(
    settings: dict[str, Any], memcached: Memcached
) -> None:
    settings["memcached"] = memcached.address

    looked = run("doctor", **settings)

    assert "it asks for no login" in looked.out


class TestRefused:
    @pytest.mark.parametrize("name", ["memcached_user", "memcached_password"])
    def test_half_of_a_login(self, settings: dict[str, Any], name: str) -> None:
        del settings[name]

        with pytest.raises(ConfigurationError) as caught:
            app_with(settings)
        ended = run("drain", **settings)

        assert f"HYDRACACHE_{name.upper()} is missing" in str(caught.value)
        assert f"--{name.replace('_', '-')} is missing" in ended.err
        assert SECRET not in str(caught.value) + ended.err

    @pytest.mark.parametrize(
        "password", [f"{SECRET} x", f"{SECRET}\n", SECRET * 50], ids=["1", "2", "3"]
    )
    def test_a_password_that_cannot_be_sent_is_named_and_not_shown(
        self, settings: dict[str, Any], password: str
    ) -> None:
        settings["memcached_password"] = password

        with pytest.raises(ConfigurationError) as caught:
            app_with(settings)
        ended = run("drain", **settings)

        assert "HYDRACACHE_MEMCACHED_PASSWORD: the password " in str(caught.value)
        assert str(len(password)) in str(caught.value)
        assert ended.code == 2
        assert "HYDRACACHE_MEMCACHED_PASSWORD" in ended.err
        assert SECRET not in str(caught.value) + ended.out + ended.err

    def test_a_password_on_the_command_line(self, settings: dict[str, Any]) -> None:
        del settings["memcached_password"]

        ended = run("drain", "--memcached-password", SECRET, **settings)

        assert ended.code == 2
        assert "put it into the variable HYDRACACHE_MEMCACHED_PASSWORD" in ended.err
        assert SECRET not in ended.out + ended.err

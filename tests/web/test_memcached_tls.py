"""HYDRACACHE_MEMCACHED_TLS, in an app and in commands, on a memcached with TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest
from flask import Flask

from hydracache_sync import (
    ApplyUnavailable,
    ConfigurationError,
    InvalidationIntentBatch,
    MemoryStore,
    SQLiteOutbox,
)
from hydracache_sync.app import build
from hydracache_sync.app.config import AppConfig
from hydracache_sync.app.runtime import Runtime
from hydracache_sync.cache import Keyspace
from hydracache_sync.integrations.flask import HydraCache
from support.tls_memcached import TLSMemcached, self_signed


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(certificate: Path) -> Iterator[TLSMemcached]:
    """Takes those clients only that show its own certificate."""
    with TLSMemcached(certificate, clients=certificate) as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, server: TLSMemcached, certificate: Path) -> dict[str, Any]:
    path = tmp_path / "shop.db"
    SQLiteOutbox(path).install_schema()
    return {
        "HYDRACACHE_OUTBOX": f"sqlite:///{path}",
        "HYDRACACHE_NAMESPACE": "shop",
        "HYDRACACHE_MEMCACHED": server.address,
        "HYDRACACHE_POOL": "none",
        "HYDRACACHE_CONNECT_TIMEOUT": 10,
        "HYDRACACHE_SNAPSHOT": "fresh",
        "HYDRACACHE_MEMCACHED_TLS": True,
        "HYDRACACHE_MEMCACHED_TLS_CA": str(certificate),
        "HYDRACACHE_MEMCACHED_TLS_CERT": str(certificate),
        "HYDRACACHE_MEMCACHED_TLS_KEY": str(certificate),
    }


def app_with(config: dict[str, Any]) -> tuple[Flask, HydraCache]:
    app = Flask("shop")
    app.config.update(config)
    return app, HydraCache(app)


def command(config: dict[str, Any], *arguments: str) -> Any:
    app, _ = app_with(config)
    return app.test_cli_runner().invoke(args=["hydracache", *arguments])


class TestApp:
    def test_it_reads_fills_and_publishes(self, config: dict[str, Any]) -> None:
        app, hydracache = app_with(config)
        with app.app_context():
            hydracache.cache.get_or_load("one", lambda: "first")

            assert hydracache.cache.get("one") == "first"

            batch = InvalidationIntentBatch().invalidate_key("one")
            hydracache.outbox.enqueue("shop", batch)
            assert hydracache.runtime.worker.run_once().published == 1
            assert hydracache.cache.get("one") is None

    def test_a_server_that_no_ca_vouches_for_is_not_spoken_to(
        self, config: dict[str, Any]
    ) -> None:
        config["HYDRACACHE_MEMCACHED_TLS_CA"] = None
        store = build.store(AppConfig(config))
        assert store is not None

        with pytest.raises(ApplyUnavailable, match="certificate"):
            store.get_many([Keyspace("1", "shop").entry("one")])

    def test_nor_one_that_is_named_otherwise(
        self, config: dict[str, Any], server: TLSMemcached
    ) -> None:
        config["HYDRACACHE_MEMCACHED"] = f"localhost:{server.port}"
        store = build.store(AppConfig(config))
        assert store is not None

        with pytest.raises(ApplyUnavailable, match="(?i)host ?name"):
            store.get_many([Keyspace("1", "shop").entry("one")])

    @pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
    def test_but_for_the_name_that_is_set_in_place_of_the_lists(
        self, config: dict[str, Any], server: TLSMemcached, name: str
    ) -> None:
        config["HYDRACACHE_MEMCACHED"] = f"localhost:{server.port}"
        config["HYDRACACHE_MEMCACHED_TLS_NAME"] = name
        store = build.store(AppConfig(config))
        assert store is not None

        if name == "127.0.0.1":
            assert store.get_many([Keyspace("1", "shop").entry("none")]) == [None]
            return
        with pytest.raises(ApplyUnavailable, match="(?i)host ?name"):
            store.get_many([Keyspace("1", "shop").entry("none")])

    def test_both_server_lists_speak_it(
        self, config: dict[str, Any], server: TLSMemcached
    ) -> None:
        config["HYDRACACHE_PREVIOUS_MEMCACHED"] = server.address
        config["HYDRACACHE_PREVIOUS_RING"] = "0"
        runtime = Runtime(AppConfig(config))
        batch = InvalidationIntentBatch().invalidate_key("one")
        runtime.outbox.enqueue("shop", batch)

        assert runtime.worker.run_once().published == 1


class TestCommands:
    def test_a_drain_publishes(self, config: dict[str, Any]) -> None:
        batch = InvalidationIntentBatch().invalidate_key("one")
        SQLiteOutbox(config["HYDRACACHE_OUTBOX"][len("sqlite:///") :]).enqueue(
            "shop", batch
        )

        drained = command(config, "drain")

        assert drained.exit_code == 0, drained.output
        assert "1 published" in drained.output

    def test_doctor_is_content(self, config: dict[str, Any]) -> None:
        looked = command(config, "doctor")

        assert looked.exit_code == 0, looked.output
        assert "over TLS" in looked.output

    def test_doctor_says_what_is_wrong_with_the_certificate(
        self, config: dict[str, Any]
    ) -> None:
        config["HYDRACACHE_MEMCACHED_TLS_CA"] = None

        looked = command(config, "doctor")

        assert looked.exit_code != 0
        assert "HYDRACACHE_MEMCACHED_TLS_CA" in looked.output


class TestRefused:
    """By the name of the setting, when the app starts."""

    def refused(self, config: dict[str, Any], **changed: Any) -> str:
        config.update({f"HYDRACACHE_{name}": changed[name] for name in changed})
        with pytest.raises(ConfigurationError) as caught:
            app_with(config)
        return str(caught.value)

    @pytest.mark.parametrize("half", ["CERT", "KEY"])
    def test_half_of_a_pair(self, config: dict[str, Any], half: str) -> None:
        other = {"CERT": "KEY", "KEY": "CERT"}[half]

        said = self.refused(config, **{f"MEMCACHED_TLS_{half}": None})

        assert f"HYDRACACHE_MEMCACHED_TLS_{half} is missing" in said
        assert f"HYDRACACHE_MEMCACHED_TLS_{other} needs it" in said

    def test_files_without_tls(self, config: dict[str, Any]) -> None:
        config["HYDRACACHE_MEMCACHED_TLS_NAME"] = "cache.example"

        said = self.refused(config, MEMCACHED_TLS=False)

        for name in ("CA", "CERT", "KEY", "NAME"):
            assert f"HYDRACACHE_MEMCACHED_TLS_{name} has no effect" in said

    @pytest.mark.parametrize("name", ["CA", "CERT", "KEY"])
    def test_a_file_that_is_not_there(self, config: dict[str, Any], name: str) -> None:
        said = self.refused(config, **{f"MEMCACHED_TLS_{name}": "/no/such.pem"})

        assert said.startswith(f"HYDRACACHE_MEMCACHED_TLS_{name}: '/no/such.pem'")
        assert "No such file" in said

    @pytest.mark.parametrize("name", ["CA", "CERT"])
    def test_a_file_that_holds_something_else(
        self, config: dict[str, Any], name: str, tmp_path: Path
    ) -> None:
        (tmp_path / "empty.pem").touch()

        said = self.refused(
            config, **{f"MEMCACHED_TLS_{name}": str(tmp_path / "empty.pem")}
        )

        assert f"HYDRACACHE_MEMCACHED_TLS_{name}: " in said
        assert "cannot be used" in said

    def test_a_key_of_another_certificate(
        self, config: dict[str, Any], tmp_path: Path
    ) -> None:
        other = self_signed(tmp_path, name="other")

        said = self.refused(config, MEMCACHED_TLS_KEY=str(other))

        assert "HYDRACACHE_MEMCACHED_TLS_KEY" in said

    def test_a_key_with_a_passphrase(
        self, config: dict[str, Any], certificate: Path, tmp_path: Path
    ) -> None:
        locked = tmp_path / "locked.pem"
        subprocess.run(
            ["openssl", "pkcs8", "-topk8", "-in", str(certificate)]
            + ["-out", str(locked), "-passout", "pass:secret"],
            check=True,
        )

        said = self.refused(config, MEMCACHED_TLS_KEY=str(locked))

        assert "has a passphrase" in said

    def test_a_unix_socket(self, config: dict[str, Any]) -> None:
        said = self.refused(config, MEMCACHED="/run/memcached.sock")

        assert "HYDRACACHE_MEMCACHED_TLS cannot be used with" in said

    def test_a_store_that_was_made_without(self, config: dict[str, Any]) -> None:
        said = self.refused(config, MEMCACHED=MemoryStore())

        assert "HYDRACACHE_MEMCACHED_TLS has no effect" in said

    def test_no_memcached_at_all(self, config: dict[str, Any]) -> None:
        said = self.refused(config, MEMCACHED=None)

        assert "HYDRACACHE_MEMCACHED_TLS has no effect without" in said

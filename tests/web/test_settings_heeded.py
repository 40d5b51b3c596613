"""Whatever may be set does something in an app, or is refused by its name."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Tuple

import pytest
from flask import Flask
from shop import Shop

from hydracache_sync import (
    ConfigurationError,
    InvalidationIntentBatch,
    InvalidationWait,
    MemoryStore,
    SQLiteOutbox,
    WorkerPool,
)
from hydracache_sync.app import app_settings, build
from hydracache_sync.app import config as app_config
from hydracache_sync.app import settings
from hydracache_sync.app.config import AppConfig
from hydracache_sync.app.extension import Extension
from hydracache_sync.app.setting import Setting
from hydracache_sync.integrations.flask import HydraCache as FlaskHydraCache
from hydracache_sync.integrations.wsgi import HydraCache as WSGIHydraCache
from support.servers import Memcached

#: A value other than the default for each setting, and what must be set beside it.
VALUES: dict[str, dict[str, Any]] = {
    "outbox": {},
    "namespace": {},
    "memcached": {},
    "memcached_tls": {"MEMCACHED_TLS": True},
    "memcached_tls_ca": {"MEMCACHED_TLS_CA": "/etc/ca.pem"},
    "memcached_tls_cert": {"MEMCACHED_TLS_CERT": "/etc/shop.pem"},
    "memcached_tls_key": {"MEMCACHED_TLS_KEY": "/etc/shop.key"},
    "memcached_tls_name": {
        "MEMCACHED_TLS": True,
        "MEMCACHED_TLS_NAME": "cache.example",
    },
    "memcached_user": {"MEMCACHED_USER": "shop", "MEMCACHED_PASSWORD": "secret"},
    "memcached_password": {"MEMCACHED_USER": "shop", "MEMCACHED_PASSWORD": "secret"},
    "table": {"TABLE": "other"},
    "busy_timeout": {"BUSY_TIMEOUT": 1},
    "ring": {"RING": "2"},
    "weights": {"WEIGHTS": None},  # of the node
    "previous_memcached": {"PREVIOUS_RING": "0", "PREVIOUS_MEMCACHED": None},
    "previous_ring": {"PREVIOUS_RING": "0", "PREVIOUS_MEMCACHED": None},
    "previous_weights": {
        "PREVIOUS_RING": "0",
        "PREVIOUS_MEMCACHED": None,
        "PREVIOUS_WEIGHTS": None,
    },
    "strict": {"STRICT": "shop"},
    "hold_off": {"HOLD_OFF": 1, "MODE": "strict"},
    "connect_timeout": {"CONNECT_TIMEOUT": 1},
    "timeout": {"TIMEOUT": 1},
    "call_timeout": {"CALL_TIMEOUT": 7},
    "retry_after": {"RETRY_AFTER": 7},
    "connections": {"CONNECTIONS": 7},
    "max_value": {"MAX_VALUE": 1000},
    "batch_size": {"BATCH_SIZE": 7},
    "claim_ttl": {"CLAIM_TTL": 7},
    "backoff": {"BACKOFF": 2},
    "max_backoff": {"MAX_BACKOFF": 7},
    "max_attempts": {"MAX_ATTEMPTS": 7},
    "escalate": {"ESCALATE": False},
    "max_staleness": {"MAX_STALENESS": 60},
    "keep_published": {"KEEP_PUBLISHED": "forever"},
    "purge_every": {"PURGE_EVERY": 7},
    "heartbeat": {"HEARTBEAT": 7},
    "threads": {"THREADS": 2},
    "poll_interval": {"POLL_INTERVAL": 2},
    "tracing": {"TRACING": "yes"},
    "statsd": {"STATSD": "127.0.0.1:8125"},
    "statsd_prefix": {"STATSD": "127.0.0.1:8125", "STATSD_PREFIX": "shop"},
    "metrics_port": {"METRICS_PORT": 9100},
    "health_port": {"HEALTH_PORT": 9100},
    "health_host": {"HEALTH_HOST": "localhost"},
    "metrics_file": {"METRICS_FILE": "/srv/shop.prom"},
    "max_seconds": {"MAX_SECONDS": 7},
    "max_age": {"MAX_AGE": 7},
    "max_pending": {"MAX_PENDING": 7},
    "max_dead": {"MAX_DEAD": 7},
    "enabled": {"ENABLED": False},
    "mode": {"MODE": "inline"},
    "degrade": {"DEGRADE": True, "MODE": "strict"},
    "pool": {"POOL": "none"},
    "pool_threads": {"POOL_THREADS": 2},
    "pool_lock": {"POOL_LOCK": None, "POOL": "one"},
    "inline_timeout": {"INLINE_TIMEOUT": 1, "MODE": "inline"},
    "net_timeout": {"NET_TIMEOUT": 1},
    "wait": {"WAIT": 1},
    "cookie": {"COOKIE": "other"},
    "snapshot": {"SNAPSHOT": "fresh"},
    "read_lag": {"READ_LAG": 7},
    "ttl": {"TTL": 7},
    "soft_ttl": {"SOFT_TTL": 7},
    "max_wait": {"MAX_WAIT": 7},
    "clock_skew": {"CLOCK_SKEW": 0.1},
    "audit": {"AUDIT": 0.01},
    "codec": {"CODEC": "json"},
    "codec_key": {"CODEC": "signed", "CODEC_KEY": "k" * 16},
    "compress_over": {"COMPRESS_OVER": 1000},
    "compression": {"COMPRESSION": "zlib", "COMPRESS_OVER": 1000},
    "unstorable": {"UNSTORABLE": "log"},
    "metrics": {"METRICS": "/metrics"},
    "request_memo": {"REQUEST_MEMO": True},
}

#: Makes an app and returns its calls, and what runs a function as a request.
Made = Tuple[Extension, Callable[[Callable[[], object]], object]]


def flask_app(config: dict[str, Any], stack: contextlib.ExitStack) -> Made:
    app, calls = Flask("shop"), FlaskHydraCache()
    app.config.update(config, SECRET_KEY="not secret")
    calls.init_app(app)
    stack.enter_context(app.app_context())

    def serve(function: Callable[[], object]) -> None:
        with app.test_request_context():
            app.preprocess_request()
            function()

    return calls, serve


def wsgi_app(config: dict[str, Any], stack: contextlib.ExitStack) -> Made:
    calls = WSGIHydraCache(config)

    def serve(function: Callable[[], object]) -> None:
        with calls.collecting():
            function()

    return calls, serve


@pytest.fixture(params=[flask_app, wsgi_app], ids=["flask", "wsgi"])
def made(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names of settings that something but their own checks has asked for."""
    found: set[str] = set()
    plain = AppConfig.__getitem__

    def recording(self: AppConfig, setting: Setting) -> Any:
        if sys._getframe(1).f_globals["__name__"] != app_config.__name__:
            found.add(setting.name)
        return plain(self, setting)

    monkeypatch.setattr(AppConfig, "__getitem__", recording)
    yield found


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def use(calls: Extension, serve: Callable[..., object], path: Path) -> None:
    """Go through what reads settings late: a pool, a write, a net, a read."""
    connection = sqlite3.connect(path)
    connection.execute("create table if not exists item (id integer)")

    def change() -> None:
        with calls.transaction(connection):
            connection.execute("insert into item values (1)")
            calls.invalidate_key("item:1")

    try:
        calls.start_pool()
        serve(change)
        serve(lambda: calls.invalidate_key("forgotten"))
        if calls.runtime.config[settings.MEMCACHED] is not None:
            serve(lambda: calls.get_or_load("item:1", lambda: "value"))
    finally:
        calls.stop_pool()
        if calls.runtime.statsd is not None:
            calls.runtime.statsd.close()
        connection.close()


class TestEverySetting:
    def test_the_table_has_all(self) -> None:
        known = [each.name for each in settings.SETTINGS + app_settings.APP_SETTINGS]

        assert sorted(VALUES) == sorted(known)

    @pytest.mark.parametrize("given", ["texts", "objects", "no servers"])
    @pytest.mark.parametrize("name", VALUES)
    def test_it_is_heeded_or_refused_by_its_name(
        self,
        name: str,
        given: str,
        made: Any,
        stack: contextlib.ExitStack,
        read: set[str],
        tmp_path: Path,
        memcached: Memcached,
    ) -> None:
        node = memcached.address
        late = {
            "WEIGHTS": f"{node}=2",
            "PREVIOUS_MEMCACHED": node,
            "PREVIOUS_WEIGHTS": f"{node}=2",
            "POOL_LOCK": str(tmp_path / "pool.lock"),
        }
        config: dict[str, Any] = {
            "HYDRACACHE_OUTBOX": f"sqlite:///{tmp_path / 'shop.db'}",
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": node,
        }
        table = VALUES[name].get("TABLE", "hydracache_outbox")
        outbox = SQLiteOutbox(tmp_path / "shop.db", table=table)
        stack.callback(outbox.close)
        outbox.install_schema()
        if given == "objects":
            config["HYDRACACHE_OUTBOX"] = outbox
            config["HYDRACACHE_MEMCACHED"] = MemoryStore()
        elif given == "no servers":
            config["HYDRACACHE_MEMCACHED"] = None
            config["HYDRACACHE_POOL"] = "none"
        for key, value in VALUES[name].items():
            config[f"HYDRACACHE_{key}"] = late[key] if value is None else value

        try:
            calls, serve = made(config, stack)
        except ConfigurationError as exc:
            missing = "HYDRACACHE_MEMCACHED is missing" in str(exc)
            assert f"HYDRACACHE_{name.upper()} " in str(exc) or missing
            return
        use(calls, serve, tmp_path / "shop.db")

        is_of_commands = made is flask_app and name in calls.runtime.config.texts
        # Other objects are in the settings then: tests/web/test_switched_off.py.
        is_switch = name == "enabled"
        assert name in read or is_of_commands or is_switch

    @pytest.mark.parametrize("name", ["MAX_AGE", "MAX_SECONDS", "WAIT", "THREADS"])
    def test_what_another_program_heeds_is_refused_in_a_wsgi_app(
        self, name: str
    ) -> None:
        config = {
            "HYDRACACHE_OUTBOX": "sqlite:////srv/shop.db",
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": "127.0.0.1:11211",
            f"HYDRACACHE_{name}": "1",
        }

        with pytest.raises(ConfigurationError, match=f"HYDRACACHE_{name} is of "):
            WSGIHydraCache(config)

    @pytest.mark.parametrize(
        "name, value, beside",
        [
            ("HOLD_OFF", 1, {}),
            ("DEGRADE", True, {"MODE": "inline"}),
            ("POOL_THREADS", 2, {"POOL": "none"}),
            ("POOL_LOCK", "/run/pool.lock", {"POOL": "every"}),
            ("POOL_LOCK", "/run/pool.lock", {"POOL": "none"}),
            ("PURGE_EVERY", 7, {"KEEP_PUBLISHED": "forever"}),
            ("READ_LAG", 7, {"SNAPSHOT": "replica"}),
            ("CODEC_KEY", "k" * 16, {}),
            ("CODEC_KEY", "k" * 16, {"CODEC": "json"}),
            ("SOFT_TTL", 7, {"TTL": 7}),
            ("STATSD_PREFIX", "shop", {}),
        ],
    )
    def test_what_another_setting_takes_the_effect_of_is_refused(
        self,
        name: str,
        value: Any,
        beside: dict[str, Any],
        made: Any,
        stack: contextlib.ExitStack,
    ) -> None:
        config = self.config_with(**beside, **{name: value})

        with pytest.raises(ConfigurationError, match=f"HYDRACACHE_{name} .*has no eff"):
            made(config, stack)

    @pytest.mark.parametrize(
        "bound, beside",
        [(2, {}), (5, {"CLOCK_SKEW": 4}), (60, {"POLL_INTERVAL": 58})],
    )
    def test_a_bound_that_leaves_no_room_is_refused(
        self,
        bound: float,
        beside: dict[str, Any],
        made: Any,
        stack: contextlib.ExitStack,
    ) -> None:
        config = self.config_with(MAX_STALENESS=bound, **beside)

        with pytest.raises(ConfigurationError, match="HYDRACACHE_MAX_STALENESS .* abo"):
            made(config, stack)
        made({**config, "HYDRACACHE_MAX_STALENESS": bound + 1}, stack)

    def test_waiting_for_what_no_cookie_tells_is_refused(
        self, stack: contextlib.ExitStack
    ) -> None:
        with pytest.raises(ConfigurationError, match="HYDRACACHE_WAIT has no effect"):
            flask_app(self.config_with(WAIT=1, COOKIE=""), stack)

    @pytest.mark.parametrize("each", build.OF_POOL, ids=lambda each: each.name)
    def test_what_only_a_pool_heeds_is_refused_without_one_but_for_flasks_commands(
        self, each: Setting, stack: contextlib.ExitStack
    ) -> None:
        config = self.config_with(POOL="none", **{each.name.upper(): 7})

        flask_app(config, stack)
        with pytest.raises(ConfigurationError, match=f"{each.variable} has no effect"):
            wsgi_app(config, stack)

    def test_a_hold_off_may_be_for_the_strict_namespaces_of_others(
        self, made: Any, stack: contextlib.ExitStack
    ) -> None:
        made(self.config_with(HOLD_OFF=1, STRICT="blog"), stack)

    @staticmethod
    def config_with(**more: Any) -> dict[str, Any]:
        config = {
            "OUTBOX": "sqlite:////srv/shop.db",
            "NAMESPACE": "shop",
            "MEMCACHED": "127.0.0.1:11211",
            **more,
        }
        return {f"HYDRACACHE_{name}": value for name, value in config.items()}


class TestPool:
    def test_it_takes_the_settings_of_a_worker(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken: dict[str, Any] = {}

        class Recording(WorkerPool):
            def __init__(self, *workers: Any, **options: Any) -> None:
                taken.update(options)
                super().__init__(*workers, **options)

        monkeypatch.setattr(build, "WorkerPool", Recording)
        shop = Shop(
            tmp_path / "shop.db",
            HYDRACACHE_POOL="every",
            HYDRACACHE_KEEP_PUBLISHED=9,
            HYDRACACHE_POLL_INTERVAL=2,
            HYDRACACHE_PURGE_EVERY=7,
            HYDRACACHE_HEARTBEAT=3,
        )

        pool = shop.state.runtime.placement.start()

        assert pool.stop(5.0)
        assert taken["keep_published"] == 9.0
        assert (taken["poll_interval"], taken["purge_every"]) == (2.0, 7.0)
        assert taken["heartbeat"] == 3.0

    def test_it_deletes_what_is_older_than_is_to_be_kept(self, tmp_path: Path) -> None:
        shop = Shop(
            tmp_path / "shop.db",
            HYDRACACHE_POOL="every",
            HYDRACACHE_KEEP_PUBLISHED=0,
            HYDRACACHE_PURGE_EVERY=0.01,
        )
        pool = shop.state.runtime.placement.start()
        try:
            receipt = shop.outbox.enqueue(
                "shop", InvalidationIntentBatch().invalidate_key("item:1")
            )
            pool.wake()
            InvalidationWait.local(60.0).wait(shop.outbox, receipt)
            deadline = time.monotonic() + 60.0
            while shop.rows() and time.monotonic() < deadline:
                time.sleep(0.01)

            assert shop.rows() == []
        finally:
            pool.stop(5.0)


class TestCommands:
    def test_flasks_heed_the_apps_limits(
        self, tmp_path: Path, memcached: Memcached
    ) -> None:
        shop = Shop(
            tmp_path / "shop.db",
            HYDRACACHE_MEMCACHED=memcached.address,
            HYDRACACHE_MAX_PENDING=0,
        )
        shop.outbox.enqueue("shop", InvalidationIntentBatch().invalidate_key("item:1"))

        ended = shop.app.test_cli_runner().invoke(args=["hydracache", "status"])

        assert "ALERT shop" in ended.output, ended.output
        assert ended.exit_code != 0

"""Keys are checked when the app starts; parts are of the app, not of the extension."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from shop import NAMESPACE, Shop, hydracache

from hydracache_sync import ConfigurationError, MemoryStore, SQLiteOutbox, TaggedCache
from hydracache_sync.integrations.flask import HydraCache

KEYS: dict[str, Any] = {
    "HYDRACACHE_OUTBOX": "sqlite:////srv/shop.db",
    "HYDRACACHE_NAMESPACE": "shop",
    "HYDRACACHE_MEMCACHED": ["127.0.0.1:11211"],
}


def started_with(**changed: Any) -> Flask:
    app = Flask("shop")
    app.config.update({**KEYS, **changed})
    HydraCache(app)
    return app


class TestKeys:
    def test_a_misspelt_key_is_named_with_the_one_that_was_meant(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            started_with(HYDRACACHE_NAMESPCE="shop")

        assert "HYDRACACHE_NAMESPCE is no setting" in str(caught.value)
        assert "did you mean HYDRACACHE_NAMESPACE?" in str(caught.value)

    def test_missing_and_wrong_keys_are_named_together(self) -> None:
        app = Flask("shop")
        app.config.update(HYDRACACHE_MODE="sometimes", HYDRACACHE_TTL="-1")

        with pytest.raises(ConfigurationError) as caught:
            HydraCache(app)

        message = str(caught.value)
        assert "HYDRACACHE_OUTBOX is missing" in message
        assert "HYDRACACHE_NAMESPACE is missing" in message
        assert "HYDRACACHE_MODE: 'sometimes' is not allowed: one of eventual" in message
        assert "HYDRACACHE_TTL: '-1' is not allowed" in message
        assert "hydracache" not in app.extensions
        assert app.before_request_funcs == {}
        assert "do_teardown_appcontext" not in vars(app)

    @pytest.mark.parametrize(
        "key, value",
        [
            ("HYDRACACHE_OUTBOX", "postgres://db/shop"),
            ("HYDRACACHE_NAMESPACE", "n" * 65),
            ("HYDRACACHE_NAMESPACE", "shop,blog"),
            ("HYDRACACHE_NAMESPACE", "shop\r"),
            ("HYDRACACHE_NAMESPACE", " shop"),
            ("HYDRACACHE_MEMCACHED", object()),
            ("HYDRACACHE_MEMCACHED", "host:port"),
            ("HYDRACACHE_POOL", "some"),
            ("HYDRACACHE_POOL_THREADS", 0),
            ("HYDRACACHE_NET_TIMEOUT", 0),
            ("HYDRACACHE_COOKIE", "a b"),
            ("HYDRACACHE_WAIT", float("nan")),
            ("HYDRACACHE_NAMESPACE", {"shop": "blog"}),
            ("HYDRACACHE_TABLE", b"outbox"),
            ("HYDRACACHE_POOL_LOCK", ""),
        ],
    )
    def test_a_wrong_value_is_refused_with_its_key(self, key: str, value: Any) -> None:
        with pytest.raises(ConfigurationError, match=key):
            started_with(**{key: value})

    def test_a_password_is_not_shown(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            started_with(HYDRACACHE_OUTBOX="mysql://shop:hunter2@db:port/shop")

        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "key, value",
        [("HYDRACACHE_MODE", "inline"), ("HYDRACACHE_POOL", "every")],
    )
    def test_what_needs_memcached_says_so(self, key: str, value: str) -> None:
        keys = {"HYDRACACHE_MEMCACHED": None, "HYDRACACHE_POOL": "none", key: value}

        with pytest.raises(ConfigurationError, match="HYDRACACHE_MEMCACHED is missing"):
            started_with(**keys)

    def test_an_app_that_only_writes_needs_no_memcached(self) -> None:
        app = started_with(HYDRACACHE_MEMCACHED=None, HYDRACACHE_POOL="none")

        with pytest.raises(ConfigurationError, match="there is no cache"):
            _ = app.extensions["hydracache"].cache

    def test_values_may_be_text_numbers_switches_and_lists(self) -> None:
        app = started_with(
            HYDRACACHE_TTL=60,
            HYDRACACHE_TIMEOUT="0.2",
            HYDRACACHE_ESCALATE=False,
            HYDRACACHE_MEMCACHED="127.0.0.1:11211",
        )

        worker = app.extensions["hydracache"].runtime.worker
        assert worker.escalate is False

    @pytest.mark.parametrize(
        "key, value",
        [
            ("HYDRACACHE_TABLE", "other"),
            ("HYDRACACHE_RING", "b"),
            ("HYDRACACHE_WEIGHTS", {"cache1:11211": 2}),
        ],
    )
    def test_what_an_object_has_of_itself_is_not_set_beside_it(
        self, tmp_path: Path, key: str, value: Any
    ) -> None:
        objects = {
            "HYDRACACHE_OUTBOX": SQLiteOutbox(tmp_path / "shop.db"),
            "HYDRACACHE_MEMCACHED": MemoryStore(),
        }

        with pytest.raises(ConfigurationError, match=f"{key} has no effect"):
            started_with(**objects, **{key: value})

        assert started_with(**objects, HYDRACACHE_RING=MemoryStore().ring)

    def test_a_path_may_be_an_object(self, tmp_path: Path) -> None:
        app = started_with(
            HYDRACACHE_POOL="one", HYDRACACHE_POOL_LOCK=tmp_path / "pool.lock"
        )

        assert app.extensions["hydracache"].pool is None

    def test_a_second_init_app_is_refused(self) -> None:
        app = started_with()

        with pytest.raises(ConfigurationError, match="already"):
            hydracache.init_app(app)

    def test_a_connection_belongs_to_an_app(self) -> None:
        with pytest.raises(TypeError, match="init_app"):
            HydraCache(connection=lambda: None)


class TestParts:
    def test_they_are_reached_from_the_extension_and_from_the_app(
        self, shop: Shop
    ) -> None:
        with shop.app.app_context():
            assert hydracache.cache is shop.state.cache
            assert hydracache.outbox is shop.state.outbox
            assert hydracache.pool is None
            assert hydracache.namespace == NAMESPACE
        assert isinstance(shop.state.cache, TaggedCache)
        assert isinstance(shop.state.outbox, SQLiteOutbox)

    def test_two_apps_of_one_extension_keep_to_their_own_namespaces(
        self, tmp_path: Path
    ) -> None:
        one = Shop(tmp_path / "one.db", namespace="one")
        two = Shop(tmp_path / "two.db", namespace="two")

        for shop in (one, two):
            with shop.app.app_context():
                shop.rename("after")
                hydracache.invalidate_key(shop.state.runtime.namespace)
                hydracache.write(shop.db())
                shop.db().commit()
                shop.db().close()

        assert one.targets("one") == ["one"]
        assert two.targets("two") == ["two"]
        # Models and views are the same in every app; all else is kept by the app.
        assert vars(hydracache).keys() <= {"kinds", "caches_pages"}

    def test_an_app_without_the_extension_is_told(self) -> None:
        app = Flask("other")

        with app.app_context():
            with pytest.raises(ConfigurationError, match="call init_app"):
                hydracache.invalidate_key("a")

    def test_outside_of_an_app_flask_says_so(self) -> None:
        with pytest.raises(RuntimeError, match="application context"):
            hydracache.invalidate_key("a")

    def test_outbox_and_store_may_be_objects(self, tmp_path: Path) -> None:
        outbox = SQLiteOutbox(tmp_path / "shop.db")
        store = MemoryStore()

        app = started_with(HYDRACACHE_OUTBOX=outbox, HYDRACACHE_MEMCACHED=store)

        assert app.extensions["hydracache"].outbox is outbox

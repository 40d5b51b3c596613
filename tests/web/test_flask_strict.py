"""Mode strict: from before its commit on nobody reads what a view writes, too old."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest
from flask import g
from shop import NAMESPACE, Shop, close_db, end_db, hydracache, text

from hydracache_sync import (
    ConfigurationError,
    InvalidationIntentBatch,
    MemcachedStore,
    MemoryStore,
    QuarantineError,
)
from hydracache_sync.app.config import AppConfig
from hydracache_sync.cache import Keyspace
from hydracache_sync.cache.tokens.token import COLD, is_live
from support.servers import Memcached


def strict_shop(path: Path, **config: Any) -> Shop:
    config = {
        "HYDRACACHE_MODE": "strict",
        "HYDRACACHE_COOKIE": "",
        **config,
    }
    return Shop(path, **config)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = strict_shop(tmp_path / "strict.db")
    shop.app.teardown_appcontext(close_db)
    return shop


@pytest.fixture
def away(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Config with a memcached that is not there any more."""
    server = Memcached()
    with server:
        address = server.address
    with closing(MemcachedStore([address], retry_after=0)) as store:
        yield {"HYDRACACHE_MEMCACHED": store}


def is_held_off(shop: Shop, ring: str = "1") -> bool:
    """Whether reads of every process go past the cache, and fill nothing."""
    address = Keyspace(ring, NAMESPACE).tag_token("item:1")
    [token] = shop.state.runtime.cache._store.get_many([address])
    return is_live(token, COLD)


def change(shop: Shop) -> None:
    shop.rename("after")
    hydracache.invalidate_entity("item", "1")


class TestCommit:
    def test_a_transaction_is_held_off_before_its_commit(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Any] = []
        quarantine = shop.state.cache.quarantine

        def watched(batch: Any, **options: Any) -> Any:
            seen.append((shop.name(), len(batch)))
            return quarantine(batch, **options)

        monkeypatch.setattr(shop.state.cache, "quarantine", watched)

        with shop.app.app_context():
            with hydracache.transaction(shop.db()):
                change(shop)
            receipt = hydracache.receipt

        assert seen == [("before", 1)]
        assert shop.name() == "after"
        assert receipt is not None and receipt.strict is True
        assert is_held_off(shop)

    def test_a_commit_of_the_views_own_is_held_off_by_the_block(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        with shop.app.app_context():
            change(shop)
            hydracache.enqueue(shop.db(), *hydracache.collected().intents)
            hydracache.write(shop.db())
            with hydracache.quarantine():
                shop.db().commit()
            strict = [receipt.strict for receipt in hydracache.receipts]

        assert strict == [True, True]
        assert is_held_off(shop)
        assert caplog.records == []

    def test_reads_of_the_request_and_of_the_next_need_not_wait(
        self, tmp_path: Path
    ) -> None:
        shop = strict_shop(tmp_path / "cookie.db", HYDRACACHE_COOKIE="hydracache")
        shop.app.teardown_appcontext(close_db)

        @shop.app.post("/")
        def view() -> str:
            with hydracache.transaction(shop.db()):
                change(shop)
            return str(hydracache.reads_own_writes())

        answer = shop.client.post("/")

        assert text(answer) == "True"
        assert answer.headers.getlist("Set-Cookie") == []

    def test_a_commit_without_the_block_is_said_and_held_off_late(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        @shop.app.post("/")
        def forgetful() -> str:
            change(shop)
            hydracache.write(shop.db())
            shop.db().commit()
            return "done"

        shop.client.post("/")

        [record] = caplog.records
        assert record.levelno == logging.ERROR
        assert "POST forgetful committed without a quarantine" in record.getMessage()
        assert is_held_off(shop)

    def test_a_rollback_without_the_block_is_nothing_to_say(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        @shop.app.post("/")
        def view() -> str:
            change(shop)
            hydracache.write(shop.db())
            shop.db().rollback()
            return "done"

        shop.client.post("/")

        assert caplog.records == []

    def test_in_other_modes_the_block_does_nothing(self, tmp_path: Path) -> None:
        shop = Shop(tmp_path / "eventual.db")
        shop.app.teardown_appcontext(close_db)

        with shop.app.app_context():
            change(shop)
            hydracache.write(shop.db())
            with hydracache.quarantine():
                shop.db().commit()
            receipt = hydracache.receipt

        assert receipt is not None and receipt.strict is None
        assert not is_held_off(shop)


class TestTeardown:
    def test_what_the_apps_teardown_commits_is_held_off_before(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[bool] = []

        def first(app: Any) -> None:
            app.teardown_appcontext(end_db)
            app.teardown_appcontext(lambda exc: seen.append(is_held_off(shop)))

        shop = strict_shop(
            tmp_path / "td.db",
            first=first,
            options={"connection": lambda: g.get("db")},
        )

        @shop.app.post("/collected")
        def collected() -> str:
            change(shop)
            return "done"

        @shop.app.post("/written")
        def written() -> str:
            change(shop)
            hydracache.write(shop.db())
            return "done"

        shop.client.post("/collected")
        shop.client.post("/written")

        assert seen == [True, True]
        assert shop.targets() == ["1", "1"]
        assert caplog.records == []

    def test_what_the_net_writes_is_held_off(self, shop: Shop) -> None:
        @shop.app.post("/")
        def view() -> str:
            change(shop)
            shop.db().commit()
            return "done"

        shop.client.post("/")

        assert shop.targets() == ["1"]
        assert is_held_off(shop)


class TestMemcachedAway:
    def test_the_write_fails_and_leaves_nothing(
        self, tmp_path: Path, away: dict[str, Any]
    ) -> None:
        shop = strict_shop(tmp_path / "away.db", **away)

        with shop.app.app_context():
            with pytest.raises(QuarantineError):
                with hydracache.transaction(shop.db()):
                    change(shop)
            shop.db().close()

        assert (shop.name(), shop.targets()) == ("before", [])

    def test_it_goes_on_where_that_was_chosen_and_the_receipt_says_so(
        self, tmp_path: Path, away: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        shop = strict_shop(tmp_path / "away.db", HYDRACACHE_DEGRADE=True, **away)

        with shop.app.app_context():
            with hydracache.transaction(shop.db()):
                change(shop)
            receipt = hydracache.receipt
            readable = hydracache.reads_own_writes()
            shop.db().close()

        assert (shop.name(), shop.targets()) == ("after", ["1"])
        assert receipt is not None and receipt.strict is False
        assert not readable
        assert "without its quarantine" in caplog.text

    def test_a_teardown_commits_and_says_so(
        self, tmp_path: Path, away: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        shop = strict_shop(
            tmp_path / "away.db",
            first=lambda app: app.teardown_appcontext(end_db),
            options={"connection": lambda: g.get("db")},
            **away,
        )

        @shop.app.post("/")
        def view() -> str:
            change(shop)
            return "done"

        assert shop.client.post("/").status_code == 200
        assert (shop.name(), shop.targets()) == ("after", ["1"])
        assert "without its quarantine" in caplog.text


def test_a_teardown_that_memcached_has_made_too_slow_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(MemoryStore):
        def replace_many(self, *arguments: Any) -> Any:
            time.sleep(0.02)
            return super().replace_many(*arguments)

    shop = strict_shop(
        tmp_path / "slow.db",
        first=lambda app: app.teardown_appcontext(end_db),
        options={"connection": lambda: g.get("db")},
        HYDRACACHE_MEMCACHED=Slow(),
        HYDRACACHE_HOLD_OFF=0.02,
    )

    @shop.app.post("/")
    def view() -> str:
        change(shop)
        return "done"

    assert shop.client.post("/").status_code == 200
    assert (shop.name(), shop.targets()) == ("after", ["1"])
    assert "POST view commits without its quarantine" in caplog.text


class TestSettings:
    def test_a_command_is_told_of_a_strict_namespace_that_it_does_not_drain(
        self, shop: Shop
    ) -> None:
        runner = shop.app.test_cli_runner()

        ended = runner.invoke(
            args=["hydracache", "drain", "--memcached", "a:1", "--strict", "shpo"]
        )

        assert ended.exit_code == 2
        assert "--strict shpo is not among the namespaces: shop" in ended.output

    def test_the_commands_of_the_app_apply_strictly(
        self, tmp_path: Path, memcached: Memcached, unique: str
    ) -> None:
        shop = strict_shop(
            tmp_path / "cli.db",
            HYDRACACHE_MEMCACHED=memcached.address,
            HYDRACACHE_RING=unique,
        )
        # As an app in another process did: nothing is held off here.
        batch = InvalidationIntentBatch().invalidate_entity("item", "1")
        shop.outbox.enqueue("shop", batch)

        ended = shop.app.test_cli_runner().invoke(args=["hydracache", "drain"])

        assert ended.exit_code == 0, ended.output
        assert [row.is_published for row in shop.rows()] == [True]
        assert is_held_off(shop, unique)

    def test_an_environment_that_calls_the_namespace_strict_must_be_heeded(
        self, tmp_path: Path
    ) -> None:
        values = {
            "HYDRACACHE_OUTBOX": f"sqlite:///{tmp_path}/shop.db",
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": "127.0.0.1:11211",
            "HYDRACACHE_STRICT": "blog, shop",
        }

        with pytest.raises(ConfigurationError, match="set HYDRACACHE_MODE to strict"):
            AppConfig(values)

        config = AppConfig({**values, "HYDRACACHE_MODE": "strict"})
        assert config.texts["strict"] == "shop"
        other = AppConfig({**values, "HYDRACACHE_NAMESPACE": "other"})
        assert "strict" not in other.texts

    @pytest.mark.parametrize("value", [True, "yes", "on", "1"])
    def test_a_switch_where_namespaces_are_listed_is_refused(self, value: Any) -> None:
        """It was taken for a namespace of that name, and the app was not strict."""
        values = {
            "HYDRACACHE_OUTBOX": "sqlite:///shop.db",
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": "127.0.0.1:11211",
            "HYDRACACHE_STRICT": value,
        }

        with pytest.raises(
            ConfigurationError, match="HYDRACACHE_STRICT lists namespaces"
        ):
            AppConfig(values)


def test_a_view_that_fails_after_the_quarantine_has_changed_nothing(
    shop: Shop,
) -> None:
    connection = sqlite3.connect(shop.path)

    with shop.app.app_context():
        hydracache.invalidate_entity("item", "1")
        connection.execute("update item set name = 'after'")
        hydracache.write(connection)
        with pytest.raises(ZeroDivisionError):
            with hydracache.quarantine():
                raise ZeroDivisionError
        connection.rollback()
        connection.execute("update item set name = 'after'")
        hydracache.write(connection)
        connection.rollback()
        receipts = hydracache.receipts

    connection.close()
    assert (shop.name(), shop.targets()) == ("before", [])
    assert [receipt.strict for receipt in receipts] == [None]

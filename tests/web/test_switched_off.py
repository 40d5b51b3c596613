"""HYDRACACHE_ENABLED=0: calls are checked, and nothing is written, read or started."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from hydracache_sync import ConfigurationError, MemoryStore
from hydracache_sync.app.config import AppConfig
from hydracache_sync.integrations.flask import HydraCache as FlaskHydraCache
from hydracache_sync.integrations.wsgi import HydraCache
from hydracache_sync.testing import RecordingOutbox

#: Nothing listens there, and there is no such folder: any use of them fails.
AWAY = {
    "HYDRACACHE_OUTBOX": "sqlite:////nowhere/shop.db",
    "HYDRACACHE_MEMCACHED": "127.0.0.1:1",
    "HYDRACACHE_NAMESPACE": "shop",
}

OFF = {**AWAY, "HYDRACACHE_ENABLED": "0"}


@pytest.mark.parametrize("mode", ["eventual", "inline", "strict"])
@pytest.mark.parametrize("snapshot", ["auto", "replica"])
def test_a_transaction_commits_and_each_read_loads(
    mode: str, snapshot: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    threads = threading.active_count()
    calls = HydraCache(
        {**OFF, "HYDRACACHE_MODE": mode, "HYDRACACHE_SNAPSHOT": snapshot}
    )
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        return len(loads)

    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.execute("create table item (id integer)")
        with calls.collecting():
            scope = calls.begin("POST", "/")
            with calls.transaction(db):
                db.execute("insert into item values (1)")
                calls.invalidate_key("item:1")
            found = [calls.get_or_load("item:1", load) for _ in range(2)]
            assert calls.publish().complete
            assert calls.wait(0).satisfied
            scope.end()
        found.append(calls.cache.get_or_load("item:1", load))
        assert db.execute("select count(*) from item").fetchone() == (1,)
        tables = db.execute("select name from sqlite_master").fetchall()

    assert found == [1, 2, 3]
    assert tables == [("item",)]
    assert (calls.pool, threading.active_count()) == (None, threads)
    assert caplog.records == []


def test_what_is_not_written_is_told_as_in_an_app_that_is_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = HydraCache(OFF)
    with calls.collecting():
        calls.invalidate_key("item:1")
        report, outcome = calls.publish(), calls.wait(0)

    assert (report.complete, report.unseen) == (False, 1)
    assert (outcome.satisfied, outcome.pending) == (False, 1)
    [said] = caplog.messages
    assert "collected key item:1 and did not write it in its transaction" in said
    assert said.endswith(". It is dropped: HYDRACACHE_ENABLED is off")


def test_a_session_commits_without_the_outbox() -> None:
    calls = HydraCache(OFF)
    engine = create_engine("sqlite://")
    with Session(engine) as session, calls.collecting():
        calls.attach(session)
        session.execute(text("create table item (id integer)"))
        calls.invalidate_key("item:1")
        session.commit()

        assert calls.receipt is not None and calls.receipt.targets == 1
    engine.dispose()


def test_what_was_not_written_goes_nowhere_with_the_usual_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = HydraCache(OFF)

    with calls.collecting("POST /forgot"):
        calls.invalidate_key("item:1")

    [record] = caplog.records
    assert "POST /forgot collected key item:1" in record.getMessage()


def test_what_is_wrong_is_refused_all_the_same() -> None:
    calls = HydraCache(OFF)

    with calls.collecting(), pytest.raises(TypeError, match="key must be"):
        calls.invalidate_key(1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="HYDRACACHE_TTL: 'soon' is not"):
        HydraCache({**OFF, "HYDRACACHE_TTL": "soon"})
    with pytest.raises(ConfigurationError, match="HYDRACACHE_NAMESPACE is missing"):
        HydraCache({"HYDRACACHE_ENABLED": "no"})


def test_without_outbox_and_memcached_it_needs_neither() -> None:
    app = Flask("shop")
    app.config.update(HYDRACACHE_ENABLED=False, HYDRACACHE_NAMESPACE="shop")
    app.config["SECRET_KEY"] = "not secret"
    calls = FlaskHydraCache(app)

    @app.get("/")
    def show() -> str:
        return str(calls.get_or_load("page", lambda: "loaded"))

    assert [app.test_client().get("/").text for _ in range(2)] == ["loaded"] * 2


@pytest.mark.parametrize(
    "given",
    [{"OUTBOX": RecordingOutbox()}, {"MEMCACHED": MemoryStore()}],
    ids=["outbox", "memcached"],
)
def test_an_object_that_nothing_would_use_is_refused(given: dict[str, Any]) -> None:
    config = {f"HYDRACACHE_{name}": value for name, value in given.items()}

    with pytest.raises(
        ConfigurationError,
        match=f"HYDRACACHE_ENABLED is off, and {list(config)[0]} is an object",
    ):
        AppConfig({**OFF, **config})


def test_a_word_that_is_neither_yes_nor_no_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="HYDRACACHE_ENABLED: 'maybe' is not"):
        AppConfig({**AWAY, "HYDRACACHE_ENABLED": "maybe"})

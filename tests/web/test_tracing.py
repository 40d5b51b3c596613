"""An app is traced where its setting says so, and imports nothing for it elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from shop import NAMESPACE, Shop, hydracache

from hydracache_sync import ConfigurationError
from support.spans import Spans, attributes_of, id_of

#: An app of which a page is asked for that reads and writes; prints the modules.
APP = """if True:
    import sqlite3, sys
    from flask import Flask
    from hydracache_sync import MemoryStore, SQLiteOutbox
    from hydracache_sync.integrations.flask import HydraCache

    path, tracing = sys.argv[1:]
    outbox = SQLiteOutbox(path)
    outbox.install_schema()
    outbox.close()
    app, hydracache = Flask("shop"), HydraCache()
    app.config.update(
        SECRET_KEY="not secret",
        HYDRACACHE_OUTBOX=f"sqlite:///{path}",
        HYDRACACHE_NAMESPACE="shop",
        HYDRACACHE_MEMCACHED=MemoryStore(),
        HYDRACACHE_POOL="none",
        HYDRACACHE_TRACING=tracing,
    )
    hydracache.init_app(app)

    @app.get("/")
    def page():
        connection = sqlite3.connect(path)
        with hydracache.transaction(connection):
            hydracache.invalidate_key("written")
        connection.close()
        return hydracache.get_or_load("home", lambda: "home")

    assert app.test_client().get("/").status_code == 200
    roots = {name.partition(".")[0] for name in sys.modules}
    print(*sorted(roots & {"opentelemetry", "sentry_sdk"}))
"""


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Those of the global provider."""
    spans = Spans()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
    return spans


def asked_for(tmp_path: Path, spans: Spans, **settings: Any) -> Shop:
    """A shop of which a page was asked for that writes, publishes and reads."""
    settings = {"HYDRACACHE_MODE": "inline", **settings}
    shop = Shop(tmp_path / "shop.db", **settings)

    @shop.app.get("/page")
    def page() -> str:
        with spans.tracer.start_as_current_span("request"):
            with hydracache.transaction(shop.db()):
                shop.rename("after")
                hydracache.invalidate_key("written")
            return hydracache.get_or_load("home", lambda: "home")

    assert shop.client.get("/page").status_code == 200
    return shop


def test_a_request_shows_its_write_its_publish_and_its_reads(
    tmp_path: Path, spans: Spans
) -> None:
    asked_for(tmp_path, spans, HYDRACACHE_TRACING="1")

    request = id_of(spans.one("request"))
    # What a request loads after its write is not stored.
    for name in ("enqueue", "apply", "get", "load"):
        span = spans.one(f"{name} {NAMESPACE}")
        assert span.parent is not None and span.parent.span_id == request
        assert "cache.key" not in attributes_of(span)


def test_keys_are_shown_where_they_are_asked_for(tmp_path: Path, spans: Spans) -> None:
    asked_for(tmp_path, spans, HYDRACACHE_TRACING="keys")

    get = spans.one(f"get {NAMESPACE}")
    assert attributes_of(get)["cache.key"] == ("home",)


@pytest.mark.parametrize("setting", [None, False, "no"])
def test_without_the_setting_there_is_no_span(
    tmp_path: Path, spans: Spans, setting: Any
) -> None:
    shop = asked_for(tmp_path, spans, HYDRACACHE_TRACING=setting)

    assert spans.names() == ["request"]
    assert [row.traceparent for row in shop.rows()] == [None]


def test_an_app_that_only_writes_is_traced(tmp_path: Path, spans: Spans) -> None:
    shop = Shop(
        tmp_path / "shop.db", HYDRACACHE_MEMCACHED=None, HYDRACACHE_TRACING="yes"
    )

    with shop.app.test_request_context():
        with hydracache.transaction(shop.db()):
            hydracache.invalidate_key("a")

    assert spans.names() == [f"enqueue {NAMESPACE}"]
    assert shop.rows()[0].traceparent is not None


def test_an_app_that_is_switched_off_is_not_traced(
    tmp_path: Path, spans: Spans
) -> None:
    shop = Shop(
        tmp_path / "shop.db",
        HYDRACACHE_MEMCACHED="127.0.0.1:1",
        HYDRACACHE_ENABLED=False,
        HYDRACACHE_TRACING="yes",
    )

    with shop.app.test_request_context():
        assert hydracache.get_or_load("a", lambda: "value") == "value"

    assert spans.names() == []


def test_another_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="HYDRACACHE_TRACING: 'zipkin' is not allowed: yes"
    ):
        Shop(tmp_path / "shop.db", HYDRACACHE_TRACING="zipkin")


@pytest.mark.parametrize(
    "setting, library, extra",
    [("yes", "opentelemetry", "otel"), ("sentry", "sentry_sdk", "sentry")],
)
def test_what_is_not_installed_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    library: str,
    extra: str,
) -> None:
    for name in list(sys.modules):
        if name.startswith("hydracache_sync.tracing"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(
        ConfigurationError,
        match=rf"HYDRACACHE_TRACING needs {library}.*extra '{extra}'",
    ):
        Shop(tmp_path / "shop.db", HYDRACACHE_TRACING=setting)


@pytest.mark.parametrize(
    "setting, loaded",
    [("no", ""), ("yes", "opentelemetry"), ("sentry", "sentry_sdk")],
)
def test_only_what_is_asked_for_is_imported(
    tmp_path: Path, setting: str, loaded: str
) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", APP, str(tmp_path / "shop.db"), setting],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip() == loaded

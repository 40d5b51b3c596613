"""``HYDRACACHE_AUDIT``: an app finds out by itself what it serves stale."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from shop import Shop, close_db, hydracache, text

from hydracache_sync import ConfigurationError, MemcachedStore, SQLiteOutbox, StaleHit
from hydracache_sync.cache import audit
from support.clock import FakeClock
from support.servers import Memcached


class Audited:
    """An app with one page and one change, in a time that is moved by hand."""

    def __init__(self, path: Path, store: Any, namespace: str) -> None:
        self.seconds = 1000.0
        self.clock = FakeClock()
        self.outbox = SQLiteOutbox(path, clock=self.clock)
        self.shop = Shop(
            path,
            namespace=namespace,
            HYDRACACHE_OUTBOX=self.outbox,
            HYDRACACHE_MEMCACHED=store,
            HYDRACACHE_SNAPSHOT="fresh",
            HYDRACACHE_WAIT=0,
            HYDRACACHE_AUDIT=1,
        )
        app = self.shop.app
        app.add_url_rule("/", view_func=self.page)
        app.add_url_rule("/item/<path:name>", "item", lambda name: self.page())
        app.add_url_rule("/change", view_func=self.change)
        app.teardown_appcontext(close_db)
        self.cache = self.shop.state.runtime.cache
        self.events: list[Any] = []
        self.cache.subscribe(self.events.append)

    def pass_seconds(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.now_ms += round(seconds * 1000)

    def page(self) -> str:
        return hydracache.get_or_load("item:1", self.shop.name, tags=["item:1"])

    def change(self) -> str:
        with hydracache.transaction(self.shop.db()):
            self.shop.rename("changed")
            hydracache.invalidate_tag("item:1")
        return "done"

    def get(self, path: str = "/") -> str:
        # Another browser each time: one that has written reads past the cache.
        return text(self.shop.app.test_client().get(path))


@pytest.fixture
def audited(
    tmp_path: Path,
    memcached: Memcached,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    store = MemcachedStore([memcached.address], timeout=30, connect_timeout=30)
    audited = Audited(tmp_path / "shop.db", store, unique)
    monkeypatch.setattr(audit, "monotonic", lambda: audited.seconds)
    # It is a share of hits, and an entry may be lost: all is there before it is asked.
    while not audited.cache.diagnostics().hits:
        audited.get()
    audited.pass_seconds(1.0)
    yield audited
    store.close()
    audited.outbox.close()
    audited.shop.outbox.close()


def test_a_script_past_the_outbox_is_found(audited: Audited) -> None:
    with closing(sqlite3.connect(audited.shop.path)) as connection:
        connection.execute("update item set name = 'by hand'")
        connection.commit()

    served = audited.get()
    audited.pass_seconds(audit.SETTLE)
    audited.get()

    assert served == "before"
    [event] = audited.events
    assert isinstance(event, StaleHit)
    assert (event.key, event.tags) == ("item:1", ("item:1",))
    assert event.place.endswith(" in page")
    assert audited.cache.diagnostics().audit_stale == 1


def find_a_stale_page(audited: Audited, path: str) -> StaleHit:
    with closing(sqlite3.connect(audited.shop.path)) as connection:
        connection.execute("update item set name = 'by hand'")
        connection.commit()
    audited.get(path)
    audited.pass_seconds(audit.SETTLE)
    audited.get("/")
    [event] = audited.events
    assert isinstance(event, StaleHit)
    return event


def test_the_page_is_named_by_its_path_alone(
    audited: Audited, caplog: pytest.LogCaptureFixture
) -> None:
    event = find_a_stale_page(audited, "/item/tea%1Bcup?password=secret")

    assert event.request == "GET /item/tea\\x1bcup"
    assert f" for {event.request}, is not" in caplog.text.replace("\\\\", "\\")
    assert "secret" not in caplog.text


def test_a_long_path_is_cut(audited: Audited) -> None:
    event = find_a_stale_page(audited, f"/item/{'x' * 3000}")

    assert event.request is not None
    assert event.request.startswith("GET /item/xxx")
    assert len(event.request) == 200


def test_a_change_that_nobody_carries_yet_is_not(audited: Audited) -> None:
    audited.get("/change")

    served = audited.get()
    for _ in range(3):
        audited.pass_seconds(audit.SETTLE)
        audited.get()
    pending = audited.events[:]
    audited.shop.state.runtime.worker.drain()
    audited.pass_seconds(audit.SETTLE)
    after = audited.get()

    assert (served, pending, after) == ("before", [], "changed")
    while not audited.cache.diagnostics().audit_unsettled:
        audited.pass_seconds(1.0)
        audited.get()
    assert audited.events == []


@pytest.mark.parametrize("share", ["2", "-1", "often", "nan"])
def test_what_is_no_share_is_named(tmp_path: Path, share: str) -> None:
    with pytest.raises(ConfigurationError, match="HYDRACACHE_AUDIT: '.*' is not"):
        Shop(tmp_path / "shop.db", HYDRACACHE_AUDIT=share)

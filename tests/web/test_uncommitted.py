"""What a request has changed and not committed is shown to nobody else, ever."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from flask import g
from shop import Shop, close_db, hydracache, text

from hydracache_sync import MemoryStore, SQLiteOutbox
from hydracache_sync.integrations.wsgi import HydraCache as WSGIHydraCache
from support.processes import in_threads


def cached_name(connection: Callable[[], sqlite3.Connection]) -> str:
    def load() -> str:
        [(name,)] = connection().execute("select name from item where id = 1")
        return str(name)

    return hydracache.get_or_load("item:1", load, tags=["item"])


class Site:
    """A shop with a page that reads by the cache, and any view at ``/change``."""

    def __init__(self, path: Path, *, knows: bool, **config: Any) -> None:
        options = {"connection": lambda: g.get("db")} if knows else {}
        self.shop = Shop(
            path,
            first=lambda app: app.teardown_appcontext(close_db),
            options=options,
            HYDRACACHE_SNAPSHOT="fresh",
            HYDRACACHE_CLOCK_SKEW=0,
            **config,
        )
        self.view: Callable[[], str] = self.cached_name
        self.shop.app.add_url_rule("/", "show", self.cached_name)
        self.shop.app.add_url_rule(
            "/change",
            "change",
            lambda: self.view(),
            methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        )

    def cached_name(self) -> str:
        return cached_name(self.shop.db)

    def shown(self) -> str:
        """What another visitor gets."""
        return text(self.shop.client.get("/"))

    def stored(self) -> str | None:
        with self.shop.app.app_context():
            value: str | None = self.shop.state.cache.get("item:1", tags=["item"])
            return value

    def change(self, view: Callable[[], str], method: str = "POST") -> str:
        self.view = view
        answer = self.shop.client.open("/change", method=method)
        assert answer.status_code == 200
        return text(answer)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Its extension knows the connection of a request."""
    return Site(tmp_path / "shop.db", knows=True)


@pytest.fixture
def unknown(tmp_path: Path) -> Site:
    """Its extension does not."""
    return Site(tmp_path / "shop.db", knows=False)


class TestKnownConnection:
    @pytest.mark.parametrize("method", ["POST", "GET"])
    def test_what_it_rolls_back_is_not_served_to_others(
        self, site: Site, method: str
    ) -> None:
        def view() -> str:
            site.shop.rename("never")
            name = site.cached_name()
            site.shop.db().rollback()
            return name

        seen = site.change(view, method)

        assert seen == "never"
        assert site.shown() == "before"

    def test_nor_with_an_invalidation_that_follows_the_read(self, site: Site) -> None:
        def view() -> str:
            site.shop.rename("never")
            site.cached_name()
            hydracache.invalidate_tag("item")
            hydracache.write(site.shop.db())
            site.shop.db().rollback()
            return "rolled back"

        site.change(view)

        assert site.shown() == "before"

    def test_nor_from_within_transaction(self, unknown: Site) -> None:
        def view() -> str:
            try:
                with hydracache.transaction(unknown.shop.db()):
                    unknown.shop.rename("never")
                    unknown.cached_name()
                    raise ZeroDivisionError
            except ZeroDivisionError:
                return "rolled back"

        unknown.change(view, "GET")

        assert unknown.shown() == "before"

    def test_nor_what_a_loader_has_changed_itself(self, site: Site) -> None:
        def load() -> str:
            site.shop.rename("never")
            return "never"

        def view() -> str:
            name = hydracache.get_or_load("item:1", load, tags=["item"])
            site.shop.db().rollback()
            return name

        seen = site.change(view)

        assert seen == "never"
        assert site.stored() is None

    def test_a_loader_that_has_changed_something_has_not_failed(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Of an entry that is due: the caller gets what it has loaded."""
        cache = site.shop.state.cache
        cache.get_or_load("due", lambda: "old", soft_ttl=0.01)
        time.sleep(0.05)

        def load() -> str:
            site.shop.rename("never")
            return "never"

        def view() -> str:
            name = hydracache.get_or_load("due", load, soft_ttl=0.01)
            site.shop.db().rollback()
            return name

        assert site.change(view) == "never"
        assert cache.get("due") == "old"
        assert not caplog.records
        # Nor does it keep others from loading again.
        with site.shop.app.app_context():
            found = cache.get_or_load("due", lambda: "new", soft_ttl=60)
        assert found == "new"

    def test_nor_do_others_load_one_by_one_after_it(self, site: Site) -> None:
        def load() -> str:
            site.shop.rename("never")
            return "never"

        def view() -> str:
            name = hydracache.get_or_load("item:1", load)
            site.shop.db().rollback()
            return name

        site.change(view)
        loads: list[str] = []

        def slow() -> str:
            loads.append("load")
            time.sleep(0.5)
            return "before"

        in_threads(
            2, lambda _: site.shop.state.cache.get_or_load("item:1", slow, ttl=60)
        )
        assert loads == ["load"]

    def test_its_own_change_is_seen_though_another_value_is_cached(
        self, site: Site
    ) -> None:
        assert site.shown() == "before"

        def view() -> str:
            site.shop.rename("after")
            return site.cached_name()

        assert site.change(view) == "after"
        assert site.shown() == "before"

    def test_the_plain_cache_stores_nothing_of_it_either(self, site: Site) -> None:
        def view() -> str:
            site.shop.rename("never")
            return str(hydracache.cache.get_or_load("item:1", lambda: "never"))

        site.change(view)

        assert site.shop.state.cache.get("item:1") is None

    def test_nor_what_it_changes_after_a_reservation(self, site: Site) -> None:
        filled: list[bool] = []

        def view() -> str:
            reservation = hydracache.cache.reserve("page")
            site.shop.rename("never")
            filled.append(reservation.fill("never"))
            site.shop.db().rollback()
            filled.append(reservation.fill("before"))
            return "done"

        site.change(view)

        assert filled == [False, True]
        assert site.shop.state.cache.get("page") == "before"

    def test_nor_what_the_loader_of_many_keys_has_changed(self, site: Site) -> None:
        def load(keys: list[str]) -> dict[str, str]:
            site.shop.rename("never")
            return dict.fromkeys(keys, "never")

        def view() -> str:
            found = hydracache.cache.get_many_or_load(["a", "b"], load)
            site.shop.db().rollback()
            return " ".join(found.values())

        assert site.change(view) == "never never"
        assert site.shop.state.cache.get_many(["a", "b"]) == {}

    @pytest.mark.parametrize("begins", [False, True])
    def test_what_has_only_read_stores_also_in_a_post(
        self, site: Site, begins: bool
    ) -> None:
        def view() -> str:
            if begins:
                site.shop.db().execute("begin")
            site.shop.db().execute("select * from item").fetchall()
            return site.cached_name()

        site.change(view)

        assert site.stored() == "before"

    def test_after_its_commit_it_stores_again(self, site: Site) -> None:
        def view() -> str:
            site.shop.rename("after")
            site.cached_name()
            site.shop.db().commit()
            return site.cached_name()

        site.change(view)

        assert site.stored() == "after"

    def test_after_its_rollback_too(self, site: Site) -> None:
        def view() -> str:
            site.shop.rename("never")
            site.shop.db().rollback()
            return site.cached_name()

        site.change(view)

        assert site.stored() == "before"

    def test_a_function_that_fails_leaves_it_unknown(self, tmp_path: Path) -> None:
        def fails() -> None:
            raise RuntimeError("no connection here")

        shop = Shop(
            tmp_path / "shop.db",
            options={"connection": fails},
            HYDRACACHE_SNAPSHOT="fresh",
        )

        @shop.app.route("/", methods=["GET", "POST"])
        def view() -> str:
            return hydracache.get_or_load("item:1", lambda: "value")

        assert text(shop.client.post("/")) == "value"
        assert shop.state.cache.get("item:1") is None
        shop.client.get("/")
        assert shop.state.cache.get("item:1") == "value"


class TestUnknownConnection:
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_what_may_be_rolled_back_is_not_stored(
        self, unknown: Site, method: str
    ) -> None:
        def view() -> str:
            unknown.shop.rename("never")
            name = unknown.cached_name()
            unknown.shop.db().rollback()
            return name

        unknown.change(view, method)

        assert unknown.shown() == "before"

    def test_what_is_cached_is_served_there(self, unknown: Site) -> None:
        assert unknown.shown() == "before"

        def view() -> str:
            return hydracache.get_or_load("item:1", lambda: "loaded", tags=["item"])

        assert unknown.change(view) == "before"

    def test_pages_store(self, unknown: Site) -> None:
        unknown.shown()

        assert unknown.stored() == "before"


class TestWSGI:
    @pytest.fixture
    def calls(self, tmp_path: Path) -> WSGIHydraCache:
        outbox = SQLiteOutbox(tmp_path / "wsgi.db")
        outbox.install_schema()
        return WSGIHydraCache(
            {
                "HYDRACACHE_OUTBOX": outbox,
                "HYDRACACHE_NAMESPACE": "shop",
                "HYDRACACHE_MEMCACHED": MemoryStore(),
                "HYDRACACHE_POOL": "none",
                "HYDRACACHE_SNAPSHOT": "fresh",
            }
        )

    @pytest.fixture
    def db(self, tmp_path: Path) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(tmp_path / "wsgi.db")) as connection:
            connection.execute("create table item (name text)")
            yield connection

    @pytest.mark.parametrize("method, knows", [("GET", True), ("POST", False)])
    def test_what_is_rolled_back_is_not_stored(
        self, calls: WSGIHydraCache, db: sqlite3.Connection, method: str, knows: bool
    ) -> None:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            db.execute("insert into item values ('never')")
            name: bytes = calls.get_or_load("item:1", lambda: b"never")
            db.rollback()
            return [name]

        served = calls.middleware(app, connection=(lambda: db) if knows else None)

        assert served({"REQUEST_METHOD": method}, None) == [b"never"]
        assert calls.cache.get("item:1") is None

    def test_a_page_that_only_reads_stores(
        self, calls: WSGIHydraCache, db: sqlite3.Connection
    ) -> None:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            return [calls.get_or_load("item:1", lambda: b"value")]

        served = calls.middleware(app, connection=lambda: db)

        served({"REQUEST_METHOD": "GET"}, None)

        assert calls.cache.get("item:1") == b"value"

    def test_so_does_a_block_of_a_script(
        self, calls: WSGIHydraCache, db: sqlite3.Connection
    ) -> None:
        with calls.collecting():
            calls.get_or_load("item:1", lambda: b"value")

        assert calls.cache.get("item:1") == b"value"


def test_what_is_made_of_an_uncommitted_value_is_not_stored(tmp_path: Path) -> None:
    """By a load or a reservation that began before the change."""
    shop = Shop(tmp_path / "shop.db", HYDRACACHE_SNAPSHOT="fresh")

    def load_and_roll_back() -> str:
        with contextlib.suppress(ZeroDivisionError):
            with hydracache.transaction(shop.db()) as connection:
                shop.rename("uncommitted")

                def load() -> str:
                    [(name,)] = connection.execute("select name from item")
                    return str(name)

                shown = hydracache.get_or_load("inner", load, tags=["name"])
                hydracache.invalidate_tag("other")
                again = hydracache.get_or_load("again", load, tags=["name"])
                raise ZeroDivisionError
        return shown + again

    with shop.app.app_context():
        cache = hydracache.cache
        reservation = cache.reserve("filled", tags=["page"])
        made = {
            "plain": cache.get_or_load("plain", load_and_roll_back, tags=["page"]),
            "app": hydracache.get_or_load("app", load_and_roll_back, tags=["page"]),
        }
        assert not reservation.fill(load_and_roll_back())

        assert set(made.values()) == {"uncommitteduncommitted"}
        assert cache.get_many([*made, "filled"], tags=["page"]) == {}

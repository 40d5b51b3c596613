"""A cached read never shows less than the same request, or browser, has written."""

from __future__ import annotations

import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import pytest
from flask import Flask, Request, g, redirect, request
from flask.sessions import SecureCookieSessionInterface
from shop import Shop, close_db, hydracache, text

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    OutboxWorker,
    entity_tag,
)
from hydracache_sync.app import receipt_cookie

ITEM = entity_tag("item", "1")


def add_views(shop: Shop) -> None:
    shop.app.teardown_appcontext(close_db)

    def read() -> str:
        return hydracache.get_or_load("item:1", load, tags=[ITEM])

    def load() -> str:
        [(name,)] = shop.db().execute("select name from item where id = 1")
        return str(name)

    @shop.app.get("/")
    def show() -> str:
        return read()

    @shop.app.post("/<name>")
    def rename(name: str) -> Any:
        with hydracache.transaction(shop.db()):
            shop.rename(name)
            hydracache.invalidate_entity("item", "1")
        return redirect("/")

    @shop.app.post("/<name>/shown")
    def rename_and_show(name: str) -> str:
        shop.rename(name)
        hydracache.invalidate_entity("item", "1")
        before_write = read()
        hydracache.write(shop.db())
        before_commit = read()
        shop.db().commit()
        return f"{before_write} {before_commit} {read()}"

    @shop.app.post("/forgetful")
    def forgetful() -> str:
        shop.rename("after")
        hydracache.invalidate_entity("item", "1")
        shop.db().commit()
        return "done"

    @shop.app.get("/static-page")
    def page() -> str:
        return "page"


@pytest.fixture
def eventual(tmp_path: Path) -> Shop:
    """Nothing publishes by itself; loaders read what is committed."""
    shop = Shop(tmp_path / "e.db", HYDRACACHE_SNAPSHOT="fresh", HYDRACACHE_WAIT=0)
    add_views(shop)
    return shop


@pytest.fixture
def inline(tmp_path: Path) -> Shop:
    shop = Shop(
        tmp_path / "i.db", HYDRACACHE_SNAPSHOT="fresh", HYDRACACHE_MODE="inline"
    )
    add_views(shop)
    return shop


def late_shop(path: Path, phase: str, before_init: bool, mode: str) -> Shop:
    """An app whose views change data, and a function of whose commits that later."""

    def finish(given: Any) -> Any:
        if "db" in g:
            hydracache.write(g.db)
            g.db.commit()
            g.pop("db").close()
        return given

    def first(app: Flask) -> None:
        app.teardown_appcontext(close_db)  # runs last, where finish() has not
        if before_init:
            getattr(app, phase)(finish)

    shop = Shop(
        path,
        first=first,
        HYDRACACHE_SNAPSHOT="fresh",
        HYDRACACHE_WAIT=0,
        HYDRACACHE_MODE=mode,
    )
    if not before_init:
        getattr(shop.app, phase)(finish)

    @shop.app.get("/")
    def show() -> Any:
        return hydracache.get_or_load("item:1", shop.name, tags=[ITEM])

    @shop.app.post("/<name>")
    def rename(name: str) -> str:
        shop.rename(name)
        hydracache.invalidate_entity("item", "1")
        return "done"

    return shop


def drain(shop: Shop) -> None:
    OutboxWorker(shop.outbox, MemcachedApplier(shop.store, "shop")).drain()


def receipts_of(response: Any) -> int:
    """How many receipts are in the cookie that it sets."""
    [cookie] = cookies(response)
    return cookie.count("hc1.")


def cookies(response: Any) -> list[str]:
    found: list[str] = response.headers.getlist("Set-Cookie")
    return found


class TestSameRequest:
    @pytest.mark.parametrize(
        "key, tag",
        [(1, "a"), ("1", "a"), ("a", 1), ("a", "1"), ("b", uuid.UUID(int=1))],
    )
    def test_its_own_writes_are_known_by_an_id_or_by_its_text(
        self, eventual: Shop, key: Any, tag: Any
    ) -> None:
        def read(value: str) -> str:
            return hydracache.get_or_load(key, lambda: value, tags=[tag])

        with eventual.app.app_context():
            assert read("before") == read("again") == "before"
            hydracache.invalidate_key(1)
            hydracache.invalidate_tag(1)
            hydracache.invalidate_tag(uuid.UUID(int=1))

            shown = read("own")

            hydracache.discard()
        assert shown == "own"

    @pytest.mark.parametrize("kind", ["eventual", "inline"])
    def test_it_reads_its_own_writes_and_stores_nothing_uncommitted(
        self, kind: str, request: pytest.FixtureRequest
    ) -> None:
        shop: Shop = request.getfixturevalue(kind)
        assert text(shop.client.get("/")) == "before"

        shown = text(shop.client.post("/after/shown"))

        assert shown == "after after after"

    def test_a_request_that_was_rolled_back_has_stored_nothing(
        self, eventual: Shop
    ) -> None:
        shop = eventual

        @shop.app.post("/failing")
        def failing() -> str:
            shop.rename("never")
            hydracache.invalidate_entity("item", "1")
            hydracache.get_or_load("item:1", lambda: "never", tags=[ITEM])
            hydracache.discard()
            raise ZeroDivisionError

        shop.client.post("/failing")

        assert text(shop.client.get("/")) == "before"

    def test_after_a_wait_that_is_satisfied_the_cache_is_used_again(
        self, eventual: Shop
    ) -> None:
        shop = eventual

        with shop.app.app_context():
            with hydracache.transaction(shop.db()):
                shop.rename("after")
                hydracache.invalidate_entity("item", "1")
            before = hydracache.reads_own_writes(), hydracache.wait(0).satisfied
            drain(shop)
            after = hydracache.wait(0).satisfied, hydracache.reads_own_writes()

        assert (before, after) == ((False, False), (True, True))

    def test_publish_says_whether_the_write_is_readable(self, eventual: Shop) -> None:
        shop = eventual

        with shop.app.app_context():
            shop.rename("after")
            hydracache.invalidate_entity("item", "1")
            hydracache.write(shop.db())
            uncommitted = hydracache.publish()
            shop.db().commit()
            committed = hydracache.publish()
            read = hydracache.reads_own_writes()

        assert uncommitted.unseen == 1 and not uncommitted.complete
        assert committed.complete and read

    def test_what_nobody_has_written_is_neither_waited_for_nor_published(
        self, eventual: Shop
    ) -> None:
        shop = eventual

        with shop.app.app_context():
            shop.rename("after")
            hydracache.invalidate_entity("item", "1")
            shop.db().commit()
            report, outcome = hydracache.publish(), hydracache.wait(0)

        assert (report.complete, report.unseen) == (False, 1)
        assert (outcome.satisfied, outcome.pending) == (False, 1)
        assert outcome.degraded and not outcome.timed_out


def test_what_a_request_has_collected_is_looked_through_once(
    eventual: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[InvalidationIntent] = []
    really = InvalidationIntent.to_cache_invalidation

    def counted(intent: InvalidationIntent) -> Any:
        looked_at.append(intent)
        return really(intent)

    monkeypatch.setattr(InvalidationIntent, "to_cache_invalidation", counted)
    with eventual.app.test_request_context(method="POST"):
        collected = hydracache.collected()
        for number in range(50):
            hydracache.invalidate_entity("item", str(number))
            assert hydracache.get_or_load("other", lambda: "v") == "v"
        assert len(looked_at) == len(set(looked_at)) == 50

        assert collected.targets.affect("k", [entity_tag("item", "49")])
        collected.drop_from(10)
        assert not collected.targets.affect("k", [entity_tag("item", "49")])
        assert collected.targets.affect("k", [ITEM])
        collected.clear()
        assert not collected.targets.affect("k", [ITEM])


class TestNextRequest:
    def test_it_goes_past_the_cache_until_the_write_is_published(
        self, eventual: Shop
    ) -> None:
        shop, other = eventual, eventual.app.test_client()
        assert text(shop.client.get("/")) == "before"

        answer = shop.client.post("/after")

        assert cookies(answer)[0].startswith("hydracache-")
        assert text(shop.client.get("/")) == "after"
        assert text(other.get("/")) == "before"  # nothing was published yet
        drain(shop)
        published = shop.client.get("/")
        assert text(published) == "after"
        assert "Max-Age=0" in cookies(published)[0]
        assert cookies(shop.client.get("/")) == []
        assert text(other.get("/")) == "after"

    def test_a_second_write_does_not_forget_the_first(self, eventual: Shop) -> None:
        shop = eventual
        assert text(shop.client.get("/")) == "before"
        shop.client.post("/after")
        first = shop.outbox.rows("shop")[0]

        shop.client.post("/b")

        # Only the second is published; it named something else.
        with closing(sqlite3.connect(shop.path)) as connection, connection:
            connection.execute(
                "update hydracache_outbox set state = 1 where id <> ?", (first.id,)
            )
        assert text(shop.client.get("/")) == "b"

    @pytest.mark.parametrize("ahead", [0.9, 60])
    def test_a_host_whose_clock_is_ahead_says_what_it_wrote(
        self, eventual: Shop, monkeypatch: pytest.MonkeyPatch, ahead: float
    ) -> None:
        assert text(eventual.client.get("/")) == "before"
        now = time.time
        with monkeypatch.context() as host:
            host.setattr(time, "time", lambda: now() + ahead)
            eventual.client.post("/after")

        assert text(eventual.client.get("/")) == "after"

    def test_a_second_write_does_not_prolong_the_first(
        self, eventual: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was rolled back would keep a visitor off the cache without end."""
        shop = eventual
        shop.client.post("/after")
        assert receipts_of(shop.client.post("/b")) == 2
        later = time.time() + receipt_cookie.MAX_AGE + 1
        monkeypatch.setattr(receipt_cookie, "time", SimpleNamespace(time=lambda: later))

        assert receipts_of(shop.client.post("/c")) == 1

    def test_an_inline_publish_needs_no_cookie(self, inline: Shop) -> None:
        assert text(inline.client.get("/")) == "before"

        answer = inline.client.post("/after")

        assert cookies(answer) == []
        assert text(inline.client.get("/")) == "after"

    def test_an_inline_publish_that_fails_leaves_a_cookie(
        self, inline: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop = inline
        assert text(shop.client.get("/")) == "before"
        with monkeypatch.context() as patched:
            patched.setattr(shop.store, "replace_many", unavailable)

            answer = shop.client.post("/after")

        assert answer.status_code == 302
        assert cookies(answer) != []
        assert text(shop.client.get("/")) == "after"

    def test_it_waits_while_the_write_is_young(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop = Shop(
            tmp_path / "w.db", HYDRACACHE_SNAPSHOT="fresh", HYDRACACHE_WAIT=3600
        )
        add_views(shop)
        shop.client.get("/")
        shop.client.post("/after")
        asked: list[float] = []

        class Wait(receipt_cookie.InvalidationWait):
            @classmethod
            def best_effort(cls, timeout: float) -> Any:
                asked.append(timeout)
                drain(shop)
                return super().best_effort(timeout)

        monkeypatch.setattr(receipt_cookie, "InvalidationWait", Wait)

        assert text(shop.client.get("/")) == "after"
        assert 3000 < asked[0] <= 3600

    @pytest.mark.parametrize("value", ["", "x", "hc1.a.b.1.1", "a.b.c"])
    def test_a_cookie_that_is_not_ours_is_ignored(
        self, eventual: Shop, value: str
    ) -> None:
        name = cookies(eventual.client.post("/after"))[0].partition("=")[0]
        client = eventual.app.test_client(use_cookies=False)  # else it drops ours

        answer = client.get("/", headers={"Cookie": f"{name}={value}"})

        assert text(answer) == "after"
        assert cookies(answer) == []  # it is another app's, who may need it

    @pytest.mark.parametrize(
        "other", [{"namespace": "blog"}, {"SECRET_KEY": "another"}, {}]
    )
    def test_apps_of_one_host_keep_each_its_own(
        self, eventual: Shop, tmp_path: Path, other: dict[str, Any]
    ) -> None:
        """A browser has one jar for them all: ports and names of schemes share it."""
        blog = Shop(tmp_path / "blog.db", HYDRACACHE_SNAPSHOT="fresh", **other)
        add_views(blog)
        client = eventual.app.test_client(use_cookies=False)
        assert text(client.get("/")) == "before"
        jar = dict(
            cookies(site.client.post("/after"))[0].partition(";")[0].split("=", 1)
            for site in (eventual, blog)
        )
        assert len(jar) == 2

        sent = "; ".join(f"{name}={value}" for name, value in jar.items())
        answer = client.get("/", headers={"Cookie": sent})

        assert text(answer) == "after"

    def test_processes_of_one_app_share_it(self, tmp_path: Path) -> None:
        first = Shop(tmp_path / "one.db")
        second = Flask("shop")
        second.config.update(first.app.config)
        hydracache.init_app(second)
        client = second.test_client()
        beside: Any = SimpleNamespace(
            app=second, client=client, db=first.db, rename=first.rename
        )

        names = set()
        for shop in (first, beside):
            add_views(shop)
            names.add(cookies(shop.client.post("/a"))[0].partition("=")[0])

        assert len(names) == 1

    def test_a_cookie_with_another_key_is_ignored(self, eventual: Shop) -> None:
        eventual.client.post("/after")
        eventual.app.secret_key = "another"

        assert eventual.client.get("/").status_code == 200

    def test_what_the_net_will_write_is_promised(self, eventual: Shop) -> None:
        shop = eventual
        shop.client.get("/")

        shop.client.post("/forgetful")

        assert text(shop.client.get("/")) == "after"
        drain(shop)
        assert "Max-Age=0" in cookies(shop.client.get("/"))[0]

    @pytest.mark.parametrize("before_init", [True, False])
    @pytest.mark.parametrize("phase", ["after_request", "teardown_appcontext"])
    @pytest.mark.parametrize("mode", ["eventual", "inline"])
    def test_it_names_what_the_app_commits_late(
        self, tmp_path: Path, before_init: bool, phase: str, mode: str
    ) -> None:
        """In whatever order the app's functions and ours are registered."""
        shop = late_shop(tmp_path / "late.db", phase, before_init, mode)
        assert text(shop.client.get("/")) == "before"

        answer = shop.client.post("/after")

        is_open = mode == "eventual" or phase == "teardown_appcontext"
        assert [receipts_of(answer)] == [1] if is_open else cookies(answer) == []
        assert text(shop.client.get("/")) == "after"
        drain(shop)
        if mode == "eventual":
            assert "Max-Age=0" in cookies(shop.client.get("/"))[0]

    def test_it_names_what_a_function_that_fails_has_committed_before(
        self, tmp_path: Path
    ) -> None:
        shop = late_shop(tmp_path / "late.db", "after_request", True, "eventual")

        @shop.app.after_request
        def fail(response: Any) -> Any:
            if request.method == "POST":
                with hydracache.transaction(shop.db()):
                    hydracache.invalidate_entity("item", "1")
                    shop.rename("after")
                raise ZeroDivisionError
            return response

        assert text(shop.client.get("/")) == "before"
        assert shop.client.post("/never").status_code == 500

        assert text(shop.client.get("/")) == "after"

    def test_without_a_secret_key_it_is_said_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop = Shop(tmp_path / "k.db", SECRET_KEY=None)
        add_views(shop)

        answers = [shop.client.post("/a"), shop.client.post("/b")]

        assert [cookies(answer) for answer in answers] == [[], []]
        assert caplog.text.count("has no secret key") == 1

    def test_it_can_be_switched_off(self, tmp_path: Path) -> None:
        shop = Shop(tmp_path / "c.db", HYDRACACHE_COOKIE="")
        add_views(shop)

        assert cookies(shop.client.post("/after")) == []

    def test_a_page_that_reads_nothing_neither_waits_nor_varies(
        self, eventual: Shop
    ) -> None:
        eventual.client.post("/after")

        answer = eventual.client.get("/static-page")

        assert cookies(answer) == []
        assert "Vary" not in answer.headers


def unavailable(copies: Any, *_: Any) -> Any:
    from hydracache_sync import ApplyUnavailable

    return [ApplyUnavailable("away") for _ in copies]


class TestSnapshot:
    """A loader may read in a transaction that began with the request."""

    @pytest.fixture
    def fills(self, tmp_path: Path) -> Iterator[Any]:
        shop = Shop(tmp_path / "s.db", HYDRACACHE_CLOCK_SKEW=0.0)

        @shop.app.get("/")
        def show() -> str:
            # Another's write is published after this request began.
            with closing(sqlite3.connect(shop.path)) as connection:
                name = str(connection.execute("select name from item").fetchone()[0])
            shop.state.runtime.worker.drain()
            return hydracache.get_or_load("item:1", lambda: name, tags=[ITEM])

        def count() -> int:
            fills: int = shop.state.cache.diagnostics().fills
            return fills

        yield shop, count

    def test_what_it_read_before_an_invalidation_is_not_stored(
        self, fills: Any
    ) -> None:
        shop, count = fills
        shop.outbox.enqueue(
            "shop", InvalidationIntentBatch().invalidate_entity("item", "1")
        )

        shop.client.get("/")

        assert count() == 0

    @pytest.mark.parametrize("place", ["before_request", "session"])
    def test_nor_what_was_read_before_the_first_hook_of_the_library(
        self, tmp_path: Path, place: str
    ) -> None:
        """By a function that was registered before it, or a session in the database."""

        def read_and_wait() -> None:
            g.names = shop.db().execute("select name from item").fetchone()
            if request.args:
                # Another one, while this function asks a login server, say.
                shop.outbox.enqueue(
                    "shop", InvalidationIntentBatch().invalidate_entity("item", "1")
                )
                drain(shop)
                time.sleep(0.01)

        def register(app: Flask) -> None:
            if place == "before_request":
                app.before_request(read_and_wait)
            else:
                app.session_interface = Sessions()

        class Sessions(SecureCookieSessionInterface):
            def open_session(self, app: Flask, request: Request) -> Any:
                read_and_wait()
                return super().open_session(app, request)

        shop = Shop(tmp_path / "hooks.db", first=register, HYDRACACHE_CLOCK_SKEW=0)
        shop.app.teardown_appcontext(close_db)

        @shop.app.get("/")
        def show() -> str:
            return hydracache.get_or_load("item:1", lambda: g.names[0], tags=[ITEM])

        shop.client.get("/")  # makes the tokens
        time.sleep(0.01)
        shop.client.get("/?slow=1")

        assert shop.state.cache.diagnostics().fills == 0
        time.sleep(0.01)
        shop.client.get("/")
        assert shop.state.cache.diagnostics().fills == 1

    def test_outside_of_requests_nothing_is_known_and_nothing_stored(
        self, fills: Any
    ) -> None:
        shop, count = fills

        with shop.app.app_context():
            hydracache.get_or_load("item:1", lambda: "old", tags=[ITEM])

        assert count() == 0


class TestWhatItTouches:
    """Only what a request is changing goes past the cache."""

    @pytest.fixture
    def shop(self, eventual: Shop) -> Shop:
        """Two entries are cached; both would be loaded again as "loaded"."""
        with eventual.app.app_context():
            for key in ("item:1", "item:2"):
                hydracache.get_or_load(key, lambda: "cached", tags=tags_of(key))
        return eventual

    @pytest.mark.parametrize("step", ["collected", "written", "committed"])
    def test_the_rest_is_read_from_the_cache(self, shop: Shop, step: str) -> None:
        with shop.app.app_context():
            shop.rename("after")
            hydracache.invalidate_entity("item", "1")
            if step != "collected":
                hydracache.write(shop.db())
            if step == "committed":
                shop.db().commit()
            found = [read_loading("item:1"), read_loading("item:2")]
            hydracache.discard()

        assert found == ["loaded", "cached"]

    @pytest.mark.parametrize(
        "collect",
        [
            lambda: hydracache.invalidate_key("item:1"),
            lambda: hydracache.invalidate_tag(ITEM),
            lambda: hydracache.flush(),
        ],
    )
    def test_each_kind_touches_its_entries(self, shop: Shop, collect: Any) -> None:
        with shop.app.app_context():
            collect()
            found = read_loading("item:1")
            hydracache.discard()

        assert found == "loaded"

    @pytest.mark.parametrize("read", ["get_or_load", "plain cache"])
    def test_before_its_commit_a_request_stores_nothing(
        self, shop: Shop, read: str
    ) -> None:
        fills = shop.state.cache.diagnostics().fills

        with shop.app.app_context():
            reader = hydracache if read == "get_or_load" else hydracache.cache
            hydracache.invalidate_entity("item", "1")
            reader.get_or_load("item:3", lambda: "uncommitted", tags=["item:3"])
            hydracache.write(shop.db())
            reader.get_or_load("item:4", lambda: "uncommitted", tags=["item:4"])
            shop.db().rollback()

        assert shop.state.cache.diagnostics().fills == fills

    def test_after_its_commit_it_stores_again(self, shop: Shop) -> None:
        fills = shop.state.cache.diagnostics().fills

        with shop.app.app_context():
            with hydracache.transaction(shop.db()):
                shop.rename("after")
                hydracache.invalidate_entity("item", "1")
            hydracache.get_or_load("item:3", lambda: "committed", tags=["item:3"])

        assert shop.state.cache.diagnostics().fills == fills + 1

    def test_the_outbox_is_asked_once_in_a_request(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []
        look = shop.state.runtime.look

        def watched(written: Any) -> bool:
            asked.append(written)
            return bool(look(written))

        monkeypatch.setattr(shop.state.runtime, "look", watched)

        with shop.app.app_context():
            with hydracache.transaction(shop.db()):
                shop.rename("after")
                hydracache.invalidate_entity("item", "1")
            found = [read_loading("item:2"), len(asked)]
            found += [read_loading("item:1"), read_loading("item:1"), len(asked)]

        assert found == ["cached", 0, "loaded", "loaded", 1]


def tags_of(key: str) -> list[str]:
    return [entity_tag("item", key[-1])]


def read_loading(key: str) -> str:
    return hydracache.get_or_load(key, lambda: "loaded", tags=tags_of(key))


class TestCached:
    """``@hydracache.cached``, at the top of a module as apps have it."""

    def test_it_caches_by_its_arguments_and_invalidates_by_them(
        self, eventual: Shop
    ) -> None:
        shop = eventual
        calls: list[str] = []

        with shop.app.app_context():
            for number in ("1", "1", "2"):
                shown(number, calls)
            with hydracache.transaction(shop.db()):
                shop.rename("after")
                hydracache.invalidate(shown.intent("1", calls))
            drain(shop)
            shown("1", calls)
            shown("2", calls)

        assert calls == ["1", "2", "1"]

    def test_it_collects_what_invalidates_a_call_and_loads_one_anew(
        self, eventual: Shop
    ) -> None:
        shop = eventual
        calls: list[str] = []

        with shop.app.app_context():
            shown("1", calls)
            shown.refresh("1", calls)
            shown("1", calls)
            assert calls == ["1", "1"]
            with hydracache.transaction(shop.db()):
                shop.rename("after")
                # It may be rolled back, and is not stored.
                fills = shop.state.cache.diagnostics().fills
                shown.refresh("2", calls)
                assert shop.state.cache.diagnostics().fills == fills
                shown.invalidate("1", calls)
            drain(shop)
            calls.clear()
            shown("1", calls)

        assert calls == ["1"]

    def test_it_takes_over_the_tags_of_what_it_calls(self, eventual: Shop) -> None:
        shop = eventual
        calls: list[str] = []

        with shop.app.app_context():
            assert [both(calls), both(calls), both(calls)] == ["12"] * 3
            assert calls == ["both", "1", "2", "both"]
            # Its own write is among what it shows, though not among its tags.
            hydracache.invalidate_entity("item", "2")
            calls.clear()
            both(calls)
            hydracache.discard()

        assert calls == ["both", "2"]

    def test_it_reads_its_own_writes(self, eventual: Shop) -> None:
        shop = eventual
        calls: list[str] = []

        with shop.app.app_context():
            shown("1", calls)
            hydracache.invalidate_entity("item", "1")
            shown("1", calls)
            hydracache.discard()

        assert calls == ["1", "1"]

    def test_it_keeps_to_the_app_that_is_served(self, tmp_path: Path) -> None:
        calls: list[str] = []

        for name in ("one", "two"):
            shop = Shop(tmp_path / f"{name}.db", HYDRACACHE_SNAPSHOT="fresh")
            with shop.app.app_context():
                shown("1", calls)

        assert calls == ["1", "1"]

    def test_what_an_older_transaction_has_read_is_not_stored(
        self, tmp_path: Path
    ) -> None:
        shop = Shop(tmp_path / "guard.db", HYDRACACHE_CLOCK_SKEW=0.0)
        calls: list[str] = []

        @shop.app.get("/")
        def view() -> str:
            # Published while this request, and maybe its transaction, is open.
            batch = InvalidationIntentBatch().invalidate_entity("item", "1")
            shop.outbox.enqueue("shop", batch)
            shop.state.runtime.worker.drain()
            return shown("1", calls)

        shop.client.get("/")

        assert calls == ["1"]
        assert shop.state.cache.diagnostics().fills == 0


@hydracache.cached(
    key=lambda number, calls: f"shown:{number}",
    tags=lambda number, calls: [entity_tag("item", number)],
    ttl=60,
    soft_ttl=50,
)
def shown(number: str, calls: list[str]) -> str:
    calls.append(number)
    return number


@hydracache.cached(key=lambda calls: "both", tags=())
def both(calls: list[str]) -> str:
    calls.append("both")
    return shown("1", calls) + shown("2", calls)


def test_tags_of_keys_may_be_iterators(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop.db", HYDRACACHE_SNAPSHOT="fresh")

    with shop.app.app_context():
        hydracache.collected()  # the request may have written, and looks at the tags
        tags = {"item:1": iter(["item"])}
        hydracache.get_many_or_load(["item:1"], lambda keys: {keys[0]: "a"}, tags=tags)

        assert hydracache.cache.get("item:1", tags=["item"]) == "a"

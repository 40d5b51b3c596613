"""Pages of views that read cookies, by each way that leads to them."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any, Callable

import pytest
from flask import Flask, g, request, request_started
from shop import Shop, hydracache, text

from hydracache_sync import MemcachedApplier, OutboxWorker
from hydracache_sync.integrations.flask import HydraCache
from hydracache_sync.integrations.flask.cookie_reads import WatchedEnviron

COOKIE = "HTTP_COOKIE"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Loaders read what is committed; nothing publishes by itself."""
    return Shop(tmp_path / "c.db", HYDRACACHE_SNAPSHOT="fresh", HYDRACACHE_WAIT=0)


def add(shop: Shop, view: Callable[[], Any], rule: str = "/", **options: Any) -> None:
    options.setdefault("tags", ["page"])
    shop.app.add_url_rule(rule, rule, hydracache.cached_page(**options)(view))


def get_as(shop: Shop, user: str | None, path: str = "/", **headers: str) -> str:
    client = shop.app.test_client(use_cookies=False)
    if user is not None:
        headers["Cookie"] = f"user={user}"
    return text(client.get(path, headers=headers))


#: Each returns a text with the request's cookies.
READS: dict[str, Callable[[], object]] = {
    "cookies": lambda: request.cookies.get("user"),
    "headers.get": lambda: request.headers.get("cookie"),
    "headers[]": lambda: request.headers["Cookie"] if request.headers else "",
    "headers.getlist": lambda: request.headers.getlist("Cookie"),
    "headers.get_all": lambda: request.headers.get_all("Cookie"),
    "headers.items": lambda: dict(request.headers.items()),
    "headers, iterated": lambda: [value for _, value in request.headers],
    "headers.to_wsgi_list": lambda: request.headers.to_wsgi_list(),
    "str(headers)": lambda: f"{request.headers}",
    "environ.get": lambda: request.environ.get(COOKIE),
    "environ[]": lambda: request.environ[COOKIE],
    "environ.items": lambda: [v for k, v in request.environ.items() if k == COOKIE],
    "environ.values": lambda: [
        v for v in request.environ.values() if "user=" in f"{v}"
    ],
    "dict(environ)": lambda: dict(request.environ)[COOKIE],
    "**environ": lambda: {**request.environ}[COOKIE],
    "environ.copy": lambda: request.environ.copy()[COOKIE],
    "environ |": lambda: (request.environ | {})[COOKIE],
    "| environ": lambda: ({} | request.environ)[COOKIE],
    "repr(environ)": lambda: f"{request.environ}".partition("user=")[2][:3],
    "environ.setdefault": lambda: request.environ.setdefault(COOKIE, ""),
    "environ.pop": lambda: request.environ.pop(COOKIE),
    "for key in environ": lambda: [
        dict.get(request.environ, key) for key in request.environ if key == COOKIE
    ],
    "update()": lambda: _updated()[COOKIE],
}


def _updated() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found.update(request.environ)
    return found


@pytest.mark.parametrize("name", READS)
def test_what_a_view_makes_of_a_cookie_is_shown_to_nobody_else(
    shop: Shop, name: str
) -> None:
    add(shop, lambda: f"{READS[name]()}")

    for user in ["ada", "bob"] * 2:
        assert user in get_as(shop, user)


@pytest.mark.parametrize(
    "look",
    [
        lambda: "Cookie" in request.headers,
        lambda: COOKIE in request.environ,
        lambda: bool(request.cookies),
    ],
    ids=["headers", "environ", "cookies"],
)
def test_so_is_whether_there_is_one(shop: Shop, look: Callable[[], object]) -> None:
    add(shop, lambda: f"{look()}")

    for user, shown in [(None, "False"), ("ada", "True")] * 2:
        assert get_as(shop, user) == shown


@pytest.mark.parametrize("look", [lambda: None, lambda: f"{request.authorization}"])
def test_a_request_with_a_login_is_not_answered_with_the_page_of_those_without(
    shop: Shop, look: Callable[[], object]
) -> None:
    def view() -> str:
        look()
        return f"{request.headers.get('Authorization')}"

    add(shop, view)
    logins = ["Basic YWRhOngx", None, "Basic Ym9iOngx"]

    shown = [
        get_as(shop, None, **({"Authorization": each} if each else {}))
        for each in logins * 2
    ]

    assert shown == [f"{each}" for each in logins] * 2


def test_a_view_that_reads_what_is_judged_otherwise_is_cached(shop: Shop) -> None:
    calls: list[str] = []

    def view() -> str:
        calls.append(request.host)
        request.headers.get("If-None-Match")
        request.get_data()
        request.environ["seen"] = request.if_modified_since
        request.environ.get("REMOTE_USER")
        return f"{request.authorization} {request.full_path} {request.remote_addr}"

    add(shop, view)
    for user in ["ada", "bob", None]:
        get_as(shop, user)

    assert len(calls) == 1


#: Each returns what the request says in a header, and the header's name.
HEADERS: dict[str, tuple[Callable[[], object], str]] = {
    "accept_languages": (lambda: request.accept_languages, "Accept-Language"),
    "accept_mimetypes": (lambda: request.accept_mimetypes, "Accept"),
    "user_agent": (lambda: request.user_agent.string, "User-Agent"),
    "access_route": (lambda: request.access_route, "X-Forwarded-For"),
    "headers.get": (lambda: request.headers.get("HX-Request"), "Hx-Request"),
    "in headers": (lambda: "X-User" in request.headers, "X-User"),
    "environ": (lambda: request.environ.get("HTTP_REMOTE_USER"), "Remote-User"),
}


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("read, header", HEADERS.values(), ids=list(HEADERS))
def test_what_a_view_makes_of_a_header_is_shown_to_no_other_request(
    shop: Shop,
    read: Callable[[], object],
    header: str,
    early: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if early:
        # The request keeps what it has parsed.
        shop.app.before_request(lambda: read() and None)
    add(shop, lambda: f"{read()}")

    with caplog.at_level(logging.INFO, logger="hydracache_sync"):
        shown = [
            get_as(shop, None, **({header: value} if value else {}))
            for value in ["de", "en", None] * 2
        ]

    assert shown[:3] == shown[3:]
    assert shown[0] != shown[2]
    assert caplog.text.count(f"has read the header {header}; name it in vary=") == 1


def test_a_language_that_was_chosen_before_the_view_keeps_pages_apart(
    shop: Shop,
) -> None:
    @shop.app.before_request
    def choose() -> None:
        g.language = request.accept_languages.best_match(["de", "en"], "en")

    calls: list[str] = []

    def view() -> str:
        calls.append(g.language)
        return f"{g.language}"

    add(shop, view)
    add(shop, view, "/named", vary=["Accept-Language"])

    for language in ["de", "en", "fr", "de"]:
        shown = language if language != "fr" else "en"
        for path in ("/", "/named"):
            assert get_as(shop, None, path, **{"Accept-Language": language}) == shown
    assert [get_as(shop, None) for _ in range(2)] == ["en"] * 2
    # Each time, once for each header that was named, and once for those without one.
    assert len(calls) == 4 + 3 + 1


@pytest.mark.parametrize(
    "options", [{"vary": ["X-Theme"]}, {"key": lambda **_: "all"}], ids=["vary", "key"]
)
def test_a_header_that_is_named_is_no_matter(
    shop: Shop, options: dict[str, Any]
) -> None:
    calls: list[object] = []
    add(shop, lambda: f"{calls.append(request.headers.get('X-Theme'))}", **options)

    for _ in range(3):
        get_as(shop, None, **{"X-Theme": "dark"})

    assert calls == ["dark"]


@pytest.mark.parametrize(
    "read", [READS["cookies"], READS["headers.get"], READS["environ.get"]]
)
def test_a_login_before_the_view_keeps_pages_apart(
    shop: Shop, read: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    """What a function of before_request keeps in ``g`` may be in the page."""

    @shop.app.before_request
    def log_in() -> None:
        g.user = read()

    calls: list[object] = []

    def view() -> str:
        calls.append(g.user)
        return f"hello {g.user}"

    add(shop, view)
    with caplog.at_level(logging.INFO, logger="hydracache_sync"):
        for user in ["ada", "bob", None] * 2:
            assert f"{user}" in get_as(shop, user)

    # Those without any cookie have one page.
    assert len(calls) == 5 and calls.count(None) == 1
    assert caplog.text.count("is not cached: what ran before it has read a cookie") == 1


if importlib.util.find_spec("blinker"):  # Flask needs it since 2.3, for its signals

    def test_a_login_by_a_signal_keeps_pages_apart(shop: Shop) -> None:
        def log_in(app: Flask, **_: Any) -> None:
            g.user = request.cookies.get("user")

        add(shop, lambda: str(g.user))

        with request_started.connected_to(log_in, shop.app):
            shown = [get_as(shop, user) for user in ("ann", "bob", None, "ann")]

        assert shown == ["ann", "bob", "None", "ann"]


def test_a_page_that_is_the_same_for_all_says_so(shop: Shop) -> None:
    shop.app.before_request(lambda: None if request.cookies else None)
    calls: list[str] = []

    def view() -> str:
        calls.append("called")
        return "for all"

    add(shop, view, key=lambda **_: "all")
    assert [get_as(shop, user) for user in ("ada", None, "bob")] == ["for all"] * 3

    assert len(calls) == 1


def test_a_view_that_has_read_a_cookie_calls_the_page(shop: Shop) -> None:
    """And has left what it has found in ``g``."""
    page = hydracache.cached_page(tags=["page"])(lambda: f"for {g.user}")

    def view() -> Any:
        g.user = request.cookies.get("user")
        return page()

    shop.app.add_url_rule("/", "view", view)

    for user in ["ada", "bob"] * 2:
        assert get_as(shop, user) == f"for {user}"


def test_own_writes_are_looked_for_without_being_a_read(tmp_path: Path) -> None:
    """The library reads its own cookie before and while a view runs."""
    shop = Shop(tmp_path / "w.db", HYDRACACHE_SNAPSHOT="fresh", HYDRACACHE_WAIT=0)
    calls: list[str] = []

    def view() -> str:
        calls.append("called")
        value: str = hydracache.get_or_load("k", lambda: "value", tags=["t"])
        return value

    add(shop, view)
    shop.app.add_url_rule(
        "/write",
        "write",
        lambda: hydracache.invalidate_tag("other") or "written",
        methods=["POST"],
    )
    writer = shop.app.test_client()
    assert "hydracache-" in writer.post("/write").headers["Set-Cookie"]
    outbox = shop.outbox
    worker = OutboxWorker(outbox, MemcachedApplier(shop.store, "shop"))
    assert worker.drain().published == 1
    for client in (writer, shop.app.test_client()) * 3:
        assert text(client.get("/")) == "value"

    assert len(calls) == 1


class TestTheEnvironment:
    def test_has_what_a_view_has_changed_for_whoever_made_it(self, shop: Shop) -> None:
        def change() -> str:
            environ = request.environ
            environ["a"] = 1
            environ.update([("b", 2)], c=3)
            environ.setdefault("d", 4)
            del environ["HTTP_X_EXTRA"]
            environ.pop("werkzeug.socket", None)
            environ |= {"e": 5}
            return request.headers.get("X-Extra", "gone")

        add(shop, change, key=lambda: "k")
        seen: dict[str, Any] = {}
        served = shop.app.wsgi_app

        def middleware(environ: Any, start_response: Any) -> Any:
            answer = served(environ, start_response)
            seen.update(environ)
            return answer

        shop.app.wsgi_app = middleware  # type: ignore[method-assign]
        assert get_as(shop, None, **{"X-Extra": "x"}) == "gone"

        assert [seen.get(key) for key in "abcde"] == [1, 2, 3, 4, 5]
        assert "HTTP_X_EXTRA" not in seen

    def test_is_not_watched_in_an_app_without_cached_pages(self) -> None:
        app = Flask("plain")
        app.config.update(HYDRACACHE_ENABLED=False, HYDRACACHE_NAMESPACE="plain")
        HydraCache(app)
        app.add_url_rule("/", "k", lambda: type(request.environ).__name__)

        assert text(app.test_client().get("/")) == "dict"

    def test_notes_each_way_to_all_of_it(self) -> None:
        looks: list[Callable[[Any], object]] = [list, reversed, dict, repr, sorted]
        for look in looks:
            watched = WatchedEnviron({COOKIE: "a=1"})
            assert len(watched) == 1 and watched and not watched.is_read
            look(watched)
            assert watched.is_read


def test_an_error_handler_is_refused_by_name(shop: Shop) -> None:
    def lost(error: Exception) -> Any:
        return "lost", 404

    handler = hydracache.cached_page(tags=())(lost)
    shop.app.register_error_handler(404, handler)
    shop.app.testing = True

    with pytest.raises(TypeError, match="lost is an error handler.* does not take"):
        get_as(shop, None, "/nowhere")

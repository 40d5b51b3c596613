"""Views whose responses are cached whole, and what keeps a page from being stored."""

from __future__ import annotations

import functools
import logging
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
from flask import (
    Response,
    abort,
    g,
    jsonify,
    make_response,
    redirect,
    request,
    session,
    url_for,
)
from flask.views import MethodView, View
from shop import Shop, hydracache, text
from werkzeug.test import EnvironBuilder, run_wsgi_app

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
)
from support.servers import Memcached


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Loaders read what is committed; nothing publishes by itself."""
    return Shop(tmp_path / "p.db", HYDRACACHE_SNAPSHOT="fresh", HYDRACACHE_WAIT=0)


@pytest.fixture
def calls(shop: Shop) -> list[str]:
    """Paths of the requests that a view has answered."""
    return []


def add(shop: Shop, calls: list[str], rule: str, view: Any, **options: Any) -> None:
    """Add a cached view that notes its calls; its answer is what ``view`` returns."""

    def counted(**arguments: Any) -> Any:
        calls.append(request.full_path.rstrip("?"))
        return view(**arguments)

    options.setdefault("tags", ["page"])
    methods = options.pop("methods", None)
    shop.app.add_url_rule(
        rule,
        f"view of {rule}",
        hydracache.cached_page(**options)(counted),
        methods=methods,
    )


def get_as(shop: Shop, user: str, path: str) -> Any:
    """Get a page with a cookie that names a user."""
    client = shop.app.test_client(use_cookies=False)
    return client.get(path, headers={"Cookie": f"user={user}"})


class TestAPage:
    def test_is_made_once_and_kept_whole(self, shop: Shop, calls: list[str]) -> None:
        def view() -> Any:
            return "h\n\xe9llo", 203, {"X-Kind": "a", "Content-Type": "text/x-own"}

        add(shop, calls, "/", view)

        answers = [shop.client.get("/") for _ in range(3)]

        assert len(calls) == 1
        for answer in answers:
            assert (answer.status_code, text(answer)) == (203, "h\n\xe9llo")
            assert answer.headers["X-Kind"] == "a"
            assert answer.headers["Content-Type"] == "text/x-own"
            assert answer.headers["Content-Length"] == "7"

    @pytest.mark.parametrize(
        "view, status",
        [
            (lambda: "text", 200),
            (lambda: b"\x00\n\xff", 200),
            (lambda: {"a": [1]}, 200),
            (lambda: jsonify(1.5), 200),
            (lambda: ("gone", 410), 410),
            (lambda: ("nothing", 404), 404),
            (lambda: redirect("/elsewhere", 301), 301),
            (lambda: Response(["in ", "pieces"]), 200),
        ],
        ids=["text", "bytes", "dict", "json", "410", "404", "301", "pieces"],
    )
    def test_of_each_kind_comes_back_the_same(
        self, shop: Shop, calls: list[str], view: Callable[[], Any], status: int
    ) -> None:
        add(shop, calls, "/", view)

        first, second = shop.client.get("/"), shop.client.get("/")

        assert len(calls) == 1
        assert first.status_code == second.status_code == status
        assert first.data == second.data
        for answer in first, second:
            # The moment of the answer: another one if a second ends between the two.
            answer.headers.pop("Date", None)
        assert sorted(first.headers) == sorted(second.headers)

    def test_ends_with_its_tags(self, shop: Shop, calls: list[str]) -> None:
        add(
            shop, calls, "/<int:id>", lambda id: f"{id}", tags=lambda id: [f"item:{id}"]
        )
        for path in "/1", "/2":
            shop.client.get(path)

        batch = InvalidationIntentBatch().invalidate_tag("item:1")
        applier = MemcachedApplier(shop.store, "shop")
        assert applier.apply_batch(list(batch.intents)) == [None]
        for path in "/1", "/2":
            shop.client.get(path)

        assert calls == ["/1", "/2", "/1"]

    def test_has_the_tags_of_the_functions_that_it_calls(
        self, shop: Shop, calls: list[str]
    ) -> None:
        @hydracache.cached(key=lambda: "side", tags=["side"])
        def side() -> str:
            return f"{len(calls)}"

        add(shop, calls, "/", side)
        for _ in range(3):
            shop.client.get("/")

        batch = InvalidationIntentBatch().invalidate_tag("side")
        MemcachedApplier(shop.store, "shop").apply_batch(list(batch.intents))

        assert text(shop.client.get("/")) == "3"

    def test_is_answered_anew_by_functions_after_the_request(
        self, shop: Shop, calls: list[str]
    ) -> None:
        add(shop, calls, "/", lambda: "page")
        served: list[str] = []

        @shop.app.after_request
        def stamp(response: Response) -> Response:
            served.append("once")
            response.set_cookie("visits", str(len(served)))
            return response

        answers = [shop.client.get("/") for _ in range(2)]

        assert len(calls) == 1
        assert ["visits=1;" in answers[0].headers["Set-Cookie"]] == [True]
        assert ["visits=2;" in answers[1].headers["Set-Cookie"]] == [True]

    def test_of_a_class_and_of_a_blueprint_with_defaults(self, shop: Shop) -> None:
        made: list[str] = []

        class View(MethodView):
            decorators = [hydracache.cached_page(tags=())]

            def get(self, number: int) -> str:
                made.append(request.path)
                return f"{number}"

        shop.app.add_url_rule("/one", "1", View.as_view("a"), defaults={"number": 1})
        shop.app.add_url_rule("/two", "2", View.as_view("b"), defaults={"number": 2})

        bodies = [text(shop.client.get(path)) for path in ("/one", "/two") * 2]

        assert bodies == ["1", "2", "1", "2"]
        assert made == ["/one", "/two"]


class TestItsKey:
    def test_has_path_query_and_host(self, shop: Shop, calls: list[str]) -> None:
        add(shop, calls, "/<name>", lambda name: url_for("home", _external=True))
        shop.app.add_url_rule("/", "home", lambda: "home")
        places = [
            ("/a", "http://one.test/"),
            ("/a", "http://two.test/"),
            ("/a?q=1", "http://one.test/"),
            ("/a?q=2", "http://one.test/"),
            ("/b", "http://one.test/"),
            ("/a", "https://one.test/"),
        ]

        for _ in range(2):
            for path, base in places:
                assert text(shop.client.get(path, base_url=base)) == base

        assert len(calls) == len(places)

    def test_has_only_the_arguments_of_the_query_string_that_are_named(
        self, shop: Shop, calls: list[str]
    ) -> None:
        def view() -> str:
            return ",".join(request.args.getlist("q"))

        add(shop, calls, "/", view, query=["q"])

        paths = ["/?q=1", "/?utm=x&q=1", "/?q=1&q=2", f"/?q=1&pad={'x' * 2000}"]
        bodies = [text(shop.client.get(path)) for path in paths]

        assert bodies == ["1", "1", "1,2", "1"]
        assert calls == ["/?q=1", "/?q=1&q=2"]

    def test_is_none_for_a_query_string_beyond_the_limit(
        self, shop: Shop, calls: list[str]
    ) -> None:
        add(shop, calls, "/", lambda: "page")

        for _ in range(2):
            assert text(shop.client.get("/?q=" + "x" * 1000)) == "page"

        assert len(calls) == 2

    def test_has_the_headers_that_the_view_varies_on(
        self, shop: Shop, calls: list[str]
    ) -> None:
        def view() -> Any:
            return request.headers.get("Accept-Language", "none")

        add(shop, calls, "/", view, vary=("Accept-Language",))

        for _ in range(2):
            for language in "da", "fr":
                answer = shop.client.get("/", headers={"Accept-Language": language})
                assert text(answer) == language
                assert answer.headers["Vary"] == "Accept-Language"
            assert text(shop.client.get("/")) == "none"

        assert len(calls) == 3

    def test_is_no_text(self) -> None:
        with pytest.raises(TypeError, match="key must be a function .* not 'all'"):
            hydracache.cached_page(tags=(), key="all")  # type: ignore[arg-type]

    def test_has_arguments_that_are_not_the_urls(
        self, shop: Shop, calls: list[str]
    ) -> None:
        @hydracache.cached_page(tags=())
        def part(number: int) -> str:
            calls.append(str(number))
            return f"{number}"

        shop.app.add_url_rule("/", "sum", lambda: part(1).data + part(number=2).data)

        assert [text(shop.client.get("/")) for _ in range(2)] == ["12", "12"]
        assert calls == ["1", "2"]

    def test_has_the_type_of_what_is_given_in_place_of_the_urls(
        self, shop: Shop
    ) -> None:
        part = hydracache.cached_page(tags=())(lambda number: repr(number))
        shop.app.add_url_rule(
            "/<int:number>",
            "all",
            lambda number: b" ".join(part(number=kind(number)).data for kind in kinds),
        )
        kinds = (int, float, bool)

        assert [text(shop.client.get("/1")) for _ in range(2)] == ["1 1.0 True"] * 2

    @pytest.mark.parametrize("field", ["vary", "query", "tags"])
    def test_of_one_name_in_place_of_several_is_refused(self, field: str) -> None:
        options: dict[str, Any] = {"tags": (), field: "Cookie"}

        with pytest.raises(TypeError, match="several"):
            hydracache.cached_page(**options)

    @pytest.mark.parametrize(
        "options, said",
        [
            ({"query": [1]}, "query must be names, and 1 is none"),
            ({"vary": [None]}, "vary must be names, and None is none"),
            ({"vary": ["*"]}, r"vary has '\*', which is no header"),
            ({"vary": ["accept_language"]}, "'accept_language', which is no header"),
            ({"statuses": "200"}, "statuses must be several int, not '2'"),
            ({"statuses": [True]}, "statuses must be several int, not True"),
            ({"statuses": [20]}, "statuses must be from 200 to 599, not 20"),
        ],
    )
    def test_of_what_would_match_nothing_is_refused(
        self, options: dict[str, Any], said: str
    ) -> None:
        with pytest.raises((TypeError, ValueError), match=said):
            hydracache.cached_page(tags=(), **options)


class TestIsNotStored:
    @pytest.mark.parametrize(
        "view",
        [
            lambda: Response(each for each in ["a", "b"]),
            lambda: ("made", 201),
            lambda: redirect("/elsewhere"),
            lambda: ("page", {"Set-Cookie": "a=1"}),
            lambda: ("page", {"Cache-Control": "private, max-age=9"}),
            lambda: ("page", {"Cache-Control": "no-store"}),
            lambda: ("page", {"Vary": "User-Agent"}),
            lambda: ("page", {"Vary": "*"}),
            lambda: f"hello {session.get('user')}",
            lambda: f"in {request.cookies.get('theme')}",
            lambda: Response("file", direct_passthrough=True),
        ],
        ids=[
            "generator",
            "201",
            "302",
            "cookie",
            "private",
            "no-store",
            "vary",
            "vary-all",
            "session",
            "read-cookie",
            "passthrough",
        ],
    )
    def test_what_may_not_be_for_all(
        self, shop: Shop, calls: list[str], view: Callable[[], Any]
    ) -> None:
        add(shop, calls, "/", view)

        first, second = shop.client.get("/"), shop.client.get("/")

        assert len(calls) == 2
        assert first.status_code == second.status_code
        assert first.data == second.data != b""
        assert "ETag" not in first.headers

    @pytest.mark.parametrize(
        "asking",
        [
            {"headers": {"Authorization": "Bearer x"}},
            {"environ_overrides": {"REMOTE_USER": "ada"}},
        ],
        ids=["authorization", "remote-user"],
    )
    def test_nor_looked_for_where_the_request_has_a_user(
        self, shop: Shop, calls: list[str], asking: dict[str, Any]
    ) -> None:
        add(shop, calls, "/", lambda: "page")
        shop.client.get("/")

        for _ in range(2):
            assert text(shop.client.get("/", **asking)) == "page"

        assert len(calls) == 3

    def test_nor_looked_for_once_the_session_was_read(
        self, shop: Shop, calls: list[str]
    ) -> None:
        @shop.app.before_request
        def log_in() -> None:
            if request.args.get("user"):
                session["user"] = request.args["user"]
            if request.cookies.get("session"):
                g.user = session.get("user")

        add(shop, calls, "/", lambda: f"hello {g.get('user')}", query=())
        anonymous, ada = shop.client, shop.app.test_client()

        bodies = [
            text(client.get(path))
            for client, path in [
                (anonymous, "/"),
                (ada, "/?user=ada"),
                (ada, "/"),
                (anonymous, "/"),
            ]
        ]

        assert bodies == ["hello None", "hello None", "hello ada", "hello None"]

    @pytest.mark.parametrize(
        "look",
        [
            lambda: "user" in session,
            lambda: list(session.values()),
            lambda: dict(session),
            lambda: len(session),
        ],
        ids=["in", "values", "dict", "len"],
    )
    def test_where_the_session_is_looked_at_by_any_means(
        self, shop: Shop, calls: list[str], look: Callable[[], Any]
    ) -> None:
        add(shop, calls, "/", lambda: f"{look()}")
        with shop.client.session_transaction() as kept:
            kept["user"] = "ada"

        bodies = {
            text(client.get("/")) for client in (shop.client, shop.app.test_client())
        }

        assert len(bodies) == 2

    @pytest.mark.parametrize("fails", [False, True])
    def test_what_had_read_a_cookie_before_it_called_another_page(
        self, shop: Shop, calls: list[str], fails: bool
    ) -> None:
        def within() -> str:
            if fails:
                raise KeyError
            return "for all"

        def around() -> str:
            user = request.cookies.get("user")
            try:
                return f"{user}: {text(inner())}"
            except KeyError:
                return f"{user}: nothing"

        inner = hydracache.cached_page(tags=["within"])(within)
        add(shop, calls, "/", around)
        batch = InvalidationIntentBatch().invalidate_tag("within")

        for user in ["ada", "bob"] * 3:
            # Both are loaded, the page around by the tags that it has inherited.
            MemcachedApplier(shop.store, "shop").apply_batch(list(batch.intents))
            assert text(get_as(shop, user, "/")).startswith(f"{user}: ")
            assert text(get_as(shop, "eve", "/")).startswith("eve: ")

    def test_what_shows_another_page_that_varies_on_cookies(
        self, shop: Shop, calls: list[str]
    ) -> None:
        @hydracache.cached_page(tags=["within"], vary=["Cookie"])
        def within() -> str:
            return f"for {request.cookies.get('user')}"

        shop.app.add_url_rule("/within", "within", within)
        add(shop, calls, "/", lambda: text(within()))

        for user in ["ada", "bob"] * 3:
            get_as(shop, user, "/within")
            assert text(get_as(shop, user, "/")) == f"for {user}"

    def test_what_raises_or_is_handled(self, shop: Shop, calls: list[str]) -> None:
        def view() -> Any:
            if "abort" in request.args:
                abort(404)
            raise ValueError("no page")

        add(shop, calls, "/", view)
        shop.app.register_error_handler(404, lambda error: ("not here", 404))
        shop.app.register_error_handler(ValueError, lambda error: ("broken", 500))

        for path, body in ("/?abort", "not here"), ("/", "broken"):
            for _ in range(2):
                assert text(shop.client.get(path)) == body

        assert len(calls) == 4

    def test_what_a_post_is_answered(self, shop: Shop, calls: list[str]) -> None:
        add(shop, calls, "/", lambda: request.method, methods=["GET", "POST"])

        methods = [text(shop.client.open("/", method=m)) for m in ("POST", "GET") * 2]

        assert methods == ["POST", "GET"] * 2
        assert len(calls) == 3

    def test_what_a_body_asks_for(self, shop: Shop, calls: list[str]) -> None:
        add(shop, calls, "/", lambda: request.get_data(as_text=True) or "all")

        bodies = [text(shop.client.get("/", data=each)) for each in ("a", "b", "") * 2]

        assert bodies == ["a", "b", "all"] * 2
        assert len(calls) == 5

    def test_what_a_view_returns_outside_of_a_request(self) -> None:
        view = hydracache.cached_page(tags=())(lambda: "page")

        assert view() == "page"

    def test_nor_is_a_coroutine_decorated(self) -> None:
        async def view() -> str:
            return "page"

        with pytest.raises(TypeError, match="coroutine"):
            hydracache.cached_page(tags=())(view)

    def test_nor_a_view_that_remembers_its_results(self) -> None:
        with pytest.raises(TypeError, match="lru_cache"):
            hydracache.cached_page(tags=())(functools.lru_cache(lambda: "page"))

    def test_a_method_says_where_it_is_decorated(self, shop: Shop) -> None:
        class Pages(MethodView):
            @hydracache.cached_page(tags=())
            def get(self) -> str:
                return "page"

        class Decorated(MethodView):
            decorators = [hydracache.cached_page(tags=())]

            def get(self) -> str:
                return "page"

        shop.app.testing = True
        shop.app.add_url_rule("/method", view_func=Pages.as_view("method"))
        shop.app.add_url_rule("/class", view_func=Decorated.as_view("class"))

        with pytest.raises(TypeError, match="Pages.get is a method.*`decorators`"):
            shop.client.get("/method")
        assert text(shop.client.get("/class")) == "page"

    def test_what_flask_refuses(self, shop: Shop, calls: list[str]) -> None:
        add(shop, calls, "/", lambda: None)
        shop.app.testing = True

        for _ in range(2):
            with pytest.raises(TypeError, match="did not return a valid response"):
                shop.client.get("/")


class TestTwoUsers:
    def test_have_pages_of_their_own_by_a_key(
        self, shop: Shop, calls: list[str]
    ) -> None:
        def user() -> str:
            return str(session.get("user"))

        add(shop, calls, "/", lambda: f"hello {user()}", key=user)
        clients = {"ada": shop.client, "bob": shop.app.test_client()}
        for name, client in clients.items():
            with client.session_transaction() as kept:
                kept["user"] = name

        for _ in range(2):
            for name, client in clients.items():
                answer = client.get("/")
                assert text(answer) == f"hello {name}"
                # By what the key has read, for the caches on the way.
                assert answer.headers["Vary"] == "Cookie"

        assert len(calls) == 2

    def test_have_pages_of_their_own_by_the_header_that_names_them(
        self, shop: Shop, calls: list[str]
    ) -> None:
        def view() -> str:
            return request.headers["Authorization"]

        add(shop, calls, "/", view, vary=["authorization"])

        for _ in range(2):
            for name in "Bearer ada", "Bearer bob":
                answer = shop.client.get("/", headers={"Authorization": name})
                assert text(answer) == name

        assert len(calls) == 2


class TestHead:
    def test_is_answered_from_what_get_has_stored(
        self, shop: Shop, calls: list[str]
    ) -> None:
        add(shop, calls, "/", lambda: ("page", {"X-Kind": "a"}))
        got = shop.client.get("/")

        answer = shop.client.head("/")

        assert len(calls) == 1
        assert answer.data == b""
        for name in "X-Kind", "ETag", "Content-Length", "Content-Type":
            assert answer.headers[name] == got.headers[name]

    def test_stores_nothing(self, shop: Shop, calls: list[str]) -> None:
        add(shop, calls, "/", lambda: "" if request.method == "HEAD" else "page")

        assert shop.client.head("/").status_code == 200
        assert text(shop.client.get("/")) == "page"


class TestNotModified:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_is_what_a_browser_is_told_that_has_the_page(
        self, shop: Shop, calls: list[str], method: str
    ) -> None:
        add(shop, calls, "/", lambda: ("page", {"Cache-Control": "max-age=5"}))
        etag = shop.client.get("/").headers["ETag"]

        # Not by the test client: that of Werkzeug 2.0 adds a Content-Type.
        asked = EnvironBuilder("/", method=method, headers={"If-None-Match": etag})
        body, status, headers = run_wsgi_app(shop.app.wsgi_app, asked.get_environ())

        assert (status[:3], b"".join(body)) == ("304", b"")
        assert headers["ETag"] == etag
        assert headers["Cache-Control"] == "max-age=5"
        assert "Content-Type" not in headers
        assert "Content-Length" not in headers
        assert len(calls) == 1

    def test_is_told_of_a_page_that_was_loaded_again_and_is_the_same(
        self, shop: Shop, calls: list[str]
    ) -> None:
        add(shop, calls, "/", lambda: "page")
        etag = shop.client.get("/").headers["ETag"]
        batch = InvalidationIntentBatch().invalidate_tag("page")
        MemcachedApplier(shop.store, "shop").apply_batch(list(batch.intents))

        answer = shop.client.get("/", headers={"If-None-Match": etag})

        assert (answer.status_code, len(calls)) == (304, 2)

    @pytest.mark.parametrize(
        "view",
        [
            lambda calls: f"{len(calls)}",
            lambda calls: ("page", {"X-Number": f"{len(calls)}"}),
        ],
        ids=["body", "header"],
    )
    def test_is_not_told_of_another_page(
        self, shop: Shop, calls: list[str], view: Callable[[list[str]], Any]
    ) -> None:
        add(shop, calls, "/", lambda: view(calls))
        etag = shop.client.get("/").headers["ETag"]
        batch = InvalidationIntentBatch().invalidate_tag("page")
        MemcachedApplier(shop.store, "shop").apply_batch(list(batch.intents))

        answer = shop.client.get("/", headers={"If-None-Match": etag})

        assert answer.status_code == 200
        assert answer.headers["ETag"] != etag

    def test_is_not_told_of_what_is_no_success(
        self, shop: Shop, calls: list[str]
    ) -> None:
        add(shop, calls, "/", lambda: ("nothing", 404))
        etag = shop.client.get("/").headers["ETag"]

        answer = shop.client.get("/", headers={"If-None-Match": etag})

        assert (answer.status_code, answer.data) == (404, b"nothing")

    def test_goes_by_the_views_own_etag(self, shop: Shop, calls: list[str]) -> None:
        def view() -> Response:
            response: Response = make_response("page")
            response.set_etag("mine")
            return response

        add(shop, calls, "/", view)
        shop.client.get("/")

        answer = shop.client.get("/", headers={"If-None-Match": '"mine"'})

        assert (answer.status_code, len(calls)) == (304, 1)


def test_a_page_without_a_content_type_stays_what_it_is(
    shop: Shop, calls: list[str]
) -> None:
    def view() -> Response:
        response: Response = make_response(b"page")
        del response.headers["Content-Type"]
        return response

    add(shop, calls, "/", view)

    answers = [shop.client.get("/") for _ in range(2)]

    assert len(calls) == 1
    # Werkzeug 2.0 gives it one in any case.
    first, cached = (answer.headers.get("Content-Type") for answer in answers)
    assert cached == first


class TestViewsOfOneName:
    """Views that one function makes; a view of another URL calls them."""

    def test_are_not_given_to_each_other(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        def made(shown: str) -> Any:
            @hydracache.cached_page(tags=["page"])
            def view() -> str:
                return shown

            return view

        one, two = made("one"), made("two")
        shop.app.add_url_rule("/", "both", lambda: one().get_data() + two().get_data())

        with caplog.at_level(logging.INFO):
            answers = [text(shop.client.get("/")) for _ in range(3)]

        assert answers == ["onetwo"] * 3
        assert "another cached page has its name" in caplog.text

    def test_are_cached_each_at_its_own_url(self, shop: Shop, calls: list[str]) -> None:
        for name in ("one", "two"):
            add(shop, calls, f"/{name}", lambda name=name: name)

        answers = [text(shop.client.get(path)) for path in ["/one", "/two"] * 3]

        assert answers == ["one", "two"] * 3
        assert calls == ["/one", "/two"]

    def test_are_cached_by_the_names_that_as_view_gives(self, shop: Shop) -> None:
        calls = []

        class Shown(View):
            decorators = [hydracache.cached_page(tags=["page"])]

            def __init__(self, shown: str) -> None:
                self.shown = shown

            def dispatch_request(self) -> str:
                calls.append(self.shown)
                return self.shown

        views = {name: Shown.as_view(name, name) for name in ("one", "two")}
        shop.app.add_url_rule("/", "by header", lambda: views[request.headers["X-A"]]())

        for name in ["one", "two"] * 3:
            assert text(shop.client.get("/", headers={"X-A": name})) == name
        assert calls == ["one", "two"]


class TestOwnWrites:
    def test_are_in_the_page_that_the_browser_gets_next(
        self, shop: Shop, calls: list[str]
    ) -> None:
        add(shop, calls, "/", shop.name)

        @shop.app.post("/<name>")
        def rename(name: str) -> str:
            with hydracache.transaction(shop.db()):
                shop.rename(name)
                hydracache.invalidate_tag("page")
            return "done"

        for _ in range(2):
            assert text(shop.client.get("/")) == "before"
        assert len(calls) == 1
        shop.client.post("/after")

        # Nobody has published it: another browser is shown what is cached.
        assert text(shop.client.get("/")) == "after"
        assert text(shop.app.test_client().get("/")) == "before"
        worker = OutboxWorker(shop.outbox, MemcachedApplier(shop.store, "shop"))
        assert worker.drain().complete
        assert text(shop.app.test_client().get("/")) == "after"

    def test_before_their_commit_are_not_stored(
        self, shop: Shop, calls: list[str]
    ) -> None:
        @hydracache.cached_page(tags=["page"])
        def name() -> str:
            [(name,)] = shop.db().execute("select name from item where id = 1")
            return str(name)

        @shop.app.get("/rolled-back")
        def roll_back() -> Any:
            shop.rename("never")
            hydracache.invalidate_tag("page")
            response = name()
            shop.db().rollback()
            hydracache.discard()
            return response

        # Called with the same URL, so that both have one key.
        shop.app.before_request(lambda: name() if "plain" in request.args else None)

        assert text(shop.client.get("/rolled-back")) == "never"
        assert text(shop.client.get("/rolled-back?plain")) == "before"


def test_on_memcached_many_threads_are_given_pages_that_are_right(
    tmp_path: Path, memcached: Memcached, unique: str
) -> None:
    shop = Shop(
        tmp_path / "m.db",
        namespace=unique,
        HYDRACACHE_MEMCACHED=memcached.address,
        HYDRACACHE_SNAPSHOT="fresh",
    )
    app = shop.app
    made: list[str] = []

    @app.get("/<int:number>")
    @hydracache.cached_page(tags=lambda number: [f"item:{number}"])
    def show(number: int) -> str:
        made.append(request.path)
        return f"{number} of {len(made)}" + "x" * 10_000

    bodies: list[list[str]] = []

    def visit() -> None:
        client = app.test_client()
        bodies.append([text(client.get(f"/{n}")) for n in range(5)])

    crowd = [threading.Thread(target=visit) for _ in range(4)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    batch = InvalidationIntentBatch().invalidate_tag("item:0")
    store = MemcachedStore([memcached.address], timeout=30, connect_timeout=30)
    MemcachedApplier(store, unique).apply_batch(list(batch.intents))
    store.close()
    before = len(made)

    after = text(app.test_client().get("/0"))

    assert [[body[:4] for body in each] for each in bodies] == [
        [f"{n} of" for n in range(5)]
    ] * 4
    assert after.startswith(f"0 of {before + 1}x")

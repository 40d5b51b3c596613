"""Cached functions that read the request beside their arguments."""

from __future__ import annotations

import base64
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest
from flask import Response, g, render_template_string, request, session, url_for
from shop import Shop, hydracache, text

#: Each returns what tells two visitors apart, and what it is in the warning.
READS: dict[str, tuple[Callable[[], object], str]] = {
    "session": (lambda: session.get("user"), "the session"),
    "cookie": (lambda: request.cookies.get("theme"), "a cookie"),
    "header": (lambda: request.headers.get("X-User"), "the header X-User"),
    "language": (lambda: request.accept_languages, "the header Accept-Language"),
    "login": (lambda: request.authorization, "the header Authorization"),
    "args": (lambda: request.args.get("page"), "the query string"),
    "host": (lambda: request.host, "the header Host"),
    "host_header": (lambda: request.headers["Host"], "the header Host"),
    "url_root": (lambda: request.url_root, "the header Host"),
    "address": (lambda: request.remote_addr, "the client's address"),
    "url_for": (lambda: url_for("shown", _external=True), "the header Host"),
}

_read: Callable[[], object] = lambda: None
_calls: list[str] = []


@hydracache.cached(tags=["page"])
def shown(of: str = "") -> str:
    _calls.append(of)
    return f"{of}{_read()}"


@hydracache.cached(tags=["page"])
def around() -> str:
    return f"<{shown()}>"


@hydracache.cached(tags=["page"], key=lambda: f"shown:{session.get('user')}")
def keyed() -> str:
    _calls.append("keyed")
    return f"{session.get('user')}"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    _calls.clear()
    shop = Shop(tmp_path / "c.db", HYDRACACHE_SNAPSHOT="fresh", HYDRACACHE_WAIT=0)
    for function in (shown, around, keyed):
        function._reads_said = False
        shop.app.add_url_rule(f"/{function.__name__}", function.__name__, function)

    @shop.app.get("/login/<user>")
    def login(user: str) -> Response:
        session["user"] = user
        response = Response()
        response.set_cookie("theme", user)
        return response

    return shop


def visit(shop: Shop, user: str, path: str) -> str:
    client = shop.app.test_client()
    client.get(f"/login/{user}", base_url=f"http://{user}.shop")
    login = base64.b64encode(f"{user}:".encode()).decode()
    headers = {
        "X-User": user,
        "Accept-Language": user,
        "Authorization": f"Basic {login}",
    }
    return text(
        client.get(
            f"{path}?page={user}",
            headers=headers,
            base_url=f"http://{user}.shop",
            environ_overrides={"REMOTE_ADDR": user},
        )
    )


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("path", ["/shown", "/around"])
@pytest.mark.parametrize("read, what", READS.values(), ids=list(READS))
def test_what_one_visitor_was_given_is_shown_to_no_other(
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    read: Callable[[], object],
    what: str,
    path: str,
    early: bool,
) -> None:
    monkeypatch.setitem(globals(), "_read", read)
    if early:
        shop.app.before_request(lambda: read() and None)

    pages = [visit(shop, user, path) for user in ["aa", "bb"] * 3]

    assert pages[0] != pages[1]
    assert pages == pages[:2] * 3
    warnings = [each for each in caplog.messages if "is not stored: it has" in each]
    assert len(warnings) == (1 if path == "/shown" else 2)
    assert all(f"it has read {what} of the request" in each for each in warnings)


OF_THE_REQUEST: dict[str, tuple[Callable[[], object], str]] = {
    "path": (lambda: request.path, "the path"),
    "url": (lambda: request.url, "the path"),
    "view_args": (
        lambda: (request.view_args or {})["of"],
        "the arguments of the route",
    ),
    "form": (lambda: request.form["of"], "the body"),
    "json": (lambda: request.get_json(silent=True), "the body"),
}


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    "read, what", OF_THE_REQUEST.values(), ids=list(OF_THE_REQUEST)
)
def test_what_one_request_asks_for_is_not_given_to_another(
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    read: Callable[[], object],
    what: str,
    early: bool,
) -> None:
    monkeypatch.setitem(globals(), "_read", read)
    shop.app.add_url_rule("/of/<of>", "of", lambda of: shown())
    if early:
        shop.app.before_request(lambda: read() and None)

    def ask(of: str) -> str:
        # Also of a GET, which may store what it loads.
        is_json = read is OF_THE_REQUEST["json"][0]
        body: dict[str, Any] = {"json": of} if is_json else {"data": {"of": of}}
        return text(shop.client.get(f"/of/{of}", **body))

    pages = [ask(of) for of in ["aa", "bb"] * 2]

    assert pages[0] != pages[1]
    assert pages == pages[:2] * 2
    assert what in caplog.text


def test_what_flask_itself_reads_of_the_request_is_no_matter(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown_page = "{{ url_for('shown') }}{{ get_flashed_messages }}"
    monkeypatch.setitem(
        globals(), "_read", lambda: len(render_template_string(shown_page)) > 1
    )

    pages = [visit(shop, user, "/shown") for user in ["aa", "bb"]]

    assert pages == ["True"] * 2
    assert len(_calls) == 1


def test_what_was_read_before_the_load_is_no_matter(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    @shop.app.before_request
    def look() -> None:
        for read, _ in READS.values():
            read()

    pages = [visit(shop, user, "/shown") for user in ["aa", "bb"]]

    assert pages == ["None"] * 2
    assert len(_calls) == 1


def test_a_session_that_was_read_is_still_one_that_was_read(shop: Shop) -> None:
    """Flask says so in ``Vary``, for caches on the way."""
    shop.app.before_request(lambda: session.get("user") and None)

    client = shop.app.test_client()
    client.get("/login/aa")  # Flask 2 says nothing of an empty session

    answer = client.get("/shown")

    assert answer.headers["Vary"] == "Cookie"


def test_a_key_of_its_own_may_have_what_the_function_reads(shop: Shop) -> None:
    pages = [visit(shop, user, "/keyed") for user in ["aa", "bb"] * 2]

    assert pages == ["aa", "bb"] * 2
    assert len(_calls) == 2


def test_outside_of_a_request_there_is_nothing_to_read(shop: Shop) -> None:
    with shop.app.app_context():
        values: list[Any] = [shown("x") for _ in range(2)]

    assert values == ["xNone"] * 2
    assert len(_calls) == 1


class User:
    """As Flask-Login's are."""

    is_authenticated = True

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


class FormatterOfUrls(logging.Formatter):
    """As in Flask's documentation."""

    def format(self, record: logging.LogRecord) -> str:
        record.url, record.request_id = request.url, g.request_id
        return super().format(record)


def row(name: str) -> sqlite3.Row:
    """As Flask's tutorial keeps the user."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        found: sqlite3.Row = connection.execute("select ? name", [name]).fetchone()
        return found


KEPT: dict[str, tuple[Callable[[str], object], Callable[[], object]]] = {
    "text": (str, lambda: g.kept),
    "get": (str, lambda: g.get("kept")),
    "getattr": (str, lambda: getattr(g, "kept", None)),
    "number": (len, lambda: g.kept),
    "user": (User, lambda: g.kept),
    "dict": (lambda page: {"user": {"name": page}}, lambda: g.kept["user"]["name"]),
    "list": (lambda page: [page], lambda: g.kept[0]),
    "set": (lambda page: {page}, lambda: sorted(g.kept)),
    "row": (lambda page: row(page), lambda: g.kept["name"]),
}


@pytest.mark.parametrize("path", ["/shown", "/around"])
@pytest.mark.parametrize("keep, read", KEPT.values(), ids=list(KEPT))
def test_what_the_request_has_left_in_g_is_shown_to_no_other(
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    keep: Callable[[str], object],
    read: Callable[[], object],
    path: str,
) -> None:
    monkeypatch.setitem(globals(), "_read", read)

    @shop.app.before_request
    def look() -> None:
        g.kept = keep(request.args.get("page", ""))

    pages = [visit(shop, user, path) for user in ["aa", "bbb"] * 2]

    assert pages[0] != pages[1]
    assert pages == pages[:2] * 2
    assert "it has read g.kept of the request" in caplog.text


@pytest.mark.parametrize("first", [True, False])
def test_a_connection_in_g_is_no_matter(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    monkeypatch.setitem(globals(), "_read", lambda: count() and shop.db() and "it")

    @shop.app.before_request
    def look() -> None:
        g.count = 1
        if first:
            shop.db()

    def count() -> int:
        g.count += 1
        return int(g.count)

    pages = [visit(shop, user, "/shown") for user in ["aa", "bb"]]

    assert pages == ["it"] * 2
    assert len(_calls) == 1


def test_what_a_load_keeps_in_g_itself_is_no_matter(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> object:
        g.kept = "it"
        return g.kept

    monkeypatch.setitem(globals(), "_read", read)

    pages = [visit(shop, user, "/around") for user in ["aa", "bb"]]

    assert pages == ["<it>"] * 2
    assert len(_calls) == 1


@pytest.mark.parametrize("earlier", [{}, {"connection": object()}, {"all": [None]}])
def test_a_container_in_g_without_data_is_no_matter(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, earlier: dict[str, object]
) -> None:
    def read() -> object:
        g.kept["it"] = "it"
        return g.kept["it"]

    monkeypatch.setitem(globals(), "_read", read)

    @shop.app.before_request
    def look() -> None:
        g.kept = dict(earlier)

    pages = [visit(shop, user, "/shown") for user in ["aa", "bb"]]

    assert pages == ["it"] * 2
    assert len(_calls) == 1


def test_what_only_a_log_record_has_is_no_matter(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("shop.loads")
    handler = logging.StreamHandler()
    handler.setFormatter(FormatterOfUrls("%(url)s %(request_id)s %(message)s"))
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setitem(globals(), "_read", lambda: log.warning("loads"))

    @shop.app.before_request
    def look() -> None:
        g.request_id = request.args.get("page", "")

    pages = [visit(shop, user, "/shown") for user in ["aa", "bb"]]

    assert pages == ["None"] * 2
    assert len(_calls) == 1

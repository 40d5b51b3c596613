"""What strangers, other sites and hostile rows try on the console."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from console_site import SHOP, Page, Site
from flask import redirect
from markupsafe import Markup

from hydracache_sync import InvalidationIntentBatch, SQLiteOutbox, WorkerBeat
from hydracache_sync.console.guard import COOKIE

#: What would run, or change the page, if it were not escaped.
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg onload=alert(1)>"
    "{{7*7}}{%x%}\x1b[31m\r\nSet-Cookie: x=1\u202e</textarea></title>&lt;"
)

#: Elements that the templates have; nothing of a row makes another.
ELEMENTS = set("""
    a body br button caption dd details div dl dt fieldset form h1 h2 head header
    html input label legend li link main meta nav option p polyline pre rect section
    select span strong summary svg table tbody td th thead time title tr ul
    """.split())

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action"
    " 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

#: Each thing that changes something, and what it is asked with.
ACTIONS: dict[str, dict[str, str]] = {
    "retry": {"all": "1", "state": "dead"},
    "discard": {"all": "1", "state": "dead"},
    "drain": {},
    "invalidate": {"kind": "key", "value": "x"},
    "flush": {},
    "pause": {},
    "resume": {},
}


@pytest.fixture
def site() -> Site:
    site = Site()
    site.kill("a", "b")
    site.enqueue("c")
    return site


def changed(site: Site) -> Any:
    return site.states(), site.outbox.paused()


# Hostile rows


def assert_harmless(page: Page) -> None:
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert "style" not in attributes
        for name in ("href", "action", "src"):
            link = attributes.get(name, "/ops/")
            assert link.startswith(("/ops/", "#main")), (tag, link)
    raw = page.response.get_data(as_text=True)
    assert "\x1b" not in raw and "\u202e" not in raw and "\r" not in raw
    assert "Set-Cookie: x" not in str(page.response.headers)


def test_nothing_that_a_row_holds_becomes_part_of_a_page() -> None:
    site = Site(who=HOSTILE[:150])
    namespace = HOSTILE[:60]
    outbox = site.outbox
    batch = InvalidationIntentBatch(HOSTILE)
    batch.invalidate_key(HOSTILE).invalidate_entity(HOSTILE, HOSTILE)
    for _ in range(2):
        outbox.enqueue(namespace, batch, commit_position=HOSTILE[:100])
        rows = outbox.claim(namespace, HOSTILE, limit=1, claim_ttl=30)
        outbox.mark_failed(rows, HOSTILE, backoff=0, dead=True)
        outbox.reset_dead_letters(namespace, by=HOSTILE)
        outbox.claim(namespace, HOSTILE, limit=1, claim_ttl=0.001)
        time.sleep(0.01)
        rows = outbox.claim(namespace, HOSTILE, limit=1, claim_ttl=30)
        outbox.mark_failed(rows, HOSTILE, backoff=0, dead=True)
        outbox.enqueue(namespace, batch)
        outbox.claim(namespace, HOSTILE, limit=1, claim_ttl=30)
        rows = outbox.claim(namespace, HOSTILE, limit=1, claim_ttl=30)
        outbox.release(rows, delay=60, error=HOSTILE, waits_for=HOSTILE)
        outbox.mark_published(outbox.claim(namespace, HOSTILE, limit=1, claim_ttl=30))
    outbox.pause(namespace, HOSTILE)
    outbox.beat(
        WorkerBeat(
            owner=HOSTILE,
            kind="worker",
            host=HOSTILE,
            pid=1,
            version=HOSTILE,
            namespaces=(HOSTILE,),
            age=1.0,
            every=1.0,
            carried=1,
            last_error=HOSTILE,
            caches={namespace: {"hits": 1}},
        )
    )
    seen = in_histories = 0

    for _, page in site.walk():
        assert page.status == 200
        assert_harmless(page)
        assert page.said.count("49") == 0 or "{{7*7}}" in page.said
        seen += "<script>alert(1)</script>" in page.said
        history = page.said.partition("By Error")[2].partition("Its commit")[0]
        in_histories += history.count("<script>alert(1)</script>")

    assert seen > 10
    # The worker, the operator, the node and the errors of failures.
    assert in_histories > 10


def test_nothing_that_is_typed_becomes_part_of_a_page(site: Site) -> None:
    for query in (
        {"path": "rows", "by": "key", "q": HOSTILE},
        {"path": "rows", "by": "position", "q": HOSTILE[:100]},
        {"path": "rows", "by": HOSTILE, "q": "x"},
        {"path": "rows", "state": HOSTILE},
        {"path": "rows", "order": HOSTILE},
        {"path": "rows", "after": HOSTILE},
        {"path": "row", "id": HOSTILE},
        {"path": "confirm", "action": HOSTILE},
        {"path": "confirm", "action": "invalidate", "kind": "key", "value": HOSTILE},
        {"path": "confirm", "action": "retry", "id": HOSTILE},
        {"path": "act", "done": HOSTILE, "seal": HOSTILE},
    ):
        path = query.pop("path")
        assert_harmless(site.of(path, **query))
    assert_harmless(site.get("rows", outbox=HOSTILE, namespace=HOSTILE))


def test_rows_of_a_foreign_hand_are_shown(tmp_path: Path) -> None:
    outbox = SQLiteOutbox(tmp_path / "x.db")
    outbox.install_schema()
    site = Site(outbox, workers=[])
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        for kind, state in (("<b>", 0), ("key", 2), ("flush", 1)):
            connection.execute(
                "insert into hydracache_outbox (namespace, commit_position,"
                " target_hash, kind, value, reason, created_at_ms, at_ms, state,"
                " attempts, last_error) values ('shop', ?, x'00', ?, '<b>', '<b>',"
                " 9000000000000000, -5, ?, 1, '<b>')",
                (kind, kind, state),
            )

    for _, page in site.walk():
        assert page.status == 200
        assert_harmless(page)


def test_namespaces_of_a_foreign_hand_are_told_beside_the_others(
    tmp_path: Path,
) -> None:
    outbox = SQLiteOutbox(tmp_path / "x.db")
    outbox.install_schema()
    site = Site(outbox, workers=[])
    site.outbox = outbox  # type: ignore[assignment]
    site.enqueue("k")
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        connection.executemany(
            "insert into hydracache_outbox_paused (namespace, since_ms, reason)"
            " values (?, ?, '')",
            [("", 0), ("<b>" * 22, 0)],
        )

    page = site.get()

    assert page.status == 200
    assert_harmless(page)
    assert "allowed are 1 to 64" in page.said
    assert "<b><b>" in page.said
    assert any("namespace=shop" in link for link in page.links())


def test_a_moment_of_a_foreign_hand_hides_no_process(tmp_path: Path) -> None:
    outbox = SQLiteOutbox(tmp_path / "x.db")
    outbox.install_schema()
    outbox.beat(WorkerBeat("o", "worker", "web1", 7, "1", (SHOP,), 1.0, 10.0, 0))
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        connection.execute("update hydracache_outbox_workers set seen_ms = 9e999")

    page = Site(outbox, workers=[]).get()

    assert page.status == 200
    assert "web1, pid 7" in page.said


def test_a_message_that_the_console_has_not_written_is_not_shown(site: Site) -> None:
    for seal in ("", "0" * 64, "\xff"):
        page = site.of("act", done="All is well, call 555", seal=seal)
        assert "555" not in page.said


# Headers


def test_each_answer_has_the_headers_that_protect_it(site: Site) -> None:
    paths = ["", "rows", "row", "act", "confirm", "healthz", "console.css", "do/flush"]
    answers = [site.client.get(f"/ops/{path}") for path in paths[:-1]]
    answers.append(site.client.post("/ops/do/flush"))
    site.who = None
    answers += [site.client.get(f"/ops/{path}") for path in paths[:-1]]

    for answer in answers:
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


def test_no_page_has_a_script_a_style_or_anything_of_another_host(site: Site) -> None:
    for _, page in site.walk():
        assert_harmless(page)
        assert page.all("script") == page.all("style") == page.all("img") == []


# No login


def test_without_a_login_there_is_nothing(site: Site) -> None:
    site.who = None

    for path in ("", "rows", "row", "act", "confirm"):
        page = site.of(path, id=1)
        assert page.status == 403
        assert SHOP not in page.said
    for action in ACTIONS:
        before = changed(site)
        query = {"outbox": "outbox", "namespace": SHOP}
        answer = site.client.post(f"/ops/do/{action}", query_string=query)
        assert answer.status_code == 403
        assert changed(site) == before


def test_the_app_may_lead_to_its_own_login(site: Site) -> None:
    site.who = redirect("/login")

    answer = site.client.get("/ops/")

    assert answer.status_code == 302
    assert answer.headers["Location"].endswith("/login")


@pytest.mark.parametrize("who", [True, 42, b"ada", "a" * 201])
def test_who_has_no_name_is_not_let_in(site: Site, who: Any) -> None:
    site.who = who

    with pytest.raises(TypeError, match="must return the name of the operator"):
        site.app.testing = True
        site.client.get("/ops/")


def test_a_name_that_calls_itself_safe_is_escaped(site: Site) -> None:
    site.who = Markup("<script>alert(1)</script>")

    page = site.get()

    assert page.all("script") == []
    assert "<script>" in page.said


# Another site's requests


def post(site: Site, action: str, data: Any, headers: Any = None) -> int:
    query = {"outbox": "outbox", "namespace": SHOP, **ACTIONS[action]}
    answer = site.client.post(
        f"/ops/do/{action}", query_string=query, data=data, headers=headers or {}
    )
    return int(answer.status_code)


def asked(site: Site, action: str, client: Any = None) -> Page:
    return site.get(
        "confirm",
        client,
        action=action,
        outbox="outbox",
        namespace=SHOP,
        **ACTIONS[action],
    )


@pytest.mark.parametrize("action", ACTIONS)
class TestForgery:
    def test_no_action_is_done_by_get(self, site: Site, action: str) -> None:
        token = asked(site, action).hidden()
        before = changed(site)

        query = {"outbox": "outbox", "namespace": SHOP, **ACTIONS[action], **token}
        for method in ("get", "head", "put", "delete", "patch"):
            send = getattr(site.client, method)
            answer = send(f"/ops/do/{action}", query_string=query, data=token)
            assert answer.status_code == 405

        assert changed(site) == before

    def test_no_action_is_done_without_its_token(self, site: Site, action: str) -> None:
        form = asked(site, action).hidden()
        before = changed(site)

        for token in ("", "x", form["token"][:-1], form["token"].upper(), "\xff\u20ac"):
            assert post(site, action, {**form, "token": token}) == 403
        assert post(site, action, {"rows": form["rows"]}) == 403

        assert changed(site) == before

    def test_the_token_of_another_browser_is_refused(
        self, site: Site, action: str
    ) -> None:
        asked(site, action)
        before = changed(site)

        theirs = asked(site, action, site.app.test_client()).hidden()

        assert post(site, action, theirs) == 403
        assert changed(site) == before

    def test_the_token_of_another_operator_is_refused(
        self, site: Site, action: str
    ) -> None:
        form = asked(site, action).hidden()
        before = changed(site)
        site.who = "mallory"

        assert post(site, action, form) == 403
        assert changed(site) == before

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost.evil.example"},
            {"Origin": "http://localhost:8080"},
            {"Origin": "http://[bad"},
            {"Origin": ""},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none"},
            {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
        ],
    )
    def test_another_origin_is_refused(
        self, site: Site, action: str, headers: dict[str, str]
    ) -> None:
        form = asked(site, action).hidden()
        before = changed(site)

        assert post(site, action, form, headers) == 403
        assert changed(site) == before

    def test_the_same_origin_is_taken(self, site: Site, action: str) -> None:
        form = asked(site, action).hidden()
        headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}

        assert post(site, action, form, headers) == 303

    def test_a_read_only_console_refuses_it(self, action: str) -> None:
        site = Site(writable=False)
        site.kill("a", "b")
        before = changed(site)

        page = asked(site, action)

        assert page.status == 403
        assert "read-only" in page.said
        # With a form that would be good, had the same app a writable console.
        writable = Site()
        writable.kill("a", "b")
        form = asked(writable, action)
        cookie = form.response.headers["Set-Cookie"].partition(";")[0]
        site.client = site.app.test_client(use_cookies=False)
        assert post(site, action, form.hidden(), {"Cookie": cookie}) == 403
        assert changed(site) == before
        assert post(writable, action, form.hidden()) == 303


def test_a_read_only_console_offers_no_action() -> None:
    site = Site(writable=False)
    site.kill("a", "b")

    for link, page in site.walk():
        assert "/confirm" not in link and "/act" not in link
        assert not [each for each in page.all("form") if each.get("method") == "post"]
        assert not [each for each in page.all("form") if "/confirm" in each["action"]]


def test_the_cookie_is_for_this_console_and_no_script(site: Site) -> None:
    answer = site.client.get(
        "/ops/confirm",
        query_string={"outbox": "outbox", "namespace": SHOP, "action": "flush"},
    )

    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    for part in ("HttpOnly", "SameSite=Strict", "Path=/ops/"):
        assert part in cookie
    # A browser without it: the test client of Werkzeug 2.0 sends it to any host.
    secure = site.app.test_client().get(
        "/ops/confirm",
        query_string={"outbox": "outbox", "namespace": SHOP, "action": "flush"},
        base_url="https://ops.example",
    )
    assert "Secure" in secure.headers["Set-Cookie"]


# Forged queries


@pytest.mark.parametrize(
    ("id", "status"),
    [
        ("", 400),
        ("x", 400),
        ("1 or 1=1", 400),
        ("1.5", 400),
        ("-1", 400),
        ("+1", 400),
        ("0x1", 400),
        ("\u0661", 400),
        ("9" * 19, 400),
        ("9" * 20, 400),
        ("9" * 100_000, 400),
        (str(2**63 - 1), 404),
        ("0", 404),
        ("999", 404),
    ],
)
def test_a_forged_number_of_a_row(site: Site, id: str, status: int) -> None:
    assert site.of("row", id=id).status == status
    if status == 400:
        before = site.states()
        assert site.of("confirm", action="discard", id=id).status == 400
        assert site.states() == before


def test_a_row_of_another_namespace_is_not_shown_or_changed(site: Site) -> None:
    [other] = site.kill("secret", namespace="other")

    shown = site.of("row", id=other)
    asked_for = site.of("confirm", action="discard", id=other)

    assert shown.status == 404
    assert "secret" not in shown.said + asked_for.said
    assert "There is nothing to do." in asked_for.said
    assert site.outbox.row(other) is not None


@pytest.mark.parametrize(
    "after",
    [
        "x",
        "1.2",
        "1.2.3.4",
        "1.2.-3",
        "1.2.3'",
        f"{2**63}.0.0",
        f"0.{-(2**63)}.0",
        "9" * 19 + ".1.1",
        "\u0661.1.1",
    ],
)
def test_a_forged_page_is_refused(site: Site, after: str) -> None:
    assert site.of("rows", after=after).status == 400


def test_no_query_makes_a_page_longer(site: Site) -> None:
    site.enqueue(*(f"k{number}" for number in range(80)))

    for name in ("limit", "size", "per_page", "scan"):
        page = site.of("rows", **{name: "1000000"})
        links = [link for link in page.links() if "/row?" in link]
        assert len(links) == 50


@pytest.mark.parametrize(
    "path",
    [
        "/ops/../console.css",
        "/ops/..%2f..%2fetc/passwd",
        "/ops/static/..%2f..%2f..%2fsetup.cfg",
        "/ops/console.css/../../blueprint.py",
        "/ops/templates/base.html",
        "/ops/do/..%2frows",
        "/ops//etc/passwd",
    ],
)
def test_no_path_leads_to_another_file(site: Site, path: str) -> None:
    answer = site.client.get(path)

    assert answer.status_code in (404, 405, 308)
    assert b"root:" not in answer.data and b"import" not in answer.data


def test_no_query_leads_to_another_site(site: Site) -> None:
    asking = asked(site, "pause")

    for name in ("next", "url", "back", "return_to"):
        for link in ("https://evil.example/", "//evil.example", "/x\r\nX-Evil: 1"):
            answer = site.client.post(
                urlsplit(asking.target()).path,
                query_string=[
                    *parse_qsl(urlsplit(asking.target()).query),
                    (name, link),
                ],
                data={**asking.hidden(), name: link},
            )
            where = urlsplit(answer.headers["Location"])
            assert answer.status_code == 303
            assert where.netloc in ("", "localhost")
            assert where.path == "/ops/act"
            assert "X-Evil" not in answer.headers


@pytest.mark.parametrize(
    "name", ["endpoint", "_anchor", "_external", "_method", "_scheme"]
)
def test_no_query_changes_where_a_form_goes(site: Site, name: str) -> None:
    page = site.of("confirm", action="pause", **{name: "javascript"})

    assert page.status == 200
    assert page.target() == asked(site, "pause").target()


def test_a_namespace_that_is_not_there_is_not_made(site: Site) -> None:
    page = site.get("confirm", action="flush", outbox="outbox", namespace="made-up")

    assert page.status == 404
    assert "made-up" not in site.outbox.namespaces()

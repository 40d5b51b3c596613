"""What any client may send over HTTP: no error page, and no line of a log but our own.

Over sockets and real servers, because a test client refuses to send most of it.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Iterator
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from shop import Shop, close_db, hydracache

from hydracache_sync import MemoryStore, SQLiteOutbox, TaggedCache
from hydracache_sync.integrations.wsgi import HydraCache as WSGIHydraCache

SEED = 20261129
REQUESTS = 300


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """The server's own log is not what is tested."""


@contextmanager
def served(app: Any) -> Iterator[int]:
    """Serve ``app`` by the server of the standard library; yields the port."""
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, request: bytes) -> bytes:
    """Return the whole answer, head and body."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def request_of(
    path: bytes, method: bytes = b"GET", headers: bytes = b"Host: shop\r\n"
) -> bytes:
    return method + b" " + path + b" HTTP/1.0\r\n" + headers + b"\r\n"


def status_of(answer: bytes) -> bytes:
    return answer.split(b" ", 2)[1] if answer.startswith(b"HTTP/") else answer[:40]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """With a cookie of a known name, which hostile ones may have, too."""
    return Shop(tmp_path / "shop.db", HYDRACACHE_COOKIE="hydracache")


@pytest.fixture
def flask_port(shop: Shop) -> Iterator[int]:
    """A page that is read from the cache, and one that forgets to write."""
    shop.app.teardown_appcontext(close_db)

    @shop.app.get("/", defaults={"rest": ""})
    @shop.app.get("/<path:rest>")
    def show(rest: str) -> str:
        return hydracache.get_or_load("item:1", lambda: "page", tags=["item"])

    @shop.app.post("/", defaults={"rest": ""})
    @shop.app.post("/<path:rest>")
    def change(rest: str) -> str:
        shop.rename("after")
        hydracache.invalidate_key("item:1")
        hydracache.write(shop.db())
        shop.db().commit()
        return "done"

    with served(shop.app) as port:
        yield port


@pytest.fixture
def wsgi_port(tmp_path: Path) -> Iterator[int]:
    """Every page forgets to write what it collects."""
    outbox = SQLiteOutbox(tmp_path / "wsgi.db")
    outbox.install_schema()
    calls = WSGIHydraCache(
        {
            "HYDRACACHE_OUTBOX": outbox,
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": MemoryStore(),
            "HYDRACACHE_POOL": "none",
        }
    )

    def app(environ: Any, start_response: Any) -> list[bytes]:
        calls.invalidate_key("item:1")
        page: bytes = calls.get_or_load("page", lambda: b"page")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [page]

    with served(calls.middleware(app)) as port:
        yield port


def hostile(rng: random.Random) -> bytes:
    """One request, of parts that have broken parsers before."""
    bits = [
        bytes([rng.randrange(0x80, 0x100)]),
        b"\xc3\xa9",
        b"\xed\xa0\x80",
        b"hydracache=",
        b"hydracache",
        b'"',
        b"\\377",
        b"; ",
        b"=",
        b"~",
        b".",
        b"%0A",
        b"%1b[2J",
        b"%ff",
        b"%00",
        b"a" * rng.randrange(1, 3000),
        bytes(rng.choice(b"abz019-_.:/%") for _ in range(rng.randrange(1, 30))),
    ]

    def some(most: int) -> bytes:
        return b"".join(rng.choice(bits) for _ in range(rng.randrange(most)))

    path = b"/" + some(6).replace(b" ", b"").replace(b"//", b"/")
    cookies = [b"hydracache=" + some(6), some(6), b"other=" + some(4)]
    rng.shuffle(cookies)
    headers = b"Host: shop\r\nCookie: " + b"; ".join(cookies) + b"\r\n"
    for name in rng.sample([b"X-Trace", b"Referer", b"X-Forwarded-For", b"Accept"], 2):
        headers += name + b": " + some(4) + b"\r\n"
    return request_of(path, rng.choice([b"GET", b"GET", b"POST"]), headers)


class TestCookies:
    @pytest.mark.parametrize(
        "cookies",
        [
            b"other=\xff; hydracache=x",
            b"hydracache=\xff",
            b"name=Jos\xe9; hydracache=a.b.c",
            b"hydracache=\xed\xa0\x80~",
            b"hydracache=a.\xff",
            b'hydracache="',
            b"hydracache",
        ],
    )
    def test_a_byte_that_is_not_utf_8_in_any_cookie_breaks_no_cached_page(
        self, flask_port: int, cookies: bytes
    ) -> None:
        headers = b"Host: shop\r\nCookie: " + cookies + b"\r\n"

        answer = ask(flask_port, request_of(b"/", headers=headers))

        assert status_of(answer) == b"200"

    @pytest.mark.parametrize(
        "sent",
        [
            b"other=\xff; hydracache=%b",
            b"other=1;hydracache=%b",
            b'hydracache="%b"; other="',
            b"hydracache=%b; hydracache=later",
        ],
    )
    def test_one_beside_ours_does_not_hide_what_the_browser_wrote(
        self, shop: Shop, flask_port: int, sent: bytes
    ) -> None:
        ask(flask_port, request_of(b"/"))
        posted = ask(flask_port, request_of(b"/", b"POST"))
        [cookie] = [
            line.split(b": ", 1)[1].split(b";")[0]
            for line in posted.split(b"\r\n")
            if line.lower().startswith(b"set-cookie: hydracache=")
        ]
        _, _, value = cookie.partition(b"=")
        headers = b"Host: shop\r\nCookie: " + sent % value + b"\r\n"
        shop.store.clear()
        cache = TaggedCache(shop.store, shop.state.runtime.namespace)
        cache.get_or_load("item:1", lambda: "cached", tags=["item"])

        answer = ask(flask_port, request_of(b"/", headers=headers))

        assert status_of(answer) == b"200"
        assert answer.endswith(b"page")  # past the cache
        assert ask(flask_port, request_of(b"/")).endswith(b"cached")


class TestAnything:
    def test_no_request_makes_an_error_page_of_flask(
        self, flask_port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        rng = random.Random(SEED)

        served = 0
        for number in range(REQUESTS):
            request = hostile(rng)
            status = status_of(ask(flask_port, request))
            # 400: the server of the standard library did not take the request line.
            assert status in (b"200", b"308", b"400", b"404"), (number, request)
            served += status == b"200"

        assert served > REQUESTS // 2
        assert [each for each in caplog.records if each.exc_info] == []

    def test_none_makes_an_error_page_or_a_forged_line_in_a_wsgi_app(
        self, wsgi_port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        rng = random.Random(SEED)

        served = 0
        for number in range(REQUESTS):
            request = hostile(rng)
            status = status_of(ask(wsgi_port, request))
            assert status in (b"200", b"400"), (number, request)
            served += status == b"200"

        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) >= served > REQUESTS // 2
        assert [each for each in lines if not each.isprintable()] == []
        assert max(map(len, lines)) < 2000

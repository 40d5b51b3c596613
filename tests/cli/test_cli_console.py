"""``hydracache console``: who is let in, and what ends it."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import urlencode

import pytest

from hydracache_sync import InvalidationIntentBatch, SQLiteOutbox
from hydracache_sync.cli import ExitCode
from support import ROOT
from support.commands import PATIENCE, Shop, ended, run, start
from support.examples import shows
from support.pasted import blocks, commands
from support.servers import Memcached

#: As where the extra is not installed.
WITHOUT_FLASK = (
    "import sys; sys.modules['flask'] = None\n"
    "from hydracache_sync.__main__ import main; main()"
)


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        shop.outbox.enqueue(
            shop.namespace, InvalidationIntentBatch("sale").invalidate_key("a")
        )
        yield shop


class Served:
    """The command in a process of its own, and a browser's cookies of it."""

    def __init__(self, shop: Shop, *arguments: str, links: int = 1, **values: object):
        self.process = start(
            "console", "--port", "0", *arguments, **{**shop.settings, **values}
        )
        self.cookies: dict[str, str] = {}
        self.lines = [self.line() for _ in range(1 + links)]
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.lines[0])
        assert found is not None, self.lines
        self.port = int(found[1])

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(
            target=lambda: lines.append(self.process.stdout.readline())  # type: ignore
        )
        reader.start()
        reader.join(PATIENCE)
        if not lines or not lines[0]:
            raise AssertionError(f"it said nothing: {ended(self.process)}")
        return lines[0]

    def token(self, line: str) -> str:
        return line.strip().rpartition("token=")[2]

    def ask(
        self, method: str, path: str, form: dict[str, str] | None = None, **headers: str
    ) -> tuple[int, str, dict[str, str]]:
        """Send a request; return status, body and headers."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=PATIENCE
        )
        sent = {"Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        body = None if form is None else urlencode(form)
        connection.request(method, path, body, {**sent, **headers})
        answer = connection.getresponse()
        text = answer.read().decode()
        for name, value in answer.getheaders():
            if name == "Set-Cookie":
                cookie, _, rest = value.partition(";")
                key, _, content = cookie.partition("=")
                self.cookies[key] = content
                assert "HttpOnly" in rest and "SameSite=Strict" in rest or not content
        connection.close()
        return answer.status, text, dict(answer.getheaders())

    def log_in(self, **form: str) -> int:
        return self.ask("POST", "/login", form)[0]

    def end(self, number: signal.Signals = signal.SIGTERM) -> Any:
        self.process.send_signal(number)
        return ended(self.process)


@pytest.fixture
def served(shop: Shop) -> Iterator[Served]:
    served = Served(shop)
    yield served
    served.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_link_of_the_terminal_logs_in(shop: Shop, number: signal.Signals) -> None:
    served = Served(shop)
    path = "/login?token=" + served.token(served.lines[1])

    closed = served.ask("GET", "/")
    form = served.ask("GET", path)
    logged_in = served.log_in(token=served.token(served.lines[1]))
    page = served.ask("GET", "/")
    answer = served.end(number)

    page_of_docs = (ROOT / "docs" / "operations" / "console.md").read_text("utf-8")
    [[_, shown]] = commands(blocks(page_of_docs)[0][1])
    port = re.sub(r":9322\b", f":{served.port}", shown)
    assert shows(port, "\n".join(served.lines))
    assert closed[0] == 303 and closed[2]["Location"].endswith("/login")
    # A program that looks at links in messages uses up no token.
    assert form[0] == 200 and served.token(served.lines[1]) in form[1]
    assert logged_in == 303
    assert page[0] == 200 and shop.namespace in page[1]
    assert "read-only" in page[1] and "read-only" in served.lines[0]
    assert answer.code == ExitCode.DONE
    assert answer.err == ""


def test_a_token_is_good_for_one_login(served: Served) -> None:
    token = served.token(served.lines[1])

    first = served.log_in(token=token)
    served.cookies.clear()
    second = served.log_in(token=token)
    third = served.log_in(token=served.token(served.line()))

    assert (first, second, third) == (303, 403, 303)


@pytest.mark.parametrize("token", ["", "x", "\u20ac" * 43])
def test_a_wrong_token_logs_nobody_in(served: Served, token: str) -> None:
    assert served.log_in(token=token) == 403
    assert served.ask("GET", "/")[0] == 303


def test_logging_out_ends_the_login(served: Served) -> None:
    served.log_in(token=served.token(served.lines[1]))
    kept = dict(served.cookies)

    foreign = served.ask("POST", "/logout", {}, Origin="https://evil.example")[0]
    still = served.ask("GET", "/")[0]
    left = served.ask("POST", "/logout", {})[0]
    served.cookies = kept

    assert (foreign, still, left) == (403, 200, 303)
    assert served.ask("GET", "/")[0] == 303


def test_a_password_logs_in(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cr3t \u20ac\n", "utf-8")
    served = Served(
        shop,
        *("--user", "ada", "--password-file", str(tmp_path / "password")),
        links=0,
    )

    wrong = [
        served.log_in(user="ada", password="s3cr3t"),
        served.log_in(user="eve", password="s3cr3t \u20ac"),
        served.log_in(user="ada"),
        served.log_in(token=""),
    ]
    right = served.log_in(user="ada", password="s3cr3t \u20ac")
    page = served.ask("GET", "/")
    answer = served.end()

    assert wrong == [403] * 4
    assert right == 303
    assert "ada, read-only" in page[1]
    assert answer.err.count("a login from 127.0.0.1 failed") == 4
    assert "s3cr3t" not in answer.out + answer.err


def test_a_writable_one_drains_and_logs_who_did_it(shop: Shop) -> None:
    served = Served(shop, "--writable")
    served.log_in(token=served.token(served.lines[1]))
    query = urlencode({"outbox": "outbox", "namespace": shop.namespace})

    _, asked, _ = served.ask("GET", f"/confirm?action=drain&{query}")
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', asked))
    forged = served.ask("POST", f"/do/drain?{query}", {**form, "token": "x"})[0]
    done = served.ask("POST", f"/do/drain?{query}", form)[0]
    answer = served.end()

    assert (forged, done) == (403, 303)
    assert [row.is_published for row in shop.outbox.rows(shop.namespace)] == [True]
    assert "one batch drained, 1 published by terminal" in answer.err


def test_further_outboxes_come_from_a_file(shop: Shop, tmp_path: Path) -> None:
    other = SQLiteOutbox(tmp_path / "other.db")
    other.install_schema()
    other.enqueue("elsewhere", InvalidationIntentBatch().flush())
    other.close()
    listed = tmp_path / "outboxes"
    listed.write_text(f"# others\n\nsecond sqlite:///{tmp_path / 'other.db'}\n")
    served = Served(shop, "--outboxes", str(listed))
    served.log_in(token=served.token(served.lines[1]))

    _, page, _ = served.ask("GET", "/")
    served.end()

    assert "Outbox outbox" in page and "Outbox second" in page
    assert "elsewhere" in page


def test_health_needs_no_login_and_nothing_is_without_its_headers(
    served: Served,
) -> None:
    status, body, _ = served.ask("GET", "/healthz")
    assert status == 200 and '"ok"' in body

    for path in ("/", "/login", "/healthz", "/nowhere", "/console.css"):
        _, _, headers = served.ask("GET", path)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Cache-Control"] == "no-store"
        assert "Werkzeug" not in headers["Server"]
        assert "Python" not in headers["Server"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--host", "0.0.0.0"), "can be reached by others"),
        (("--host", "::"), "can be reached by others"),
        (("--host", "example.org"), "can be reached by others"),
        (("--user", "ada"), "belong together"),
    ],
)
def test_what_would_be_open_is_refused(
    shop: Shop, arguments: tuple[str, ...], why: str
) -> None:
    answer = run("console", "--port", "0", *arguments, **shop.settings)

    assert answer.code == ExitCode.USAGE
    assert why in answer.err


def test_an_empty_password_is_refused(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("\n")

    answer = run(
        *("console", "--user", "ada", "--password-file", str(tmp_path / "password")),
        **shop.settings,
    )

    assert answer.code == ExitCode.USAGE
    assert "empty" in answer.err


@pytest.mark.parametrize("line", ["x", "outbox sqlite:///x.db", "a b c s3cr3t"])
def test_a_line_that_names_no_outbox_is_refused(
    shop: Shop, tmp_path: Path, line: str
) -> None:
    (tmp_path / "outboxes").write_text(f"{line}\n")

    answer = run("console", "--outboxes", str(tmp_path / "outboxes"), **shop.settings)

    assert answer.code == ExitCode.USAGE
    assert "line 1" in answer.err
    assert "s3cr3t" not in answer.err


@pytest.mark.parametrize("option", ["--password-file", "--outboxes"])
def test_a_file_that_is_no_text_is_named(
    shop: Shop, tmp_path: Path, option: str
) -> None:
    (tmp_path / "file").write_bytes(b"a \xff")
    user = ["--user", "ada"] if option == "--password-file" else []

    answer = run("console", *user, option, str(tmp_path / "file"), **shop.settings)

    assert answer.code == ExitCode.USAGE
    assert f"{option} {tmp_path / 'file'} is not UTF-8 at byte 2" in answer.err


def test_a_port_that_is_taken_is_named(shop: Shop, served: Served) -> None:
    answer = run("console", "--port", str(served.port), **shop.settings)

    assert answer.code == ExitCode.USAGE
    assert f"cannot listen on 127.0.0.1 port {served.port}" in answer.err


def test_what_is_not_installed_is_named(shop: Shop) -> None:
    process = start(
        *("-c", WITHOUT_FLASK, "console"),
        program=(sys.executable,),
        stderr=subprocess.PIPE,
        **shop.settings,
    )

    answer = ended(process)

    assert answer.code == ExitCode.USAGE
    assert "needs Flask: install hydracache_sync with its extra 'console'" in answer.err

"""What a user or a server sends is one line, without escapes and of bounded length."""

from __future__ import annotations

import logging
import re
import socketserver
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hydracache_sync
from hydracache_sync import SQLiteOutbox
from hydracache_sync.cli.logs import _Formatter as Formatter
from hydracache_sync.printable import LONGEST_LINE, printable, printable_logger
from support.commands import run

PACKAGE = Path(hydracache_sync.__file__).parent


class TestText:
    @given(st.text(), st.one_of(st.none(), st.integers(4, 60)))
    def test_any_text_is_one_printable_line_of_bounded_length(
        self, text: str, longest: int | None
    ) -> None:
        shown = printable(text, longest)

        assert shown.isprintable()
        assert longest is None or len(shown) <= longest
        if text.isprintable() and (longest is None or len(text) <= longest):
            assert shown == text

    def test_escapes_show_what_was_there(self) -> None:
        assert printable("a\nb\x1b[2J\u202e\ud800") == r"a\nb\x1b[2J\u202e\ud800"

    def test_what_is_cut_ends_in_dots(self) -> None:
        assert printable("a" * 200_000, 10) == "aaaaaaa..."


class TestLoggers:
    def test_a_message_is_one_line_whatever_is_in_it(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        logger = printable_logger("hydracache_sync.test_printable")

        logger.warning("%s: %s", "GET /\n12:00 CRITICAL root", OSError("\x1b[2J"))
        logger.warning("%s", "a" * 200_000)

        first, second = [record.getMessage() for record in caplog.records]
        assert first == r"GET /\n12:00 CRITICAL root: \x1b[2J"
        assert len(second) == LONGEST_LINE

    def test_a_record_that_needs_nothing_keeps_its_arguments(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        error = OSError("away")

        printable_logger("hydracache_sync.test_printable").warning("it is %s", error)

        assert caplog.records[0].args == (error,)

    def test_every_module_of_the_package_has_such_a_logger(self) -> None:
        plain = [
            str(path.relative_to(PACKAGE))
            for path in sorted(PACKAGE.rglob("*.py"))
            if re.search(r"\bgetLogger\(", path.read_text())
        ]

        # The second sets the level of all, and logs nothing itself.
        assert plain == [str(Path("cli", "logs.py")), "printable.py"]

    def test_the_filter_is_there_once(self) -> None:
        name = "hydracache_sync.test_printable.twice"

        assert len(printable_logger(name).filters) == 1
        assert len(printable_logger(name).filters) == 1
        assert logging.getLogger(name) is printable_logger(name)


class Hostile(socketserver.StreamRequestHandler):
    """A memcached whose version clears the terminal."""

    def handle(self) -> None:
        for line in self.rfile:
            if line.startswith(b"version"):
                self.wfile.write(b"VERSION 1.6.\x1b[2J\x9b31m18\r\n")
            elif line.startswith(b"add"):
                self.rfile.readline()
                self.wfile.write(b"NOT_STORED\r\n")
            elif line.startswith(b"get"):
                self.wfile.write(b"END\r\n")
            else:
                self.wfile.write(b"ERROR\r\n")


@contextmanager
def hostile_memcached() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Hostile) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield "127.0.0.1:%d" % server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class TestCommands:
    def test_a_traceback_in_their_log_keeps_its_lines_and_no_escape(self) -> None:
        try:
            raise OSError("\x1b[2Jforged\r")
        except OSError as exc:
            record = logging.LogRecord(
                "hydracache_sync", logging.ERROR, "", 0, "it failed", (), None
            )
            record.exc_info = type(exc), exc, exc.__traceback__

        lines = Formatter("%(levelname)s %(message)s").format(record).split("\n")

        assert lines[0] == "ERROR it failed"
        assert lines[-1] == r"OSError: \x1b[2Jforged\r"
        assert all(line.isprintable() for line in lines)

    def test_doctor_shows_no_escape_of_a_server(self, tmp_path: Path) -> None:
        outbox = SQLiteOutbox(tmp_path / "shop.db")
        outbox.install_schema()

        with hostile_memcached() as address:
            ended = run(
                "doctor",
                outbox=f"sqlite:///{tmp_path / 'shop.db'}",
                namespace="shop",
                memcached=address,
            )

        assert r"1.6.\x1b[2J" in ended.out
        shown = (ended.out + ended.err).split("\n")
        assert [line for line in shown if not line.isprintable()] == []

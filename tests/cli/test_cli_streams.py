"""The command line where a standard stream is closed, unread, or ASCII only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from hydracache_sync import InvalidationIntentBatch
from hydracache_sync.cli import ExitCode, hydracache
from support.commands import (
    PATIENCE,
    PROGRAM,
    Shop,
    environment,
    wait_until_it_handles_signals,
)
from support.servers import Memcached

#: A verifier of an app that caches nothing.
APP = """
from hydracache_sync import CacheVerifier, MemcachedStore, SQLiteOutbox, TaggedCache

def verifier():
    cache = TaggedCache(MemcachedStore([{memcached!r}]), {namespace!r})
    return CacheVerifier(SQLiteOutbox({path!r}), cache, lambda intent: [])
"""

#: What is run in a shop with one pending row and one dead letter, its exit code and how
#: often each: all commands that there are.
COMMANDS: dict[tuple[str, ...], ExitCode] = {
    ("--help",): ExitCode.DONE,
    ("--version",): ExitCode.DONE,
    ("drain",): ExitCode.DONE,
    ("drain", "--json"): ExitCode.DONE,
    ("drain", "-vv", "--memcached", "127.0.0.1:1"): ExitCode.CACHE_AWAY,
    ("worker",): ExitCode.DONE,
    ("console", "--port", "0"): ExitCode.DONE,
    ("status", "--max-dead", "0"): ExitCode.ALERT,
    ("doctor",): ExitCode.ALERT,
    ("rows", "--state", "all"): ExitCode.DONE,
    ("dead", "list"): ExitCode.DONE,
    ("dead", "show", "1", "2"): ExitCode.DONE,
    ("dead", "retry", "--all", "--yes"): ExitCode.DONE,
    ("dead", "discard", "--all", "--expect", "1"): ExitCode.DONE,
    ("dead", "discard", "--all"): ExitCode.FAILED,  # a question that nobody answers
    ("invalidate", "key", "a", "b"): ExitCode.DONE,
    ("flush", "{namespace}"): ExitCode.DONE,
    ("pause", "{namespace}"): ExitCode.DONE,
    ("resume", "{namespace}"): ExitCode.DONE,
    ("paused",): ExitCode.DONE,
    ("purge", "--older-than", "1d"): ExitCode.DONE,
    ("schema", "install"): ExitCode.DONE,
    ("schema", "check"): ExitCode.DONE,
    ("schema", "show"): ExitCode.DONE,
    ("verify", "shop_checks:verifier", "--for", "0"): ExitCode.DONE,
    ("missing-tags", "loads.jsonl", "--baseline", "tags.ini"): ExitCode.FAILED,
    ("status", "--nonsense"): ExitCode.USAGE,
}


def close(*numbers: int) -> Callable[[], None]:
    def act() -> None:
        for number in numbers:
            os.close(number)

    return act


def leave(*numbers: int) -> Callable[[], None]:
    """Give these a pipe whose reader is gone."""

    def act() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        for number in numbers:
            os.dup2(writer, number)
        os.close(writer)

    return act


#: Together, since each of them is a process for each command.
STREAMS = {
    "all closed": close(0, 1, 2),
    "nobody reads": leave(1, 2),
}


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


def prepare(shop: Shop) -> None:
    """One pending row, one dead letter, and an app to verify."""
    shop.invalidate(1)
    [row] = shop.outbox.claim(shop.namespace, "test", limit=1, claim_ttl=30)
    shop.outbox.mark_failed([row], "boom", backoff=0, dead=True)
    batch = InvalidationIntentBatch("test").invalidate_key("product:1")
    shop.outbox.enqueue(shop.namespace, batch)
    text = APP.format(
        path=str(shop.path),
        memcached=shop.settings["memcached"],
        namespace=shop.namespace,
    )
    (shop.path.parent / "shop_checks.py").write_text(text)
    (shop.path.parent / "loads.jsonl").write_text(
        '{"loader": "shop.home", "key": "a", "tags": [], "sql": "select * from stock",'
        ' "dialect": "sqlite"}\n'
    )
    (shop.path.parent / "tags.ini").write_text("[tables]\n")


def run_on(
    shop: Shop,
    arguments: tuple[str, ...],
    streams: Callable[[], None],
    program: tuple[str, ...] = PROGRAM,
) -> int:
    """Run a command on such streams; return its exit code."""

    def take() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        streams()

    words = [word.format(namespace=shop.namespace) for word in arguments]
    process = subprocess.Popen(
        [*program, *words],
        env=environment(**shop.settings),
        cwd=shop.path.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=take,
    )
    try:
        if "worker" in words or "console" in words:
            wait_until_it_handles_signals(process)
            if "worker" in words:
                until_published(shop, process)
            process.terminate()
        return process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()


def until_published(shop: Shop, process: subprocess.Popen[Any]) -> None:
    while not shop.published():
        assert process.poll() is None
        signal.sigtimedwait([signal.SIGCHLD], 0.02)


def result(shop: Shop) -> list[tuple[object, ...]]:
    """What a command has left: rows, but for what differs from run to run; a pause."""
    rows: list[tuple[object, ...]] = [
        (row.id, row.state, str(row.intent), row.attempts, row.last_error)
        for row in shop.outbox.rows(shop.namespace, limit=100)
    ]
    return [*rows, (shop.outbox.status(shop.namespace).paused_since_ms is not None,)]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_does_its_job_on_any_streams(
    tmp_path: Path, memcached: Memcached, unique: str, arguments: tuple[str, ...]
) -> None:
    codes: dict[str, int] = {}
    results: dict[str, list[tuple[object, ...]]] = {}
    for number, (name, streams) in enumerate({"": lambda: None, **STREAMS}.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Shop(folder / "s.db", f"{unique}{number}", memcached.address) as shop:
            prepare(shop)
            codes[name] = run_on(shop, arguments, streams)
            results[name] = result(shop)

    assert codes == {name: COMMANDS[arguments] for name in codes}
    assert results == {name: results[""] for name in results}


def test_every_command_is_among_those() -> None:
    assert {words[0] for words in COMMANDS} >= set(hydracache.commands)


def test_a_file_of_the_command_never_takes_the_number_of_a_closed_stream(
    shop: Shop,
) -> None:
    code = """
import os, sys
from hydracache_sync.cli import program
from hydracache_sync.outbox.sqlite.outbox import SQLiteOutbox
plain = SQLiteOutbox.status
def looking(self, namespace):
    found = plain(self, namespace)
    places = [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)]
    with open(sys.argv[-1] + ".fds", "w") as file:
        file.write(" ".join(places))
    return found
SQLiteOutbox.status = looking
program.hydracache(sys.argv[1:-1])
"""
    arguments = ("status", str(shop.path))

    ended = run_on(shop, arguments, close(0, 1, 2), (sys.executable, "-c", code))

    assert ended == ExitCode.DONE
    places = Path(f"{shop.path}.fds").read_text().split()
    # What is opened before the command begins may have one: newer libffi keeps itself
    # open from when ctypes is imported, to read only.
    mended = [place for place in places if "/libffi.so" not in place]
    assert mended == ["/dev/null"] * len(mended) and len(mended) >= 2


def test_a_list_ends_when_its_reader_has_gone(shop: Shop) -> None:
    shop.invalidate(3000)
    code = """
import sys
from hydracache_sync.cli import program
from hydracache_sync.outbox.sqlite.outbox import SQLiteOutbox
plain, pages = SQLiteOutbox.rows, []
def counting(self, *arguments, **options):
    pages.append(1)
    with open(sys.argv[-1] + ".pages", "w") as file:
        file.write(str(len(pages)))
    return plain(self, *arguments, **options)
SQLiteOutbox.rows = counting
program.hydracache(sys.argv[1:-1])
"""
    arguments = ("rows", "--limit", "100000", str(shop.path))

    ended = run_on(shop, arguments, leave(1), (sys.executable, "-c", code))

    assert ended == ExitCode.DONE
    assert Path(f"{shop.path}.pages").read_text() in ("1", "2")


@pytest.mark.parametrize("option", [(), ("-u",)], ids=["buffered", "unbuffered"])
def test_any_namespace_is_read_and_printed_in_the_c_locale(
    shop: Shop, option: tuple[str, ...]
) -> None:
    name = "caf\u00e9\U0001f6d2"
    batch = InvalidationIntentBatch("test").invalidate_key("product:1")
    shop.outbox.enqueue(name, batch)
    ascii_only = {
        **environment(**{**shop.settings, "namespace": name}),
        **{"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    }

    shown = subprocess.run(
        [sys.executable, *option, *PROGRAM[1:], "rows"],
        env=ascii_only,
        capture_output=True,
        timeout=PATIENCE,
    )

    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout.decode("ascii", "backslashreplace").count("product:1") == 1

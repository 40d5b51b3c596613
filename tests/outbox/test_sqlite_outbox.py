"""The outbox in a SQLite file: the contract, in both kinds of journal, and its own."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, ContextManager, Iterator, Sequence

import pytest

from hydracache_sync.errors import (
    ConfigurationError,
    NotInTransactionError,
    OutboxBusyError,
    OutboxError,
    SchemaError,
)
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import (
    MemoryOutbox,
    OutboxRow,
    SQLiteOutbox,
)
from hydracache_sync.outbox.sqlite import poll as sqlite_poll
from hydracache_sync.outbox.sqlite import sessions as sqlite_sessions
from outbox_contract.common import ODD_TEXTS, SHOP, batch_of, keys_of, numbered
from outbox_contract.whole import SharedOutboxContract
from support import ROOT
from support.clock import FakeClock
from support.processes import DEADLINE, in_processes, in_threads

#: ``sqlite3.connect(autocommit=)`` is new there.
needs_autocommit = pytest.mark.needs_python(3, 12)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is such a place, since each test commits often.

    SIGKILL, unlike a power failure, loses nothing of what was written there.
    """
    if os.path.isdir("/dev/shm"):
        tmp_path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield tmp_path
    shutil.rmtree(tmp_path)


def raw(path: Any, **options: Any) -> ContextManager[sqlite3.Connection]:
    """Open a connection as an app would, and close it at the end."""
    return contextlib.closing(sqlite3.connect(path, **options))


def spy_on_connections(
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[sqlite3.Connection], object] = lambda connection: None,
) -> list[sqlite3.Connection]:
    """Return a list that grows by each connection that is opened from now on."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def spied(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        prepare(connection)
        opened.append(connection)
        return connection

    monkeypatch.setattr(sqlite3, "connect", spied)
    return opened


def is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.total_changes
    except sqlite3.ProgrammingError:
        return True
    return False


def at_first_pause(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> None:
    """Run ``action`` when the library pauses for the first time, instead of pausing."""
    actions = [action]

    def pause(seconds: float) -> None:
        if actions:
            actions.pop()()

    monkeypatch.setattr(time, "sleep", pause)


class SQLiteContract(SharedOutboxContract):
    journal_mode: str

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Path:
        path = tmp_path / "app.db"
        with raw(path, isolation_level=None) as connection:
            connection.execute(f"pragma journal_mode = {self.journal_mode}")
        return path

    def make_outbox(self, storage: Path, **options: Any) -> SQLiteOutbox:
        return SQLiteOutbox(storage, **options)

    def sql(
        self, outbox: SQLiteOutbox, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        with raw(outbox.path) as connection, connection:
            return connection.execute(statement, parameters).fetchall()

    def spy(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        statements: list[str] = []
        spy_on_connections(
            monkeypatch,
            lambda connection: connection.set_trace_callback(statements.append),
        )
        return statements

    @contextlib.contextmanager
    def connect(self, storage: Path) -> Iterator[sqlite3.Connection]:
        with raw(storage, isolation_level=None, timeout=DEADLINE) as connection:
            yield connection

    def begin(self, connection: sqlite3.Connection) -> None:
        connection.execute("begin")

    def test_journal_mode_is_left_as_it_is(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        assert self.sql(outbox, "pragma journal_mode") == [(self.journal_mode,)]

    def test_rows_survive_their_outbox(self, outbox, storage):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.close()

        with contextlib.closing(SQLiteOutbox(storage)) as reopened:
            assert keys_of(reopened.rows(SHOP)) == ["a"]

    def test_id_is_never_used_again(self, outbox, clock):
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        [first] = outbox.rows(SHOP)
        outbox.publish_commit(receipt)
        clock.advance(1)
        outbox.purge_published(SHOP, older_than=0)

        outbox.enqueue(SHOP, batch_of("b"))

        assert outbox.rows(SHOP)[0].id > first.id

    def test_batch_of_several_statements_is_written_whole_or_not_at_all(self, outbox):
        self.sql(
            outbox,
            "create trigger refuse before insert on hydracache_outbox"
            " when new.value = 'key:7499' begin select raise(abort, 'no'); end",
        )

        with pytest.raises(OutboxError):
            outbox.enqueue(SHOP, batch_of(*numbered(7500)))

        assert outbox.rows(SHOP) == []

    def test_own_transaction_waits_for_a_writer(self, outbox, storage, monkeypatch):
        with raw(storage, isolation_level=None) as writer:
            writer.execute("begin immediate")
            at_first_pause(monkeypatch, lambda: writer.execute("commit"))

            receipt = outbox.enqueue(SHOP, batch_of("a"))

        assert receipt.inserted == 1
        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_claim_waits_for_a_writer(self, outbox, storage, monkeypatch):
        outbox.enqueue(SHOP, batch_of("a"))
        with raw(storage, isolation_level=None) as writer:
            writer.execute("begin immediate")
            at_first_pause(monkeypatch, lambda: writer.execute("commit"))

            rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert keys_of(rows) == ["a"]

    def test_claim_lasts_from_when_it_got_through(
        self, outbox, storage, clock, monkeypatch
    ):
        """A wait for the lock must not use up the claim."""
        outbox.enqueue(SHOP, batch_of("a"))
        with raw(storage, isolation_level=None) as writer:
            writer.execute("begin immediate")

            def end() -> None:
                clock.advance(5)
                writer.execute("commit")

            at_first_pause(monkeypatch, end)

            [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert row.claimed_at_ms == clock.now_ms
        assert outbox.row(row.id).claim_until_ms == clock.now_ms + 30_000

    def test_claim_that_finds_nothing_takes_no_lock(self, storage, outbox, clock):
        outbox.enqueue(SHOP, batch_of("held"))
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        impatient = SQLiteOutbox(storage, clock=clock, busy_timeout=0)

        with raw(storage, isolation_level=None) as writer:
            writer.execute("begin immediate")
            assert impatient.claim(SHOP, "w", limit=1, claim_ttl=30) == []

        impatient.close()

    def test_transaction_waits_for_a_writer_to_begin(
        self, outbox, storage, monkeypatch
    ):
        with raw(storage, isolation_level=None) as writer:
            writer.execute("begin immediate")
            at_first_pause(monkeypatch, lambda: writer.execute("commit"))

            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_first_use_in_a_thread_waits_for_an_exclusive_writer(
        self, outbox, storage, monkeypatch
    ):
        """Even opening a connection meets the lock of a rollback journal."""

        def write(_: int) -> None:
            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("a"))

        outbox.status(SHOP)
        with raw(storage, isolation_level=None, check_same_thread=False) as writer:
            writer.execute("begin exclusive")
            at_first_pause(monkeypatch, lambda: writer.execute("commit"))

            in_threads(1, write)

        assert keys_of(outbox.rows(SHOP)) == ["a"]

    @pytest.mark.parametrize("there", [None, 0o640, 0o666], ids=["new", "640", "666"])
    def test_a_new_file_is_for_its_user_alone_and_another_keeps_its_mode(
        self, tmp_path, there
    ):
        path = tmp_path / "modes.db"
        before = os.umask(0o022)
        try:
            if there is not None:
                path.touch()
                path.chmod(there)
            outbox = SQLiteOutbox(path)
            outbox.install_schema()
            with raw(path, isolation_level=None) as writer:
                writer.execute("pragma journal_mode = wal")
                writer.execute("create table mine (x)")
                files = list(tmp_path.iterdir())
                modes = {file.stat().st_mode & 0o777 for file in files}
                outbox.close()
        finally:
            os.umask(before)

        assert modes == {0o600 if there is None else there}
        assert len(files) == 3  # with -wal and -shm

    def test_install_waits_for_an_exclusive_writer(self, storage, monkeypatch):
        outbox = SQLiteOutbox(storage)
        with raw(storage, isolation_level=None) as writer:
            writer.execute("begin exclusive")
            at_first_pause(monkeypatch, lambda: writer.execute("commit"))

            outbox.install_schema()

        outbox.check_schema()
        outbox.close()

    def test_database_that_stays_locked_is_busy_in_the_end(
        self, outbox, storage, clock
    ):
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=1)
        clock.advance(1)
        before = outbox.rows(SHOP)
        impatient = SQLiteOutbox(storage, clock=clock, busy_timeout=0.01)
        impatient.status(SHOP)

        with raw(storage, isolation_level=None) as writer:
            writer.execute("begin immediate")
            for call in (
                lambda: impatient.enqueue(SHOP, batch_of("b")),
                lambda: impatient.transaction().__enter__(),
                lambda: impatient.claim(SHOP, "w", limit=1, claim_ttl=30),
                lambda: impatient.mark_published(rows),
                lambda: impatient.mark_failed(rows, "e", backoff=0, dead=True),
                lambda: impatient.release(rows),
                lambda: impatient.publish_commit(receipt),
                lambda: impatient.escalate(SHOP),
                lambda: impatient.install_schema(),
            ):
                with pytest.raises(OutboxBusyError, match="locked"):
                    call()

        impatient.close()
        assert outbox.rows(SHOP) == before

    def test_timeout_of_publish_commit_replaces_the_outboxes(self, storage, outbox):
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        began = time.monotonic()

        with raw(storage, isolation_level=None) as writer:
            writer.execute("begin immediate")
            with pytest.raises(OutboxBusyError):
                outbox.publish_commit(receipt, timeout=0.01)

        assert time.monotonic() - began < DEADLINE / 4

    def test_connections_of_ended_threads_are_closed(self, storage, clock, monkeypatch):
        opened = spy_on_connections(monkeypatch)
        outbox = SQLiteOutbox(storage, clock=clock, busy_timeout=DEADLINE)
        outbox.install_schema()

        in_threads(4, lambda n: outbox.enqueue(SHOP, batch_of(f"key:{n}")))

        assert [c for c in opened if not is_closed(c)] == opened[1:2]
        outbox.close()
        assert all(is_closed(connection) for connection in opened)

    def test_close_closes_the_connections_of_all_threads(
        self, storage, clock, monkeypatch
    ):
        opened = spy_on_connections(monkeypatch)
        outbox = SQLiteOutbox(storage, clock=clock, busy_timeout=DEADLINE)
        outbox.install_schema()
        used, closed = threading.Barrier(2), threading.Event()

        def use(_: int) -> int:
            outbox.enqueue(SHOP, batch_of("a"))
            used.wait(DEADLINE)
            assert closed.wait(DEADLINE)
            return outbox.status(SHOP).pending

        def close(_: int) -> int:
            used.wait(DEADLINE)
            outbox.close()
            before = [is_closed(connection) for connection in opened]
            closed.set()
            return sum(before)

        pending, count = in_threads(2, lambda index: (use, close)[index](index))

        assert count == 3
        assert pending == 1
        outbox.close()
        assert all(is_closed(connection) for connection in opened)

    def test_outbox_can_be_used_again_after_its_close(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.close()
        outbox.close()

        assert outbox.enqueue(SHOP, batch_of("b")).inserted == 1

    def test_connection_lent_to_a_block_is_an_ordinary_one(self, outbox, app):
        outbox.enqueue(SHOP, batch_of("caf\xe9"))

        with outbox.transaction() as connection:
            app.write(connection, "caf\xe9")
            [note] = connection.execute("select note from app").fetchone()
            connection.row_factory = sqlite3.Row
            connection.text_factory = bytearray
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert note == "caf\xe9"
        assert keys_of(outbox.rows(SHOP)) == ["caf\xe9", "a"]
        assert outbox.status(SHOP).pending == 2
        with outbox.transaction() as connection:
            assert connection.execute("select note from app").fetchall() == [(note,)]

    def test_block_whose_connection_was_closed_has_changed_nothing(self, outbox, app):
        with pytest.raises(OutboxError):
            with outbox.transaction() as connection:
                app.write(connection)
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                connection.close()

        assert outbox.rows(SHOP) == []
        assert app.notes() == []

    @pytest.mark.parametrize("version", [0, 99])
    def test_install_makes_nothing_beside_another_version(self, outbox, version):
        self.sql(outbox, "update hydracache_outbox_schema set version = ?", (version,))
        self.sql(outbox, "drop index hydracache_outbox_state")
        before = self.sql(outbox, "select name, sql from sqlite_master")

        with pytest.raises(SchemaError):
            outbox.install_schema()

        assert self.sql(outbox, "select name, sql from sqlite_master") == before

    def test_child_that_ends_by_itself_leaves_the_parent_alone(self, storage):
        script = """
import os, sys, threading
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import SQLiteOutbox

batch = InvalidationIntentBatch().invalidate_key("a")
outbox = SQLiteOutbox(sys.argv[1])
outbox.install_schema()
used, end = threading.Event(), threading.Event()

def use():
    outbox.enqueue("shop", batch)
    used.set()
    end.wait(60)

thread = threading.Thread(target=use, daemon=True)
thread.start()
used.wait(60)
held = outbox.claim("shop", "parent", limit=1, claim_ttl=30)
with outbox.transaction() as connection:
    outbox.enqueue_in(connection, "shop", batch)
    child = os.fork()
    if not child:
        outbox.status("shop")
        sys.exit(7)
    _, status = os.waitpid(child, 0)
    outbox.enqueue_in(connection, "shop", batch)
end.set()
thread.join()
assert os.waitstatus_to_exitcode(status) == 7, status
assert outbox.mark_published(held) == 1
assert outbox.status("shop").pending == 2
outbox.close()
"""

        ended = run_python(
            script, storage, options=["-W", "ignore::DeprecationWarning"]
        )

        assert (ended.returncode, ended.stderr) == (0, "")
        with raw(storage) as connection:
            assert connection.execute("pragma integrity_check").fetchone() == ("ok",)

    @pytest.mark.parametrize("writer", ["forking thread", "another thread"])
    def test_child_that_ends_after_the_parents_commit_undoes_nothing(
        self, storage, writer
    ):
        """It has the rollback journal open too, and must not play it back."""
        script = """
import os, sys, threading
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import SQLiteOutbox

outbox = SQLiteOutbox(sys.argv[1])
outbox.install_schema()
with outbox.transaction() as connection:
    connection.execute("create table app (note text)")
    notes = [("old" + "x" * 500,)] * 1000
    connection.executemany("insert into app (note) values (?)", notes)
waits, go = os.pipe()
forked, changed = threading.Event(), threading.Event()

def fork():
    child = os.fork()
    if not child:
        os.close(go)
        os.read(waits, 1)
        sys.exit(7)
    return child

def write(meanwhile):
    with outbox.transaction() as connection:
        # Too small for the change, so that the file is written before the commit.
        connection.execute("pragma cache_size = 5")
        connection.execute("update app set note = 'new'")
        batch = InvalidationIntentBatch().invalidate_key("a")
        outbox.enqueue_in(connection, "shop", batch)
        return meanwhile()

if sys.argv[2] == "forking thread":
    child = write(fork)
else:
    thread = threading.Thread(target=write, args=(lambda: (
        changed.set(), forked.wait(60)
    ),))
    thread.start()
    changed.wait(60)
    child = fork()
    forked.set()
    thread.join()
os.close(go)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
with outbox.transaction() as connection:
    notes = connection.execute("select distinct note from app").fetchall()
    assert notes == [("new",)], notes
assert outbox.status("shop").pending == 1
outbox.close()
"""

        ended = run_python(
            script, storage, writer, options=["-W", "ignore::DeprecationWarning"]
        )

        # Such a fork goes on after a while all the same, and says what it risks.
        said = "" if writer == "forking thread" else "a fork during another "
        assert (ended.returncode, ended.stderr[: len(said)]) == (0, said)
        with raw(storage) as connection:
            assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def run_python(
    script: str, path: Path, *arguments: str, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program in the mode that warns of every connection left open."""
    command = [sys.executable, "-X", "dev", "-W", "error", *options, "-c", script]
    return subprocess.run(
        [*command, str(path), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


#: What ``pragma synchronous`` says of it.
FULL = 2


def claim_and_mark(outbox: SQLiteOutbox) -> None:
    rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
    outbox.mark_published(rows)
    outbox.close()


def updates_and_levels(statements: Sequence[str]) -> list[str]:
    """How ``synchronous`` was set, and the updates in between."""
    words = [statement.split() for statement in statements]
    return [
        word[-1] if "synchronous" in word else word[0]
        for word in words
        if "synchronous" in word or word[0] == "update"
    ]


class TestSQLiteOutboxInWAL(SQLiteContract):
    journal_mode = "wal"

    def test_snapshot_too_old_to_write_is_busy_at_once(self, outbox, storage, app):
        """SQLITE_BUSY_SNAPSHOT: waiting does not help, only the caller can."""
        with raw(storage, isolation_level=None, timeout=DEADLINE) as connection:
            connection.execute("begin")
            connection.execute("select * from app").fetchall()
            outbox.enqueue(SHOP, batch_of("first"))
            began = time.monotonic()

            with pytest.raises(OutboxBusyError, match="[Rr]oll back"):
                outbox.enqueue_in(connection, SHOP, batch_of("second"))

            assert time.monotonic() - began < DEADLINE / 4
            assert connection.in_transaction
            connection.rollback()
            connection.execute("begin")
            outbox.enqueue_in(connection, SHOP, batch_of("second"))
            connection.commit()

        assert keys_of(outbox.rows(SHOP)) == ["first", "second"]

    def test_readers_are_not_in_the_way(self, outbox, storage):
        outbox.enqueue(SHOP, batch_of("a"))
        with raw(storage, isolation_level=None) as reader:
            reader.execute("begin")
            reader.execute("select count(*) from hydracache_outbox").fetchall()

            rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

            assert outbox.mark_published(rows) == 1

    def test_only_a_claim_does_not_wait_for_the_disk(
        self, outbox, storage, monkeypatch
    ):
        outbox.enqueue(SHOP, batch_of("a"))
        statements = self.spy(monkeypatch)

        claim_and_mark(self.make_outbox(storage))

        synced = ["full", "normal", "update", "full", "update"]
        assert updates_and_levels(statements) == synced

    def test_after_a_claim_that_failed_commits_wait_for_the_disk_again(
        self, outbox, storage
    ):
        outbox.enqueue(SHOP, batch_of("a"))
        impatient = self.make_outbox(storage, busy_timeout=0.01)
        with raw(storage, isolation_level=None) as writer:
            writer.execute("begin immediate")

            with pytest.raises(OutboxBusyError):
                impatient.claim(SHOP, "w", limit=1, claim_ttl=30)

        with impatient.transaction() as connection:
            [(level,)] = connection.execute("pragma synchronous")
        impatient.close()
        assert level == FULL


class TestSQLiteOutboxWithRollbackJournal(SQLiteContract):
    journal_mode = "delete"

    def test_a_claim_waits_for_the_disk(self, outbox, storage, monkeypatch):
        """Without it a power failure could break the file."""
        outbox.enqueue(SHOP, batch_of("a"))
        statements = self.spy(monkeypatch)

        claim_and_mark(self.make_outbox(storage))

        assert updates_and_levels(statements) == ["full", "update", "update"]

    def test_commit_waits_for_readers(self, outbox, storage, app, monkeypatch):
        with raw(storage, isolation_level=None) as reader:
            reader.execute("begin")
            reader.execute("select * from app").fetchall()
            at_first_pause(monkeypatch, lambda: reader.execute("commit"))

            with outbox.transaction() as connection:
                app.write(connection)
                outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert app.notes() == ["data"]
        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_commit_that_readers_kept_away_has_written_nothing(
        self, outbox, storage, app
    ):
        impatient = SQLiteOutbox(storage, busy_timeout=0.01)
        with raw(storage, isolation_level=None) as reader:
            reader.execute("begin")
            reader.execute("select * from app").fetchall()

            with pytest.raises(OutboxBusyError):
                with impatient.transaction() as connection:
                    app.write(connection)
                    impatient.enqueue_in(connection, SHOP, batch_of("a"))

        impatient.close()
        assert app.notes() == []
        assert outbox.rows(SHOP) == []

    @pytest.mark.parametrize("rows", [1, 5000])
    def test_enqueue_that_readers_kept_away_has_written_nothing(
        self, outbox, storage, rows
    ):
        impatient = SQLiteOutbox(storage, busy_timeout=0.01)
        with raw(storage, isolation_level=None) as reader:
            reader.execute("begin")
            reader.execute("select * from hydracache_outbox").fetchall()

            with pytest.raises(OutboxBusyError):
                impatient.enqueue(SHOP, batch_of(*numbered(rows)))

        impatient.close()
        assert outbox.rows(SHOP) == []
        assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def outbox(path: Path, clock: FakeClock) -> Iterator[SQLiteOutbox]:
    """An outbox in WAL mode, beside a table of the app."""
    with raw(path, isolation_level=None) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table app (note text)")
    outbox = SQLiteOutbox(path, clock=clock)
    outbox.install_schema()
    yield outbox
    outbox.close()


def write(connection: sqlite3.Connection, note: str = "data") -> None:
    connection.execute("insert into app (note) values (?)", (note,))


def notes(path: Path) -> list[str]:
    with raw(path) as connection:
        return [note for (note,) in connection.execute("select note from app")]


#: How a caller's connection may be opened, and what begins its transaction: None where
#: the driver does so before the INSERT.
MODES = {
    "default": ({}, None),
    "legacy": ({"isolation_level": ""}, None),
    "deferred": ({"isolation_level": "DEFERRED"}, None),
    "immediate": ({"isolation_level": "IMMEDIATE"}, None),
    "exclusive": ({"isolation_level": "EXCLUSIVE"}, None),
    "legacy, begun": ({"isolation_level": ""}, "begin"),
    "none, begun": ({"isolation_level": None}, "begin"),
    "none, begun immediate": ({"isolation_level": None}, "begin immediate"),
    "none, in a savepoint": ({"isolation_level": None}, "savepoint app"),
    "autocommit, begun": ({"autocommit": True}, "begin"),
    "no autocommit": ({"autocommit": False}, None),
}


@pytest.fixture(
    params=[
        pytest.param(mode, marks=needs_autocommit if "autocommit" in mode else ())
        for mode in MODES
    ]
)
def mode(request: pytest.FixtureRequest) -> tuple[dict[str, Any], str | None]:
    return MODES[request.param]


@contextlib.contextmanager
def opened(path: Any, mode: tuple[dict[str, Any], str | None], **options: Any) -> Any:
    """The app's connection in ``mode``, its transaction begun if that is explicit."""
    connect_options, begin = mode
    with raw(path, **connect_options, **options) as connection:
        if begin:
            connection.execute(begin)
        yield connection


def commit(connection: sqlite3.Connection, mode: tuple[Any, str | None]) -> None:
    """Commit as an app in ``mode`` would: what was begun by hand ends by hand."""
    if mode[1] is None:
        connection.commit()
    else:
        connection.execute("release app" if "savepoint" in mode[1] else "commit")


def test_rows_are_committed_with_the_data_in_each_mode(outbox, path, mode):
    with opened(path, mode) as connection:
        write(connection)
        receipt = outbox.enqueue_in(connection, SHOP, batch_of("a", "b", "a"))
        assert outbox.rows(SHOP) == []
        commit(connection, mode)

    assert notes(path) == ["data"]
    assert keys_of(outbox.rows(SHOP)) == ["a", "b"]
    assert (receipt.targets, receipt.inserted) == (2, 2)


def test_rows_are_rolled_back_with_the_data_in_each_mode(outbox, path, mode):
    with opened(path, mode) as connection:
        write(connection)
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.execute("rollback")

    assert notes(path) == []
    assert outbox.rows(SHOP) == []


def test_rows_may_come_before_the_data_in_each_mode(outbox, path, mode):
    with opened(path, mode) as connection:
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        assert connection.in_transaction
        assert outbox.rows(SHOP) == []
        write(connection)
        connection.execute("rollback")

    assert notes(path) == []
    assert outbox.rows(SHOP) == []


def test_connection_that_is_never_committed_leaves_nothing_in_each_mode(
    outbox, path, mode
):
    with opened(path, mode) as connection:
        write(connection)
        outbox.enqueue_in(connection, SHOP, batch_of("a"))

    assert notes(path) == []
    assert outbox.rows(SHOP) == []


def test_enqueue_adds_one_insert_and_ends_no_transaction_in_each_mode(
    outbox, path, mode
):
    with opened(path, mode) as connection:
        write(connection)
        statements: list[str] = []
        connection.set_trace_callback(statements.append)

        outbox.enqueue_in(connection, SHOP, batch_of(*numbered(50)))

        connection.set_trace_callback(None)
        # Which file is open is asked of the connection; no page is read for it.
        added = [text for text in statements if "database_list" not in text]
        assert len(added) == 1
        assert added[0].split()[0].lower() == "insert"
        assert len(statements) <= 2
        assert connection.in_transaction


def test_inserted_rows_are_counted_in_the_callers_transaction(outbox, path, mode):
    with opened(path, mode) as connection:
        first = outbox.enqueue_in(
            connection, SHOP, batch_of("a"), commit_position="tx:7"
        )
        second = outbox.enqueue_in(
            connection, SHOP, batch_of("a", "b"), commit_position="tx:7"
        )

    assert (first.inserted, second.inserted) == (1, 1)


AUTOCOMMITTING = {
    "none": {"isolation_level": None},
    "autocommit": {"autocommit": True},
    "autocommit, level ignored": {"autocommit": True, "isolation_level": ""},
}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=needs_autocommit if "auto" in name else ())
        for name, options in AUTOCOMMITTING.items()
    ],
)
@pytest.mark.parametrize("batch", [batch_of("a"), InvalidationIntentBatch()])
def test_connection_that_would_commit_the_rows_is_refused(outbox, path, options, batch):
    with raw(path, **options) as connection:
        with pytest.raises(NotInTransactionError, match="BEGIN"):
            outbox.enqueue_in(connection, SHOP, batch)

        assert not connection.in_transaction

    assert outbox.rows(SHOP) == []


def refusing_connections(tmp_path: Path) -> dict[str, str]:
    """Other databases: with the outbox's tables, without, and of no file."""
    with contextlib.closing(SQLiteOutbox(tmp_path / "twin.db")) as twin:
        twin.install_schema()
    with raw(tmp_path / "other.db") as connection:
        connection.execute("create table app (note text)")
    return {
        "twin": str(tmp_path / "twin.db"),
        "other": str(tmp_path / "other.db"),
        "memory": ":memory:",
        "temporary": "",
    }


@pytest.mark.parametrize("kind", ["twin", "other", "memory", "temporary"])
def test_connection_to_another_database_is_refused_as_it_is(
    outbox, tmp_path, mode, kind
):
    with opened(refusing_connections(tmp_path)[kind], mode) as connection:
        before = connection.in_transaction
        with pytest.raises(NotInTransactionError, match="never be drained") as caught:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert connection.in_transaction == before
        assert outbox.path in str(caught.value)
        tables = connection.execute("select name from sqlite_master").fetchall()
        if ("hydracache_outbox",) in tables:
            count = connection.execute("select count(*) from hydracache_outbox")
            assert count.fetchone() == (0,)


def test_refusal_keeps_the_callers_pending_data(outbox, tmp_path, mode):
    path = refusing_connections(tmp_path)["other"]
    with opened(path, mode) as connection:
        write(connection)
        with pytest.raises(NotInTransactionError):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
        assert connection.in_transaction
        commit(connection, mode)

    assert notes(path) == ["data"]


def test_attached_outbox_is_not_the_main_database(outbox, tmp_path):
    """Its rows would be in the transaction, but under a schema that is not named."""
    with raw(tmp_path / "other.db", isolation_level=None) as connection:
        connection.execute("attach ? as outbox", (outbox.path,))
        connection.execute("begin")
        with pytest.raises(NotInTransactionError):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))


def test_other_databases_may_be_attached_to_the_callers_connection(
    outbox, path, tmp_path
):
    with raw(path) as connection:
        connection.execute("attach ? as other", (str(tmp_path / "other.db"),))
        connection.execute("create temp table scratch (x)")
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.commit()

    assert keys_of(outbox.rows(SHOP)) == ["a"]


@pytest.mark.parametrize("side", ["outbox", "caller"])
@pytest.mark.parametrize("link", ["file", "directory"])
def test_same_file_through_a_symbolic_link_is_the_same(
    outbox, path, tmp_path, side, link
):
    if link == "file":
        linked = tmp_path / "link.db"
        linked.symlink_to(path)
    else:
        (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
        linked = tmp_path / "link" / path.name
    caller = path if side == "outbox" else linked
    with contextlib.closing(
        SQLiteOutbox(linked if side == "outbox" else path)
    ) as linking:
        with raw(caller) as connection:
            linking.enqueue_in(connection, SHOP, batch_of("a"))
            connection.commit()

    assert keys_of(outbox.rows(SHOP)) == ["a"]


def test_same_file_by_a_relative_path_or_a_uri_is_the_same(outbox, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    for database, uri in ((path.name, False), (f"file:{path}?mode=rw", True)):
        with raw(database, uri=uri) as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            connection.commit()

    assert len(outbox.rows(SHOP)) == 2


def test_path_is_resolved_once(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    outbox = SQLiteOutbox(path.name)
    outbox.install_schema()

    monkeypatch.chdir("/")

    assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1
    assert outbox.path == str(path)
    outbox.close()


@pytest.mark.parametrize(
    "name",
    ["a b.db", "a?b.db", "a#b.db", "a%20b.db", "caf\xe9.db", "a'b\".db", "a\\b.db"],
)
def test_odd_file_names_are_that_file(tmp_path, name):
    outbox = SQLiteOutbox(tmp_path / name)
    outbox.install_schema()

    with raw(tmp_path / name) as connection:
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.commit()

    assert outbox.status(SHOP).pending == 1
    outbox.close()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    "name", ["", ":memory:", "file::memory:", "file:shop.db?mode=ro"]
)
def test_name_that_sqlite_takes_for_something_else_is_refused(
    tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigurationError, match="names no file.*MemoryOutbox"):
        SQLiteOutbox(name).install_schema()

    assert list(tmp_path.iterdir()) == []


def test_path_with_a_nul_is_refused(tmp_path):
    """SQLite would cut it there and open another file."""
    with pytest.raises((ValueError, ConfigurationError)):
        SQLiteOutbox(f"{tmp_path}/app.db\0.db")


class Habits(sqlite3.Connection):
    """A subclass of an app, whose every method does something else."""

    def _other(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("called a method of the caller's class")

    cursor = execute = executemany = executescript = commit = rollback = _other
    close = sqlite3.Connection.close


@pytest.mark.parametrize("begun", [True, False])
def test_methods_of_the_callers_class_are_not_called(outbox, path, begun):
    with raw(path, factory=Habits) as connection:
        if begun:
            sqlite3.Cursor(connection).execute("begin")
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        assert connection.in_transaction
        sqlite3.Connection.commit(connection)

    assert keys_of(outbox.rows(SHOP)) == ["a"]


def test_methods_of_the_callers_class_are_not_called_on_failure(outbox, path):
    with raw(path, isolation_level=None) as writer:
        writer.execute("begin immediate")
        with raw(path, factory=Habits, timeout=0) as connection:
            with pytest.raises(OutboxBusyError):
                outbox.enqueue_in(connection, SHOP, batch_of("a"))

            assert not connection.in_transaction


ROW_FACTORIES = {
    "Row": sqlite3.Row,
    "dict": lambda cursor, row: {
        column[0]: value for column, value in zip(cursor.description, row)
    },
    "named": lambda cursor, row: collections.namedtuple("Row", "value")(row[0]),
    "broken": lambda cursor, row: 1 / 0,
}
TEXT_FACTORIES = {
    "bytes": bytes,
    "bytearray": bytearray,
    "latin-1": lambda raw: raw.decode("latin-1"),
    "ascii": lambda raw: raw.decode("ascii"),
    "broken": lambda raw: 1 / 0,
}


@pytest.mark.parametrize("factory", ROW_FACTORIES.values(), ids=ROW_FACTORIES)
def test_row_factory_of_the_caller_does_not_matter(outbox, path, factory):
    with raw(path) as connection:
        connection.row_factory = factory
        outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert connection.row_factory is factory
        connection.commit()

    assert keys_of(outbox.rows(SHOP)) == ["a"]


@pytest.mark.parametrize("factory", TEXT_FACTORIES.values(), ids=TEXT_FACTORIES)
def test_text_factory_of_the_caller_does_not_matter(tmp_path, factory):
    path = tmp_path / "caf\xe9.db"
    outbox = SQLiteOutbox(path)
    outbox.install_schema()
    with raw(path) as connection:
        connection.text_factory = factory
        outbox.enqueue_in(connection, SHOP, batch_of("caf\xe9"))

        assert connection.text_factory is factory
        connection.commit()

    assert keys_of(outbox.rows(SHOP)) == ["caf\xe9"]
    outbox.close()


def test_converters_of_the_caller_do_not_matter(outbox, path):
    with raw(path, detect_types=sqlite3.PARSE_DECLTYPES) as connection:
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.commit()

    assert keys_of(outbox.rows(SHOP)) == ["a"]


@pytest.mark.parametrize("declared", ["integer", "text", "blob"])
def test_converter_that_the_caller_registered_sees_no_row_of_ours(
    outbox, path, monkeypatch, declared
):
    def convert(raw: bytes) -> None:
        raise ValueError(raw)

    monkeypatch.setitem(sqlite3.converters, declared.upper(), convert)
    with raw(path, detect_types=sqlite3.PARSE_DECLTYPES) as connection:
        for batch in batch_of("a"), batch_of("a", "b"), batch_of("b", "c"):
            outbox.enqueue_in(connection, SHOP, batch, commit_position="tx:7")
        connection.commit()

    assert keys_of(outbox.rows(SHOP)) == ["a", "b", "c"]


def test_half_read_cursor_of_the_caller_reads_on(outbox, path):
    with raw(path, isolation_level=None) as connection:
        for n in range(3):
            write(connection, f"note:{n}")
        connection.execute("begin")
        cursor = connection.execute("select note from app")
        first = cursor.fetchone()

        outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert [first, *cursor.fetchall()] == [(f"note:{n}",) for n in range(3)]
        connection.commit()

    assert keys_of(outbox.rows(SHOP)) == ["a"]


def test_rows_follow_the_savepoint_they_were_written_in(outbox, path):
    with raw(path, isolation_level=None) as connection:
        connection.execute("begin")
        outbox.enqueue_in(connection, SHOP, batch_of("outer"))
        connection.execute("savepoint inner")
        write(connection, "lost")
        outbox.enqueue_in(connection, SHOP, batch_of("lost"))
        connection.execute("rollback to inner")
        connection.execute("release inner")
        connection.execute("savepoint inner")
        write(connection, "kept")
        outbox.enqueue_in(connection, SHOP, batch_of("kept"))
        connection.execute("release inner")
        connection.commit()

    assert notes(path) == ["kept"]
    assert keys_of(outbox.rows(SHOP)) == ["outer", "kept"]


def test_connection_of_another_thread_is_an_outbox_error(outbox, path):
    with raw(path) as connection:
        write(connection)

        def join_in(_: int) -> None:
            with pytest.raises(OutboxError, match="thread"):
                outbox.enqueue_in(connection, SHOP, batch_of("a"))

        in_threads(1, join_in)
        connection.commit()

    assert notes(path) == ["data"]
    assert outbox.rows(SHOP) == []


def test_closed_connection_is_an_outbox_error(outbox, path):
    with raw(path) as connection:
        pass

    with pytest.raises(OutboxError, match="closed"):
        outbox.enqueue_in(connection, SHOP, batch_of("a"))


def test_locked_database_is_busy_and_the_transaction_the_callers(outbox, path, mode):
    if mode[1] == "begin immediate":
        mode = (mode[0], "begin")
    with raw(path, isolation_level=None) as writer:
        writer.execute("begin immediate")
        with opened(path, mode, timeout=0) as connection:
            before = connection.in_transaction
            with pytest.raises(OutboxBusyError, match="[Rr]oll back"):
                outbox.enqueue_in(connection, SHOP, batch_of("a"))

            assert connection.in_transaction == before
            writer.execute("commit")
            outbox.enqueue_in(connection, SHOP, batch_of("b"))
            commit(connection, mode)

    assert keys_of(outbox.rows(SHOP)) == ["b"]


def test_connection_that_may_only_read_is_refused_as_it_is(outbox, path):
    with raw(f"file:{path}?mode=ro", uri=True) as connection:
        with pytest.raises(OutboxError, match="readonly"):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert not connection.in_transaction

    assert outbox.rows(SHOP) == []


def test_enqueue_in_never_retries_the_callers_transaction(outbox, path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    with raw(path, isolation_level=None) as writer:
        writer.execute("begin immediate")
        with raw(path, timeout=0) as connection:
            with pytest.raises(OutboxBusyError):
                outbox.enqueue_in(connection, SHOP, batch_of("a"))


def test_missing_tables_in_the_callers_file_are_a_schema_error(path, mode):
    outbox = SQLiteOutbox(path)
    with raw(path) as connection:
        connection.execute("create table app (note text)")
    with opened(path, mode) as connection:
        write(connection)
        with pytest.raises(SchemaError, match="hydracache schema install"):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
        assert connection.in_transaction
        commit(connection, mode)

    assert notes(path) == ["data"]


def test_outbox_of_the_thread_itself_may_hold_no_lock_on_the_caller(outbox, path):
    """A status or claim before the write must leave no snapshot or lock behind."""
    outbox.enqueue(SHOP, batch_of("a"))
    outbox.status(SHOP)
    outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
    with raw(path, timeout=0, isolation_level=None) as connection:
        connection.execute("begin exclusive")
        outbox.enqueue_in(connection, SHOP, batch_of("b"))
        connection.commit()
        assert connection.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_database_of_another_encoding_keeps_the_same_text(path, clock, encoding):
    with raw(path, isolation_level=None) as connection:
        connection.execute(f"pragma encoding = '{encoding}'")
        connection.execute("create table app (note text)")
    outbox = SQLiteOutbox(path, clock=clock)
    outbox.install_schema()
    # SQLite itself turns U+FFFE and U+FFFF into U+FFFD in UTF-16.
    texts = [text for name, text in ODD_TEXTS.items() if name != "noncharacter"]
    texts += ["x" * 4096, "\xe9" * 2048]

    with raw(path) as connection:
        outbox.enqueue_in(connection, SHOP, batch_of(*texts), commit_position="tx:\xe9")
        connection.commit()

    assert keys_of(outbox.claim(SHOP, "w", limit=99, claim_ttl=30)) == texts
    assert outbox.status_for_commit(SHOP, "tx:\xe9").pending == len(texts)
    outbox.close()


ALL_CALLS = {
    "check_schema": lambda outbox: outbox.check_schema(),
    "enqueue": lambda outbox: outbox.enqueue(SHOP, batch_of("a")),
    "transaction": lambda outbox: outbox.transaction().__enter__(),
    "claim": lambda outbox: outbox.claim(SHOP, "w", limit=1, claim_ttl=30),
    "status": lambda outbox: outbox.status(SHOP),
    "rows": lambda outbox: outbox.rows(SHOP),
}


@pytest.mark.parametrize("call", ALL_CALLS.values(), ids=ALL_CALLS)
def test_missing_file_is_not_created(tmp_path, call):
    outbox = SQLiteOutbox(tmp_path / "missing.db")

    with pytest.raises(OutboxError, match=r"missing\.db.*path.*schema install"):
        call(outbox)

    assert os.listdir(tmp_path) == []


def remove_database(path: Path) -> None:
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_file_that_takes_the_place_of_the_other_is_used(outbox, path, clock, journal):
    outbox.enqueue(SHOP, batch_of("before"))
    remove_database(path)
    with contextlib.closing(SQLiteOutbox(path, clock=clock)) as restored:
        restored.install_schema()
        with raw(path) as app:
            app.execute(f"pragma journal_mode = {journal}")
            restored.enqueue_in(app, SHOP, batch_of("after"))
            app.commit()

            # While the app has it open: the end of the connection to the other file
            # must not take away its log.
            assert keys_of(outbox.claim(SHOP, "me", limit=9, claim_ttl=9)) == ["after"]
            outbox.enqueue(SHOP, batch_of("later"))
            outbox.close()
            with raw(path) as another:
                [(rows,)] = another.execute("select count(*) from hydracache_outbox")
        assert rows == 2


def test_file_that_was_deleted_is_missed_though_it_is_open(outbox, path):
    outbox.enqueue(SHOP, batch_of("a"))
    remove_database(path)

    with pytest.raises(OutboxError, match="unable to open"):
        outbox.claim(SHOP, "me", limit=9, claim_ttl=9)


def test_file_that_cannot_be_looked_at_any_more_is_used_on(outbox, path, monkeypatch):
    outbox.enqueue(SHOP, batch_of("a"))

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sqlite_sessions.os, "stat", refuse)

    assert outbox.status(SHOP).pending == 1


def test_install_creates_a_missing_file_but_no_directory(tmp_path):
    outbox = SQLiteOutbox(tmp_path / "new.db")
    lost = SQLiteOutbox(tmp_path / "no/new.db")

    outbox.install_schema()
    with pytest.raises(OutboxError, match="no/new.db"):
        lost.install_schema()

    assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1
    outbox.close()
    assert os.listdir(tmp_path) == ["new.db"]


@pytest.mark.parametrize(
    "call",
    [*ALL_CALLS.values(), lambda outbox: outbox.install_schema()],
    ids=[*ALL_CALLS, "install_schema"],
)
@pytest.mark.parametrize("content", [b"no database " * 100, b"SQLite format 3\0junk"])
def test_file_that_is_no_database_is_left_as_it_is(path, call, content):
    path.write_bytes(content)

    with pytest.raises(OutboxError, match=r"app\.db"):
        call(SQLiteOutbox(path))

    assert path.read_bytes() == content


@pytest.mark.parametrize("call", ALL_CALLS.values(), ids=ALL_CALLS)
def test_empty_file_is_a_database_without_tables(path, call):
    path.touch()

    with contextlib.closing(SQLiteOutbox(path)) as outbox:
        with pytest.raises(SchemaError, match="missing"):
            call(outbox)


@pytest.mark.parametrize(
    "call",
    [*ALL_CALLS.values(), lambda outbox: outbox.install_schema()],
    ids=[*ALL_CALLS, "install_schema"],
)
def test_directory_is_an_outbox_error(tmp_path, call):
    with pytest.raises(OutboxError, match="unable to open"):
        call(SQLiteOutbox(tmp_path))


def test_file_that_may_not_be_written_can_be_read() -> None:
    """In a child without root's rights, and in a directory that it may enter."""
    directory = tempfile.mkdtemp()
    os.chmod(directory, 0o755)
    outbox = SQLiteOutbox(os.path.join(directory, "app.db"))
    outbox.install_schema()
    outbox.enqueue(SHOP, batch_of("a"))
    outbox.close()
    os.chmod(outbox.path, 0o444)
    os.chmod(directory, 0o555)

    def child(_: int) -> tuple[int, str]:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        pending = outbox.status(SHOP).pending
        with pytest.raises(OutboxError) as caught:
            outbox.enqueue(SHOP, batch_of("b"))
        return pending, str(caught.value)

    try:
        [(pending, said)] = in_processes(1, child)
    finally:
        os.chmod(directory, 0o755)
        shutil.rmtree(directory)

    assert pending == 1
    assert "readonly" in said
    assert outbox.path in said


@pytest.mark.parametrize(
    "table", ["", "a b", "a;b", "1a", "a.b", "a\n", "\xe9", "a" * 101]
)
def test_table_that_is_no_plain_name_is_refused(path, table):
    with pytest.raises(ConfigurationError, match="table"):
        SQLiteOutbox(path, table=table)


def test_outboxes_of_two_tables_share_a_file(path):
    first = SQLiteOutbox(path, table="one")
    second = SQLiteOutbox(path, table="two")
    first.install_schema()
    with pytest.raises(SchemaError, match="two"):
        second.check_schema()
    second.install_schema()

    first.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
    second.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

    assert len(first.rows(SHOP)) == len(second.rows(SHOP)) == 1
    first.close()
    second.close()


def test_schema_that_a_dba_runs_by_hand_is_accepted(path):
    outbox = SQLiteOutbox(path)
    with raw(path) as connection:
        connection.executescript(outbox.schema())
        connection.executescript(outbox.schema())

    outbox.check_schema()

    outbox.close()


#: Makes the table one of before these columns; SQLite 3.34 cannot drop any.
_MADE_BEFORE = """
alter table hydracache_outbox rename column waits_for to a;
alter table hydracache_outbox rename column abandoned to b;
alter table hydracache_outbox rename column tried_alone to c;
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("drop index hydracache_outbox_commit", "unique index"),
        ("alter table hydracache_outbox rename column last_error to e", "last_error"),
        ("alter table hydracache_outbox rename column history to e", "columns history"),
        (_MADE_BEFORE, "columns waits_for, abandoned, tried_alone: an earlier"),
        ("alter table hydracache_outbox rename to elsewhere", "install"),
        ("drop table hydracache_outbox_schema", "install"),
        ("drop table hydracache_outbox_paused", "install"),
        ("delete from hydracache_outbox_schema", "install"),
    ],
    ids=[
        "no unique index",
        "no column",
        "no history",
        "made by an earlier version",
        "no table",
        "no version table",
        "no table of pauses",
        "no version",
    ],
)
def test_altered_tables_are_refused_by_a_new_outbox(outbox, path, clock, change, said):
    with raw(path, isolation_level=None) as connection:
        connection.executescript(change)
    fresh = SQLiteOutbox(path, clock=clock)

    for call in (fresh.check_schema, lambda: fresh.enqueue(SHOP, batch_of("a"))):
        with pytest.raises(SchemaError, match=said) as caught:
            call()
        assert "hydracache schema" in str(caught.value)

    fresh.close()


@pytest.mark.parametrize(
    "columns",
    [
        "namespace collate nocase, commit_position, target_hash",
        "namespace, commit_position collate rtrim, target_hash",
        "namespace, commit_position",
        "namespace, target_hash, commit_position, kind",
    ],
)
def test_unique_index_that_holds_too_much_equal_is_refused(outbox, path, columns):
    with raw(path, isolation_level=None) as connection:
        connection.execute("drop index hydracache_outbox_commit")
        connection.execute(
            "create unique index hydracache_outbox_commit"
            f" on hydracache_outbox ({columns})"
        )

    with pytest.raises(SchemaError, match="unique index"):
        outbox.check_schema()


@pytest.mark.parametrize(
    "index", ["hydracache_outbox_commit", "hydracache_outbox_state"]
)
def test_install_makes_an_index_that_was_dropped(outbox, path, index):
    outbox.enqueue(SHOP, batch_of("a"))
    with raw(path, isolation_level=None) as connection:
        connection.execute(f"drop index {index}")

    outbox.install_schema()

    with raw(path) as connection:
        names = connection.execute("select name from sqlite_master").fetchall()
    assert (index,) in names
    assert keys_of(outbox.rows(SHOP)) == ["a"]


def test_index_that_claims_need_is_missed(outbox, path):
    """Without it each claim reads every finished row."""
    with raw(path, isolation_level=None) as connection:
        connection.execute("drop index hydracache_outbox_state")

    with pytest.raises(SchemaError, match="index"):
        outbox.check_schema()


@pytest.mark.parametrize(
    ("column", "value"),
    [("value", "\xff\xfe"), ("entity_name", "\xff"), ("kind", "\xff")],
)
def test_text_column_that_holds_no_utf_8_spoils_one_row_only(
    outbox, path, column, value
):
    """Stored as text, unlike bytes, it makes sqlite3 itself fail."""
    batch = batch_of("before").invalidate_entity("user", "middle")
    outbox.enqueue(SHOP, batch.invalidate_key("after"))
    with raw(path, isolation_level=None) as connection:
        connection.execute(
            f"update hydracache_outbox set {column} = cast(? as text) where id = 2",
            (value.encode("latin-1"),),
        )

    rows = outbox.claim(SHOP, "w", limit=3, claim_ttl=30)

    assert keys_of(rows) == ["before", None, "after"]
    assert "malformed" in rows[1].last_error


def test_text_that_is_no_utf_8_fails_no_thread(outbox, path):
    """Each has a connection of its own, made before such a value was found."""
    outbox.enqueue(SHOP, batch_of("a"))

    def claim() -> list[OutboxRow]:
        return outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        first.submit(lambda: outbox.release(claim(), error="busy")).result()
        second.submit(outbox.status, SHOP).result()
        with raw(path, isolation_level=None) as connection:
            connection.execute(
                "update hydracache_outbox set reason = cast(x'ff' as text)"
            )
        seen = []
        for thread in first, second, first, second:
            rows = thread.submit(claim).result()
            seen.append((keys_of(rows), rows[0].reason))
            assert thread.submit(outbox.release, rows).result() == 1

    assert seen == [(["a"], "\\xff")] * 4


@pytest.mark.parametrize("junk", ["soon", b"\xff", 1.5, 10**18], ids=repr)
@pytest.mark.parametrize("column", ["created_at_ms", "at_ms", "attempts", "state"])
def test_numbers_that_are_none_break_neither_claims_nor_status(
    outbox, path, column, junk
):
    """SQLite keeps any value in any column; one row must not stop the others."""
    outbox.enqueue(SHOP, batch_of("a", "b", "c"))
    with raw(path, isolation_level=None) as connection:
        connection.execute(
            f"update hydracache_outbox set {column} = ? where id = 2", (junk,)
        )

    rows = outbox.claim(SHOP, "w", limit=3, claim_ttl=30)

    assert {"a", "c"} <= set(keys_of(rows))
    assert outbox.status(SHOP).pending >= 2
    assert [repr(row) for row in outbox.rows(SHOP)]
    assert outbox.mark_failed(rows, "e", backoff=0, dead=True) == len(rows)
    assert outbox.status(SHOP).dead_lettered >= 2


OPERATIONS = {
    "enqueue": lambda outbox: outbox.enqueue(SHOP, batch_of("x"), commit_position="x"),
    "claim": lambda outbox: outbox.claim(SHOP, "w", limit=5, claim_ttl=30),
    "idle claim": lambda outbox: outbox.claim("idle", "w", limit=5, claim_ttl=30),
    "status": lambda outbox: outbox.status(SHOP),
    "wait": lambda outbox: outbox.status_for_commit(SHOP, "live"),
    "dead letters": lambda outbox: outbox.dead_letters(SHOP, limit=3),
    "reset": lambda outbox: outbox.reset_dead_letters(SHOP),
    "purge of nothing": lambda outbox: outbox.purge_published(SHOP, older_than=3600),
    "small purge": lambda outbox: outbox.purge_published(SHOP, older_than=0, limit=5),
    "escalate": lambda outbox: outbox.escalate(SHOP),
    "list by state": lambda outbox: outbox.rows(SHOP, commit_position="live"),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_cost_does_not_depend_on_finished_rows(tmp_path, clock, monkeypatch, operation):
    """Counted in steps of SQLite's machine, so that no other load can change it."""
    steps = [0]

    def count() -> None:
        steps[0] += 1

    spy_on_connections(monkeypatch, lambda c: c.set_progress_handler(count, 10))

    def cost(finished: int) -> int:
        outbox = SQLiteOutbox(tmp_path / f"{finished}.db", clock=clock)
        outbox.install_schema()
        for namespace in (SHOP, "idle"):
            batch = batch_of(*numbered(finished))
            outbox.publish_commit(outbox.enqueue(namespace, batch))
        clock.advance(1)
        outbox.enqueue(SHOP, batch_of(*"abcdefghij"), commit_position="live")
        dead = outbox.claim(SHOP, "w", limit=3, claim_ttl=30)
        outbox.mark_failed(dead, "e", backoff=0, dead=True)
        steps[0] = 0
        operation(outbox)
        spent = steps[0]
        outbox.close()
        return spent

    few, many = cost(30), cost(3000)

    assert many <= few * 1.2 + 5


def plan_of(
    outbox: SQLiteOutbox, statements: list[str], operation: Callable[[Any], object]
) -> str:
    """What EXPLAIN QUERY PLAN says to all statements of an operation."""
    statements.clear()
    operation(outbox)
    unbound: dict[str, None] = collections.defaultdict(lambda: None)
    details: list[str] = []
    with raw(outbox.path) as connection:
        for text in [text for text in statements if "hydracache_outbox" in text]:
            plan = connection.execute(f"explain query plan {text}", unbound)
            details += [row[3] for row in plan]
    return "\n".join(details)


def test_claims_are_read_off_the_index_in_their_order(path, clock, monkeypatch):
    statements: list[str] = []
    spy_on_connections(
        monkeypatch,
        lambda connection: connection.set_trace_callback(statements.append),
    )
    outbox = SQLiteOutbox(path, clock=clock)
    outbox.install_schema()
    outbox.enqueue(SHOP, batch_of("a"))

    plan = plan_of(outbox, statements, OPERATIONS["claim"])

    assert "USING INDEX hydracache_outbox_state" in plan
    assert "SCAN" not in plan
    assert "TEMP B-TREE" not in plan
    outbox.close()


def test_claim_and_mark_take_one_transaction_each(path, clock, monkeypatch):
    statements: list[str] = []
    spy_on_connections(
        monkeypatch,
        lambda connection: connection.set_trace_callback(statements.append),
    )
    outbox = SQLiteOutbox(path, clock=clock)
    outbox.install_schema()
    outbox.claim(SHOP, "w", limit=1, claim_ttl=30)  # looks for rows dated ahead, too
    outbox.enqueue(SHOP, batch_of(*numbered(64)))
    statements.clear()

    rows = outbox.claim(SHOP, "w", limit=64, claim_ttl=30)
    claimed = [text.split()[0].lower() for text in statements]
    statements.clear()
    outbox.mark_published(rows)
    marked = [text.split()[0].lower() for text in statements]

    assert claimed == ["select", "begin", "select", "update", "commit"]
    assert marked == ["update"]
    outbox.close()


@pytest.mark.needs_python(3, 11)  # Connection.setlimit
def test_statements_keep_to_what_an_old_sqlite_takes(path, clock, monkeypatch):
    def limit(connection: sqlite3.Connection) -> None:
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)

    spy_on_connections(monkeypatch, limit)
    outbox = SQLiteOutbox(path, clock=clock)
    outbox.install_schema()
    for n in range(12):
        outbox.enqueue(SHOP, batch_of(*numbered(100)), commit_position=f"tx:{n}")

    for dead in (True, False):
        rows = outbox.claim(SHOP, "w", limit=2000, claim_ttl=30)
        assert outbox.mark_failed(rows, "e", backoff=0, dead=dead) == 1200
        assert outbox.reset_dead_letters(SHOP) == (1200 if dead else 0)
    rows = outbox.claim(SHOP, "w", limit=2000, claim_ttl=30)
    assert outbox.mark_published(rows) == 1200
    clock.advance(1)
    assert outbox.purge_published(SHOP, older_than=0) == 1200
    outbox.close()


#: Programs that end in one way or another, without a warning.
ENDINGS = {
    "closed": "outbox.enqueue('shop', batch); outbox.close()",
    "left open": "outbox.enqueue('shop', batch)",
    "dropped": "outbox.enqueue('shop', batch); del outbox",
    "threads ended": """
threads = [
    threading.Thread(target=outbox.enqueue, args=("shop", batch)) for _ in range(4)
]
for thread in threads: thread.start()
for thread in threads: thread.join()
""",
    "thread alive": """
used = threading.Event()
def use():
    outbox.enqueue("shop", batch)
    used.set()
    threading.Event().wait()
threading.Thread(target=use, daemon=True).start()
used.wait()
outbox.close()
""",
    "inside a block": """
block = outbox.transaction()
connection = block.__enter__()
outbox.enqueue_in(connection, "shop", batch)
""",
    "missing file": """
lost = SQLiteOutbox(sys.argv[1] + ".lost")
try: lost.status("shop")
except OutboxError: pass
""",
    "no database": """
with open(sys.argv[1] + ".junk", "w") as file: file.write("no database " * 100)
junk = SQLiteOutbox(sys.argv[1] + ".junk")
for call in (junk.check_schema, junk.install_schema):
    try: call()
    except OutboxError: pass
""",
    "locked": """
writer = sqlite3.connect(sys.argv[1], isolation_level=None)
writer.execute("begin exclusive")
other = SQLiteOutbox(sys.argv[1], busy_timeout=0.01)
for call in (other.check_schema, other.install_schema):
    try: call()
    except OutboxError: pass
writer.close()
""",
    "forked": """
outbox.enqueue("shop", batch)
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
outbox.enqueue("shop", batch)
if not child:
    outbox.close()
""",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_program_ends_without_a_warning(path, ending):
    script = f"""
import os, sqlite3, sys, threading
from hydracache_sync.errors import OutboxError
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import SQLiteOutbox

batch = InvalidationIntentBatch().invalidate_key("a")
outbox = SQLiteOutbox(sys.argv[1])
outbox.install_schema()
{ending}
"""

    ended = run_python(script, path)

    assert (ended.returncode, ended.stderr) == (0, "")


def test_repr_names_the_file_or_says_that_there_is_none(path):
    assert repr(SQLiteOutbox(path)) == f"SQLiteOutbox('{path}')"
    assert repr(MemoryOutbox()) == "MemoryOutbox()"


def test_temporary_table_of_the_caller_is_not_taken_for_the_outbox(outbox, path):
    with raw(path, isolation_level=None) as connection:
        connection.execute(
            "create temp table hydracache_outbox as"
            " select * from hydracache_outbox limit 0"
        )
        connection.execute("begin")

        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.execute("commit")

    assert keys_of(outbox.rows(SHOP)) == ["a"]


class TestQuietFile:
    """Where nobody has written for a while, no query is sent to find nothing."""

    @pytest.fixture(params=["delete", "wal"])
    def quiet(
        self, request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock
    ) -> Iterator[SQLiteOutbox]:
        path = tmp_path / "quiet.db"
        with contextlib.closing(SQLiteOutbox(path, clock=clock)) as outbox:
            outbox.install_schema()
            # Open to the end: the last connection to close would take the log away.
            with raw(path) as connection:
                connection.execute(f"pragma journal_mode = {request.param}")
                connection.execute("create table app (n)")
                connection.commit()
                deadline = time.monotonic() + DEADLINE
                while outbox.quiet_look([SHOP]) is None:
                    assert outbox.due_namespaces([SHOP]) == []
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                yield outbox

    def test_no_query_is_sent(self, quiet, clock):
        queries = []

        class Query:
            def due(self, namespaces: Sequence[str]) -> list[str]:
                queries.append(namespaces)
                return []

        poll = sqlite_poll.FilePoll(Query(), quiet.path, clock)
        for asked in ([SHOP], [SHOP], [SHOP, "blog"]):
            assert poll.due(asked) == []

        assert queries == [(SHOP,), (SHOP, "blog")]

    def test_a_look_for_little_sees_what_another_commits(self, quiet, clock):
        assert quiet.due_namespaces([SHOP]) == []
        now = time.monotonic()
        is_quiet, until = quiet.quiet_look([SHOP])
        assert is_quiet(time.monotonic())
        assert now < until <= time.monotonic() + sqlite_poll.LOOK_ANYWAY

        with contextlib.closing(SQLiteOutbox(quiet.path, clock=clock)) as other:
            other.enqueue(SHOP, batch_of("a"))

        assert not is_quiet(time.monotonic())
        assert quiet.due_namespaces([SHOP]) == [SHOP]
        assert quiet.quiet_look([SHOP]) is None

    def test_what_another_commits_is_seen_at_once(self, quiet, clock):
        with contextlib.closing(SQLiteOutbox(quiet.path, clock=clock)) as other:
            other.enqueue(SHOP, batch_of("a"))

        assert quiet.due_namespaces([SHOP]) == [SHOP]

    def test_nor_is_the_thread_of_an_open_block_answered(self, quiet):
        with quiet.transaction(), pytest.raises(OutboxError, match="block"):
            quiet.due_namespaces([SHOP])

    def test_rows_that_become_due_by_themselves_are_seen_soon(self, tmp_path):
        clock = FakeClock()
        with contextlib.closing(SQLiteOutbox(tmp_path / "a.db", clock=clock)) as outbox:
            outbox.install_schema()
            outbox.enqueue(SHOP, batch_of("a"))
            outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
            outbox.due_namespaces([SHOP])
            time.sleep(2 * sqlite_poll.QUIET_AFTER)
            assert outbox.due_namespaces([SHOP]) == []

            clock.advance(30)

            assert outbox.due_namespaces([SHOP]) == [SHOP]

"""``hydracache drain``: what it publishes, what it says, what it ends with."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import sqlite3
import struct
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedStore,
    OutboxState,
    SQLiteOutbox,
    TaggedCache,
)
from hydracache_sync.cli import ExitCode
from support.commands import (
    PATIENCE,
    PROGRAM,
    Ended,
    Shop,
    ended,
    run,
    start,
    wait_for_signal_state,
    wait_until_it_handles_signals,
)
from support.faulty_memcached import FaultyMemcached, Mode
from support.servers import Memcached


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


@pytest.fixture
def node() -> Iterator[FaultyMemcached]:
    with FaultyMemcached() as server:
        yield server


@pytest.fixture
def faulty_shop(tmp_path: Path, node: FaultyMemcached, unique: str) -> Iterator[Shop]:
    """A shop whose memcached breaks on demand."""
    with Shop(tmp_path / "shop.db", unique, node.address) as shop:
        yield shop


def drain_until_done(shop: Shop) -> list[Ended]:
    """Drain as cron would, until nothing is left."""
    # Less than the default claim TTL: it must be the one that was set.
    deadline = time.monotonic() + 20
    runs = [shop.drain()]
    while runs[-1].code != ExitCode.DONE and time.monotonic() < deadline:
        runs.append(shop.drain())
    return runs


def replaced(node: FaultyMemcached) -> int:
    """Tokens that were written."""
    return sum(line.startswith("cas ") for line in node.requests)


def assert_nothing_lost(shop: Shop, rows: int) -> None:
    """Every row still waits, none is dead, no attempt was counted."""
    waiting = shop.outbox.rows(shop.namespace, state=OutboxState.PENDING, limit=10**6)

    assert len(waiting) == rows
    assert {row.attempts for row in waiting} <= {0}


# What it publishes


@pytest.mark.parametrize("strict", [True, False])
def test_a_strict_namespace_gets_tokens_of_its_own_kind(
    shop: Shop, memcached: Memcached, strict: bool
) -> None:
    store = MemcachedStore([memcached.address], timeout=30, connect_timeout=30)
    cache = TaggedCache(store, shop.namespace)
    batch = InvalidationIntentBatch().invalidate_key("price")
    shop.outbox.enqueue(shop.namespace, batch)
    options = ("--strict", shop.namespace) if strict else ()

    assert shop.drain(*options).code == ExitCode.DONE

    # A cache that is not strict takes no strict token, and so stores nothing.
    loads = [cache.get_or_load("price", lambda n=n: str(n)) for n in range(2)]
    assert loads == (["0", "1"] if strict else ["0", "0"])


def test_a_change_that_was_committed_by_a_killed_process_reaches_memcached(
    shop: Shop, memcached: Memcached
) -> None:
    data = sqlite3.connect(shop.path)
    data.execute("create table product (id integer primary key, price integer)")
    data.execute("insert into product values (1, 100)")
    data.commit()

    def price() -> int:
        [found] = data.execute("select price from product where id = 1").fetchone()
        return int(found)

    writer = f"""
import os, signal, sqlite3
from hydracache_sync import InvalidationIntentBatch, SQLiteOutbox
outbox = SQLiteOutbox({str(shop.path)!r})
connection = sqlite3.connect({str(shop.path)!r})
connection.execute("update product set price = 200 where id = 1")
batch = InvalidationIntentBatch("price changed").invalidate_entity("product", "1")
outbox.enqueue_in(connection, {shop.namespace!r}, batch)
connection.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""
    with MemcachedStore([memcached.address], timeout=PATIENCE) as store:
        cache = TaggedCache(store, shop.namespace)
        assert cache.get_or_load("price:1", price, tags=["product:1"]) == 100
        killed = ended(start(program=(sys.executable, "-c", writer)))
        assert killed.code == -signal.SIGKILL
        stale = cache.get_or_load("price:1", price, tags=["product:1"])

        drained = ended(shop.start_drain())
        fresh = cache.get_or_load("price:1", price, tags=["product:1"])

    data.close()
    assert (stale, fresh) == (100, 200)
    assert drained.code == ExitCode.DONE
    assert drained.err == ""
    assert drained.out.startswith(f"{shop.namespace}: 1 published in ")
    assert drained.out.endswith("; nothing is left\n")


def test_a_paused_namespace_is_not_drained_and_the_drain_says_so(shop: Shop) -> None:
    shop.invalidate(2)
    shop.outbox.pause(shop.namespace)

    paused, quiet = shop.drain(), shop.drain("--quiet")
    shop.outbox.resume(shop.namespace)
    resumed = shop.drain()

    assert (paused.code, quiet.code) == (ExitCode.WAITING, ExitCode.WAITING)
    assert "; paused since 20" in paused.out
    assert paused.out.endswith("Z and not resumed, waiting: 2 rows\n")
    assert quiet.out == ""
    assert resumed.code == ExitCode.DONE


def test_what_was_rolled_back_is_not_published(shop: Shop) -> None:
    connection = sqlite3.connect(shop.path)
    batch = InvalidationIntentBatch().invalidate_key("k")
    shop.outbox.enqueue_in(connection, shop.namespace, batch)
    connection.rollback()
    connection.close()

    drained = shop.drain("--json")

    assert drained.code == ExitCode.DONE
    assert drained.json["namespaces"][0]["report"]["claimed"] == 0


def test_a_backlog_of_many_batches_is_drained_to_its_end(shop: Shop) -> None:
    shop.invalidate(105)

    drained = shop.drain("--batch-size", "10")

    assert drained.code == ExitCode.DONE
    assert shop.published() == 105


def test_a_unix_socket_is_a_memcached_too(tmp_path: Path, unique: str) -> None:
    with Memcached(unix_socket=str(tmp_path / "m.sock")) as server:
        with Shop(tmp_path / "shop.db", unique, server.address) as shop:
            shop.invalidate(3)

            assert shop.drain().code == ExitCode.DONE


def test_another_ring_writes_other_tokens(
    faulty_shop: Shop, node: FaultyMemcached
) -> None:
    faulty_shop.invalidate(1)

    drained = faulty_shop.drain("--ring", "blue")

    assert drained.code == ExitCode.DONE
    assert [key.split(":")[1] for key in node.items] == ["blue"]


def test_a_table_of_another_name_is_drained(shop: Shop) -> None:
    outbox = SQLiteOutbox(shop.path, table="shop_outbox")
    assert run("schema", "install", table="shop_outbox", **shop.settings).code == 0
    outbox.enqueue(shop.namespace, InvalidationIntentBatch().invalidate_key("k"))

    drained = shop.drain(table="shop_outbox")

    assert drained.code == ExitCode.DONE
    assert outbox.status(shop.namespace).pending == 0
    outbox.close()


def test_several_namespaces_are_drained_in_turn(
    faulty_shop: Shop, node: FaultyMemcached
) -> None:
    first, second = faulty_shop.namespace + "a", faulty_shop.namespace + "b"
    for namespace in (first, second):
        batch = InvalidationIntentBatch()
        for number in range(4):
            batch.invalidate_key(f"k{number}")
        faulty_shop.outbox.enqueue(namespace, batch)

    drained = faulty_shop.drain(
        *("--namespace", first, "--namespace", second, "--namespace", first),
        *("--batch-size", "2", "--json"),
    )

    assert drained.code == ExitCode.DONE
    assert [each["namespace"] for each in drained.json["namespaces"]] == [first, second]
    order = [line.split(":")[2] for line in node.requests if line.startswith("cas ")]
    assert order == [first] * 2 + [second] * 2 + [first] * 2 + [second] * 2


def test_nothing_to_do_is_done(shop: Shop) -> None:
    shop.invalidate(1)
    shop.drain()

    empty = shop.drain()

    assert empty.code == ExitCode.DONE
    assert empty.out.startswith(f"{shop.namespace}: 0 published in ")
    assert empty.out.endswith("; nothing is left\n")


def test_a_namespace_without_a_row_is_done_and_pointed_out(shop: Shop) -> None:
    drained = shop.drain(namespace="shpo")

    assert drained.code == ExitCode.DONE
    assert "the outbox has no row of this namespace" in drained.out


def test_old_dead_letters_are_no_business_of_a_drain(shop: Shop) -> None:
    shop.invalidate(1)
    rows = shop.outbox.claim(shop.namespace, "test", limit=1, claim_ttl=60)
    shop.outbox.mark_failed(rows, "given up before", backoff=0, dead=True)

    drained = shop.drain("--json")

    assert drained.code == ExitCode.DONE
    assert drained.json["namespaces"][0]["status"]["dead_lettered"] == 1


# What remains


def test_rows_in_backoff_are_told_from_an_empty_outbox(shop: Shop) -> None:
    shop.invalidate(2)
    rows = shop.outbox.claim(shop.namespace, "test", limit=2, claim_ttl=60)
    shop.outbox.mark_failed(rows, "try later", backoff=60, dead=False)
    shop.invalidate(1, first=2)

    drained = shop.drain()

    assert drained.code == ExitCode.WAITING
    assert f"{shop.namespace}: 1 published" in drained.out
    assert drained.out.endswith("; waiting in backoff or being drained: 2 rows\n")


def test_rows_claimed_by_another_are_told_from_an_empty_outbox(shop: Shop) -> None:
    shop.invalidate(1)
    shop.outbox.claim(shop.namespace, "another", limit=1, claim_ttl=60)

    drained = shop.drain()

    assert drained.code == ExitCode.WAITING
    assert drained.out.endswith("; waiting in backoff or being drained: 1 row\n")


def test_once_runs_one_batch_and_says_what_is_left(shop: Shop) -> None:
    shop.invalidate(15)

    first = shop.drain("--once", "--batch-size", "10")
    second = shop.drain("--once", "--batch-size", "10")

    assert first.code == ExitCode.ENDED_EARLY
    assert "10 published" in first.out
    assert first.out.endswith("; ended by --once, left: 5 rows\n")
    assert second.code == ExitCode.DONE


def test_once_that_took_all_that_was_due_says_that_the_rest_waits(shop: Shop) -> None:
    shop.invalidate(1)
    rows = shop.outbox.claim(shop.namespace, "test", limit=1, claim_ttl=60)
    shop.outbox.mark_failed(rows, "try later", backoff=60, dead=False)
    shop.invalidate(3, first=1)

    drained = shop.drain("--once", "--batch-size", "10", "--json")

    assert drained.code == ExitCode.WAITING
    assert drained.json["ended_by"] is None


def test_a_limit_in_seconds_ends_a_drain_between_two_batches(
    faulty_shop: Shop, node: FaultyMemcached
) -> None:
    faulty_shop.invalidate(30)
    node.mode, node.delay = Mode.SLOW, 0.3

    drained = faulty_shop.drain("--json", batch_size=10, max_seconds=0.1)

    assert drained.code == ExitCode.ENDED_EARLY
    assert drained.json["ended_by"] == "--max-seconds"
    assert drained.json["namespaces"][0]["report"]["published"] == 10
    assert faulty_shop.pending() == 20


def test_a_claim_too_short_for_a_batch_is_not_taken_for_an_outage(shop: Shop) -> None:
    shop.invalidate(5)

    drained = shop.drain(claim_ttl=0.001)

    assert drained.code == ExitCode.ENDED_EARLY
    assert drained.out.endswith(
        "; ended by a claim TTL too short for a batch, left: 5 rows\n"
    )


def test_a_limit_that_is_not_reached_changes_nothing(shop: Shop) -> None:
    shop.invalidate(5)

    drained = shop.drain("--json", "--max-seconds", "55")

    assert drained.code == ExitCode.DONE
    assert drained.json["ended_by"] is None


def test_a_row_that_is_given_up_is_reported_and_its_neighbours_are_published(
    shop: Shop,
) -> None:
    shop.invalidate(3)
    connection = sqlite3.connect(shop.path)
    connection.execute("update hydracache_outbox set kind = 'odd' where id = 2")
    connection.commit()
    connection.close()

    drained = ended(shop.start_drain("--quiet"))
    again = shop.drain("--quiet")

    assert drained.code == ExitCode.DEAD_LETTERS
    # Two of three, and the flush in place of what was given up.
    assert f"{shop.namespace}: 3 published, 1 given up" in drained.out
    assert "ERROR row 2 of namespace" in drained.err
    assert "malformed row" in drained.err
    assert again.code == ExitCode.DONE


def test_no_flush_follows_a_dead_letter_where_that_is_switched_off(shop: Shop) -> None:
    shop.invalidate(1)
    connection = sqlite3.connect(shop.path)
    connection.execute("update hydracache_outbox set kind = 'odd'")
    connection.commit()
    connection.close()

    drained = shop.drain("--json", escalate="no")

    assert drained.code == ExitCode.DEAD_LETTERS
    assert drained.json["namespaces"][0]["report"]["published"] == 0


def test_the_worst_of_several_namespaces_is_the_exit_code(shop: Shop) -> None:
    good, waiting = shop.namespace + "a", shop.namespace + "b"
    batch = InvalidationIntentBatch().invalidate_key("k")
    shop.outbox.enqueue(good, batch)
    shop.outbox.enqueue(waiting, batch)
    shop.outbox.claim(waiting, "another", limit=1, claim_ttl=60)

    for namespaces in (f"{good},{waiting}", f"{waiting},{good}"):
        assert shop.drain(namespace=namespaces).code == ExitCode.WAITING


# What it prints


def test_json_has_the_fields_of_report_and_status(shop: Shop) -> None:
    shop.invalidate(2)

    drained = ended(shop.start_drain("--json"))

    found = drained.json
    [namespace] = found["namespaces"]
    assert found.pop("seconds") > 0
    assert namespace["status"].pop("last_published_at_ms") > 0
    assert found == {
        "exit_code": 0,
        "result": "done",
        "ended_by": None,
        "error": None,
        "namespaces": [
            {
                "namespace": shop.namespace,
                "report": {
                    "claimed": 2,
                    "published": 2,
                    "retried": 0,
                    "dead_lettered": 0,
                    "released": 0,
                    "lost": 0,
                    "unseen": 0,
                },
                "purged": 0,
                "status": {
                    "pending": 0,
                    "oldest_pending_age_ms": 0,
                    "dead_lettered": 0,
                    "failed_attempts": 0,
                    "capped": False,
                    "paused_since_ms": None,
                    "ahead_ms": 0,
                    "claimed": 0,
                    "backoff": 0,
                },
            }
        ],
    }


def test_a_quiet_drain_is_silent_when_nobody_is_needed(shop: Shop) -> None:
    shop.invalidate(3)
    done = ended(shop.start_drain("--quiet"))
    shop.invalidate(3, first=3)
    early = ended(shop.start_drain("--quiet", "--once", "--batch-size", "1"))

    assert (done.code, done.out, done.err) == (ExitCode.DONE, "", "")
    assert (early.code, early.out, early.err) == (ExitCode.ENDED_EARLY, "", "")


def test_a_quiet_drain_speaks_up_when_memcached_is_away(faulty_shop: Shop) -> None:
    faulty_shop.invalidate(3)
    faulty_shop.settings["memcached"] = "127.0.0.1:1"

    away = ended(faulty_shop.start_drain("--quiet"))

    assert away.code == ExitCode.CACHE_AWAY
    assert "; memcached is away, waiting: 3 rows\n" in away.out
    assert away.err == ""


def drain_on_a_terminal(shop: Shop, *arguments: str, program: tuple[str, ...]) -> Ended:
    """Run a drain with a terminal as its stderr; ``err`` is what that showed."""
    parent, child = pty.openpty()
    # A new terminal is 0 columns wide: no bar fits.
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = start("drain", *arguments, program=program, stderr=child, **shop.settings)
    os.close(child)
    shown = b""
    while True:
        try:
            data = os.read(parent, 65536)
        except OSError:
            break  # Linux's end of file: the last writer is gone
        if not data:
            break
        shown += data
    os.close(parent)
    return ended(process)._replace(err=shown.decode())


def test_a_long_backlog_has_a_progress_bar_on_a_terminal(shop: Shop) -> None:
    shop.invalidate(1000)

    drained = drain_on_a_terminal(shop, "--batch-size", "50", program=PROGRAM)

    assert drained.code == ExitCode.DONE
    assert "100%" in drained.err
    assert "1000/1000" in drained.err
    assert drained.out.count("\n") == 1


def test_a_backlog_beyond_the_cap_has_a_bar_without_a_total(shop: Shop) -> None:
    shop.invalidate(10_001)

    drained = drain_on_a_terminal(shop, program=PROGRAM)

    assert drained.code == ExitCode.DONE
    assert "10001 rows" in drained.err
    assert "%" not in drained.err


@pytest.mark.parametrize(
    "rows, arguments", [(3, ()), (600, ("--quiet",))], ids=["short", "quiet"]
)
def test_a_short_backlog_or_a_quiet_drain_has_no_bar(
    shop: Shop, rows: int, arguments: tuple[str, ...]
) -> None:
    shop.invalidate(rows)

    drained = drain_on_a_terminal(shop, *arguments, program=PROGRAM)

    assert drained.code == ExitCode.DONE
    assert drained.err == ""


def test_a_pipe_has_no_bar(shop: Shop) -> None:
    shop.invalidate(1000)

    drained = ended(shop.start_drain())

    assert drained.err == ""


def test_without_tqdm_a_drain_on_a_terminal_works_without_a_bar(shop: Shop) -> None:
    shop.invalidate(1000)
    code = "import sys; sys.modules['tqdm'] = None\n"
    code += "from hydracache_sync.__main__ import main; main()"

    drained = drain_on_a_terminal(shop, program=(sys.executable, "-c", code))

    assert drained.code == ExitCode.DONE
    assert drained.err == ""


# memcached is not well


@pytest.mark.parametrize(
    "mode",
    [
        Mode.REFUSE,
        Mode.HANG,
        Mode.GARBAGE,
        Mode.SERVER_ERROR,
        Mode.CLOSE_MID_REPLY,
    ],
    ids=lambda mode: mode.name.lower(),
)
def test_rows_wait_while_memcached_fails_and_go_when_it_is_back(
    faulty_shop: Shop, node: FaultyMemcached, mode: Mode
) -> None:
    faulty_shop.invalidate(1)
    node.mode = mode

    away = faulty_shop.drain("--json", timeout=0.2)
    assert_nothing_lost(faulty_shop, 1)
    node.mode = Mode.WORKING
    back = faulty_shop.drain()

    assert away.code == ExitCode.CACHE_AWAY
    assert away.json["namespaces"][0]["report"]["released"] == 1
    assert back.code == ExitCode.DONE


def test_a_memcached_that_hangs_ends_a_drain_of_many_batches_within_a_timeout(
    faulty_shop: Shop, node: FaultyMemcached
) -> None:
    faulty_shop.invalidate(1000)
    node.mode = Mode.HANG

    started = time.monotonic()
    away = faulty_shop.drain(timeout=0.2)

    assert away.code == ExitCode.CACHE_AWAY
    assert time.monotonic() - started < 5
    assert_nothing_lost(faulty_shop, 1000)


def test_a_memcached_that_dies_in_the_middle_keeps_what_it_acknowledged(
    faulty_shop: Shop, node: FaultyMemcached
) -> None:
    faulty_shop.invalidate(30)
    # A batch takes two round trips.
    node.once(Mode.WORKING, Mode.WORKING)
    node.mode = Mode.SERVER_ERROR

    away = faulty_shop.drain("--json", "--batch-size", "10")

    assert away.code == ExitCode.CACHE_AWAY
    assert away.json["namespaces"][0]["report"]["published"] == 10
    assert_nothing_lost(faulty_shop, 20)


def test_a_memcached_that_was_restarted_empty_gets_the_rest(
    shop: Shop,
) -> None:
    with Memcached() as server:
        shop.settings["memcached"] = server.address
        shop.invalidate(5)
        assert shop.drain().code == ExitCode.DONE
        shop.invalidate(5, first=5)
        server.kill()
        away = ended(shop.start_drain())
        server.start()
        back = shop.drain()

    assert away.code == ExitCode.CACHE_AWAY
    assert "memcached is away, waiting: 5 rows" in away.out
    assert f"WARNING the cache of namespace {shop.namespace} is away" in away.err
    assert back.code == ExitCode.DONE
    assert shop.published() == 10


# The outbox is not well


def test_a_file_that_is_not_there_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "none.db"

    failed = run(
        "drain", outbox=f"sqlite:///{path}", namespace="n", memcached="127.0.0.1:1"
    )

    assert failed.code == ExitCode.OUTBOX_AWAY
    assert "hydracache schema install" in failed.err
    assert not path.exists()


def test_a_missing_table_names_the_command_that_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    sqlite3.connect(path).execute("create table product (id)").connection.close()

    failed = run(
        "drain", outbox=f"sqlite:///{path}", namespace="n", memcached="127.0.0.1:1"
    )

    assert failed.code == ExitCode.SCHEMA
    assert "hydracache schema install" in failed.err


@pytest.mark.parametrize("version, says", [(0, "older"), (99, "newer")])
def test_tables_of_another_version_are_not_touched(
    shop: Shop, version: int, says: str
) -> None:
    shop.invalidate(1)
    connection = sqlite3.connect(shop.path)
    connection.execute("update hydracache_outbox_schema set version = ?", [version])
    connection.commit()
    connection.close()

    failed = shop.drain()

    assert failed.code == ExitCode.SCHEMA
    assert f"version {version}, {says} than" in failed.err
    assert shop.pending() == 1


def test_a_locked_database_is_waited_for_and_then_reported(shop: Shop) -> None:
    shop.invalidate(1)

    with shop.outbox.transaction():
        failed = ended(shop.start_drain("--json", busy_timeout=0.2))

    assert failed.code == ExitCode.OUTBOX_AWAY
    assert "is locked" in failed.err
    assert failed.err.count("\n") == 1
    assert failed.json["exit_code"] == ExitCode.OUTBOX_AWAY
    assert "is locked" in failed.json["error"]
    assert failed.json["namespaces"][0]["status"] is None
    assert_nothing_lost(shop, 1)


def test_what_was_published_before_the_database_failed_is_reported(
    faulty_shop: Shop, node: FaultyMemcached
) -> None:
    faulty_shop.invalidate(20)
    node.mode, node.delay = Mode.SLOW, 0.5
    locked, done = threading.Event(), threading.Event()

    def lock_while_the_second_batch_is_applied() -> None:
        # The first one was 10 of ``add``, a ``gets``, and 10 of ``cas``.
        node.wait_for_requests(22, PATIENCE)
        with faulty_shop.outbox.transaction():
            locked.set()
            done.wait(PATIENCE)
        faulty_shop.outbox.close()

    thread = threading.Thread(target=lock_while_the_second_batch_is_applied)
    thread.start()
    failed = ended(faulty_shop.start_drain(batch_size=10, busy_timeout=0.1))
    done.set()
    thread.join()

    assert locked.is_set()
    assert failed.code == ExitCode.OUTBOX_AWAY
    assert f"{faulty_shop.namespace}: 10 published" in failed.out
    assert "then the outbox failed" in failed.out
    assert faulty_shop.published() == 10


# Several at once


def test_three_drains_share_a_backlog_and_apply_each_row_once(
    faulty_shop: Shop, node: FaultyMemcached
) -> None:
    rows = 600
    faulty_shop.invalidate(rows)
    # Long enough for all three to be at it.
    node.mode, node.delay = Mode.SLOW, 0.1

    processes = [faulty_shop.start_drain("--json", batch_size=20) for _ in range(3)]
    drained = [ended(process) for process in processes]

    published = [each.json["namespaces"][0]["report"]["published"] for each in drained]
    assert {each.code for each in drained} <= {ExitCode.DONE, ExitCode.WAITING}
    assert {each.err for each in drained} == {""}
    assert sum(published) == rows and all(published)
    assert replaced(node) == rows
    assert faulty_shop.published() == rows


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_batch_in_flight_finish_and_leaves_the_rest_due(
    faulty_shop: Shop, node: FaultyMemcached, number: signal.Signals
) -> None:
    faulty_shop.invalidate(30)
    node.mode, node.delay = Mode.SLOW, 1.0
    process = faulty_shop.start_drain("--json", batch_size=10)
    assert node.wait_for_requests(1, PATIENCE)

    process.send_signal(number)
    stopped = ended(process)
    node.mode = Mode.WORKING
    rest = faulty_shop.drain("--json")

    assert stopped.code == ExitCode.ENDED_EARLY
    assert stopped.err == ""
    assert stopped.json["ended_by"] == number.name
    assert stopped.json["namespaces"][0]["report"]["published"] == 10
    assert rest.code == ExitCode.DONE
    assert rest.json["namespaces"][0]["report"]["published"] == 20


def test_a_signal_in_the_last_batch_is_no_early_end(
    faulty_shop: Shop, node: FaultyMemcached
) -> None:
    faulty_shop.invalidate(5)
    node.mode, node.delay = Mode.SLOW, 1.0
    process = faulty_shop.start_drain()
    assert node.wait_for_requests(1, PATIENCE)

    process.send_signal(signal.SIGTERM)
    stopped = ended(process)

    assert stopped.code == ExitCode.DONE
    assert stopped.out.endswith("; nothing is left\n")


def test_a_signal_before_the_first_batch_claims_nothing(shop: Shop) -> None:
    shop.invalidate(5)
    with shop.outbox.transaction():
        process = shop.start_drain("--json", busy_timeout=PATIENCE)
        wait_until_it_handles_signals(process)
        process.send_signal(signal.SIGTERM)
        wait_for_signal_state(process, "SigCgt", signal.SIGTERM, False)
    stopped = ended(process)

    report = stopped.json["namespaces"][0]["report"]
    assert stopped.code == ExitCode.ENDED_EARLY
    # Whether it stopped before the claim or after it: nothing stays claimed.
    assert (report["published"], report["released"]) == (0, report["claimed"])
    assert shop.drain().code == ExitCode.DONE


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(
    faulty_shop: Shop,
    node: FaultyMemcached,
    first: signal.Signals,
    second: signal.Signals,
) -> None:
    faulty_shop.invalidate(1)
    node.mode = Mode.HANG
    process = faulty_shop.start_drain()
    assert node.wait_for_requests(1, PATIENCE)

    process.send_signal(first)
    wait_for_signal_state(process, "SigCgt", second, False)
    process.send_signal(second)

    assert ended(process).code == -second
    assert_nothing_lost(faulty_shop, 1)


def test_a_signal_that_the_caller_ignores_stays_ignored(
    faulty_shop: Shop, node: FaultyMemcached
) -> None:
    faulty_shop.invalidate(20)
    node.mode, node.delay = Mode.SLOW, 0.5
    process = start(
        *("drain", "--batch-size", "10"),
        ignored=(signal.SIGINT,),
        **faulty_shop.settings,
    )
    assert node.wait_for_requests(1, PATIENCE)

    process.send_signal(signal.SIGINT)
    drained = ended(process)

    assert drained.code == ExitCode.DONE
    assert "20 published" in drained.out


def test_what_a_killed_drain_held_is_published_by_another(
    faulty_shop: Shop, node: FaultyMemcached
) -> None:
    faulty_shop.invalidate(30)
    node.mode = Mode.HANG
    process = faulty_shop.start_drain(batch_size=10, claim_ttl=1)
    assert node.wait_for_requests(1, PATIENCE)

    process.send_signal(signal.SIGKILL)
    killed = ended(process)
    node.mode = Mode.WORKING
    runs = drain_until_done(faulty_shop)

    assert killed.code == -signal.SIGKILL
    assert {run.code for run in runs[:-1]} <= {ExitCode.WAITING}
    assert faulty_shop.published() == 30
    assert faulty_shop.outbox.dead_letters(faulty_shop.namespace) == []


def test_a_command_inside_a_thread_leaves_signals_alone(shop: Shop) -> None:
    shop.invalidate(1)
    found: list[Ended] = []

    thread = threading.Thread(target=lambda: found.append(shop.drain()))
    thread.start()
    thread.join()

    assert found[0].code == ExitCode.DONE


def test_the_signal_handlers_of_a_caller_come_back(shop: Shop) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    shop.drain()

    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert after == before


def test_while_the_server_list_changes_both_rings_are_written_to(
    shop: Shop, memcached: Memcached
) -> None:
    shop.invalidate(1)
    with FaultyMemcached() as old:
        changing = ["--ring", "b", "--previous-memcached", old.address]
        changing += ["--previous-ring", "a", "--weights", f"{memcached.address}=2"]

        old.mode = Mode.REFUSE
        away = shop.drain(*changing)
        old.mode = Mode.WORKING
        while True:
            done = shop.drain(*changing)
            if done.code != ExitCode.WAITING:
                break

        assert away.code == ExitCode.CACHE_AWAY
        assert done.code == ExitCode.DONE
        assert [key.split(":")[1] for key in old.items] == ["a"]


def test_a_heartbeat_is_written_where_it_is_asked_for(shop: Shop) -> None:
    heartbeat = "select beat_ms from hydracache_outbox_heartbeat"
    with contextlib.closing(sqlite3.connect(shop.path)) as data:
        without = shop.drain(), data.execute(heartbeat).fetchall()
        before = time.time()
        drained = shop.drain(heartbeat=1)
        [(beat_ms,)] = data.execute(heartbeat).fetchall()

    assert without[0].code == drained.code == ExitCode.DONE
    assert without[1] == []
    assert int(before * 1000) <= beat_ms <= time.time() * 1000


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--previous-memcached", "cache1:11211"], "--previous-ring"),
        (["--previous-ring", "1"], "--previous-memcached"),
        (["--previous-weights", "cache1:11211=2"], "--previous-memcached"),
        (
            ["--ring", "1", "--previous-ring", "1"]
            + ["--previous-memcached", "cache1:11211"],
            "ring id",
        ),
        (["--weights", "cache1:11211=2"], "which servers does not"),
        (["--weights", "cache1:11211=much"], "is no weight"),
        (["--weights", "cache1:11211=-1"], "over 0"),
    ],
)
def test_half_a_change_of_the_server_list_is_refused(
    shop: Shop, arguments: list[str], named: str
) -> None:
    drained = shop.drain(*arguments)

    assert drained.code == ExitCode.USAGE
    assert named in drained.err

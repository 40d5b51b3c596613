"""``hydracache status`` and ``doctor``: who carries rows, and that nobody does."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

import hydracache_sync
from hydracache_sync import InvalidationIntentBatch, SQLiteOutbox, WorkerBeat
from hydracache_sync.cli import ExitCode
from support import ROOT
from support.clock import FakeClock
from support.commands import Ended, Shop, ended, run, start
from support.pasted import blocks, commands
from support.servers import Memcached
from support.waiting import eventually


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


def look(command: str, shop: Shop, *arguments: str) -> Ended:
    named = {name: shop.settings[name] for name in ("outbox", "namespace")}
    return run(command, *arguments, **named)


@contextlib.contextmanager
def ago(shop: Shop, seconds: float) -> Iterator[SQLiteOutbox]:
    """The outbox as it was so many seconds ago."""
    clock = FakeClock(int((time.time() - seconds) * 1000))
    with contextlib.closing(SQLiteOutbox(shop.path, clock=clock)) as outbox:
        yield outbox


def seen(shop: Shop, seconds: float, kind: str = "pool", **changed: Any) -> None:
    """Have a process seen so many seconds ago."""
    told: dict[str, Any] = {
        "owner": f"{kind} {seconds} {changed}"[:255],
        "kind": kind,
        "host": "web1",
        "pid": 4711,
        "version": "0.1.0",
        "namespaces": (shop.namespace,),
        "age": 7200.0,
        "every": 0.0 if kind == "drain" else 10.0,
        "carried": 12,
    }
    with ago(shop, seconds) as outbox:
        outbox.beat(WorkerBeat(**{**told, **changed}))


def waits(shop: Shop, seconds: float) -> None:
    """Have a row wait since so many seconds ago."""
    with ago(shop, seconds) as outbox:
        outbox.enqueue(shop.namespace, InvalidationIntentBatch().invalidate_key("old"))


def findings(shop: Shop) -> list[tuple[str, str, str]]:
    return [
        (each["level"], each["check"], each["text"])
        for each in look("doctor", shop, "--json").json["findings"]
    ]


def of_namespace(shop: Shop) -> list[tuple[str, str]]:
    check = f"namespace {shop.namespace}"
    return [(level, text) for level, on, text in findings(shop) if on == check]


def silence(shop: Shop) -> str | None:
    """What status says of a namespace that nobody carries."""
    [found] = look("status", shop, "--json").json["namespaces"]
    return found["uncarried"]


# Who leaves word


def test_a_worker_says_that_it_carries(shop: Shop) -> None:
    with contextlib.ExitStack() as stack:
        worker = start("worker", **shop.settings)
        stack.callback(worker.wait)
        stack.callback(worker.send_signal, signal.SIGTERM)
        shop.invalidate(3)
        found = eventually(
            lambda: [each for each in shop.outbox.workers() if each.carried == 3]
        )
        shown = look("status", shop)
    end = ended(worker)

    assert end.code == ExitCode.DONE
    [process] = found
    assert (process.kind, process.pid) == ("worker", worker.pid)
    assert process.host == socket.gethostname()
    assert process.version == hydracache_sync.__version__
    assert process.namespaces == (shop.namespace,)
    line = shown.out.splitlines()[-1]
    assert line.startswith(f"worker {process.host}/{worker.pid}  {shop.namespace}  ")
    assert re.search(r" \d\.\d s ago +\d+\.\d s ago +3$", line)


def test_drains_say_that_they_have_run_and_add_up(shop: Shop) -> None:
    for rows in (2, 0, 1):
        shop.invalidate(rows, first=10 * rows)
        assert shop.drain().code == ExitCode.DONE

    [process] = shop.outbox.workers()
    assert (process.kind, process.carried) == ("drain", 3)
    assert process.pid == os.getpid()
    assert process.every_ms > 0
    assert process.batch_ms is not None


def test_a_drain_that_cannot_say_so_has_drained_all_the_same(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.invalidate(1)
    with contextlib.closing(sqlite3.connect(shop.path)) as connection:
        connection.execute(
            "create trigger no before insert on hydracache_outbox_workers"
            " begin select raise(abort, 'no room'); end"
        )

    end = shop.drain()

    assert end.code == ExitCode.DONE
    [line] = caplog.messages
    assert "that this drain has run is not noted" in line
    assert "no room" in line
    assert shop.published() == 1


# What is told of them


def test_those_that_run_are_listed_and_those_that_are_gone_are_not(
    shop: Shop,
) -> None:
    seen(shop, 3, batch_age=5.0)
    seen(shop, 4, kind="worker", host="web2", namespaces=(shop.namespace, "blog"))
    seen(shop, 600, host="gone")
    seen(shop, 1, host="other", namespaces=("blog",))

    shown = look("status", shop)
    found = look("status", shop, "--json").json["workers"]
    examined = findings(shop)

    table = shown.out.splitlines()[-3:]
    assert table[0].split("  ")[0] == "applied by"
    assert re.match(
        rf"pool web1/4711 +{shop.namespace} +0\.1\.0 +[34]\.\d s ago +[89]\.\d s ago"
        r" +12$",
        table[1],
    )
    assert table[2].startswith(f"worker web2/4711  {shop.namespace} blog  ")
    assert [(each["host"], each["late"]) for each in found] == [
        ("web1", False),
        ("web2", False),
        ("gone", True),
    ]
    texts = [text for _, check, text in examined if check == "workers"]
    assert len(texts) == 3
    assert any(
        text.startswith(
            f"pool web1/4711, version 0.1.0, applies {shop.namespace}: seen"
        )
        and text.endswith(" ago, 12 rows published")
        for text in texts
    )


def test_more_than_can_be_read_are_counted(shop: Shop) -> None:
    for pid in range(25):
        seen(shop, 1, pid=pid, owner=str(pid))

    shown = look("status", shop)
    examined = findings(shop)

    assert shown.out.count("pool web1/") == 20
    assert shown.out.endswith("and 5 more, which --json lists\n")
    assert ("ok", "workers", "and 5 more") in examined


def test_a_namespace_that_nobody_carries_is_told_with_the_last_one(
    shop: Shop,
) -> None:
    seen(shop, 7500)
    seen(shop, 7260, host="web2")
    seen(shop, 1, namespaces=("another",))
    waits(shop, 5)

    shown = look("status", shop)
    problems = [text for level, text in of_namespace(shop) if level == "problem"]

    expected = (
        r"1 row waits, and no worker has been seen for 2 h 1 min; the last was pool"
        r" web2/4711 at 20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ, seen every 10\.0 s until then"
    )
    assert re.fullmatch(expected, silence(shop) or "")
    assert re.search(f"^{shop.namespace}: {expected}$", shown.out, re.MULTILINE)
    assert [bool(re.fullmatch(expected, text)) for text in problems] == [True]
    assert look("doctor", shop).code == ExitCode.ALERT


def test_where_the_last_has_just_stopped_it_may_be_starting_anew(shop: Shop) -> None:
    seen(shop, 7500)
    seen(shop, 1, stopped=True)
    waits(shop, 5)

    assert silence(shop) is None


def test_where_the_last_has_stopped_it_is_told_after_a_minute(shop: Shop) -> None:
    seen(shop, 7500)
    seen(shop, 90, stopped=True, pid=1)
    waits(shop, 5)

    expected = (
        r"1 row waits, and no worker runs; the last, pool web1/1, stopped at"
        r" 20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ"
    )
    assert re.fullmatch(expected, silence(shop) or "")


def test_a_cron_that_is_dead_is_told_before_a_row_waits(shop: Shop) -> None:
    seen(shop, 1000, kind="drain", owner="d")
    seen(shop, 940, kind="drain", owner="d")

    [(level, text)] = [
        (level, text) for level, text in of_namespace(shop) if "no worker" in text
    ]

    assert level == "warning"
    assert text.startswith("no worker has been seen for 15 min ")
    assert "the last was drain web1/4711 at " in text
    assert text.endswith(", seen every 1 min 0 s until then. Rows would wait")
    assert silence(shop) is not None


def test_a_cron_that_comes_each_hour_is_not_dead_after_two(shop: Shop) -> None:
    seen(shop, 10_800, kind="drain", owner="d")
    seen(shop, 7200, kind="drain", owner="d")
    waits(shop, 4000)

    assert silence(shop) is None


def test_one_drain_by_hand_among_crons_makes_nobody_late(shop: Shop) -> None:
    for seconds in (3600, 3300, 3000, 2995):
        seen(shop, seconds - 2700, kind="drain", owner="d")
    waits(shop, 1)

    assert silence(shop) is None


def test_rows_that_wait_since_a_single_drain_are_told(shop: Shop) -> None:
    seen(shop, 200, kind="drain")
    waits(shop, 10)
    young = silence(shop)
    waits(shop, 70)

    problems = [text for level, text in of_namespace(shop) if level == "problem"]

    expected = (
        r"2 rows wait, and the only worker that was seen is drain web1/4711, which ran"
        r" once, 3 min 2\d s ago"
    )
    assert young is None
    assert re.fullmatch(expected, silence(shop) or "")
    assert [bool(re.fullmatch(expected, text)) for text in problems] == [True]


def test_a_row_that_a_single_drain_has_left_waits_for_something_else(
    shop: Shop,
) -> None:
    waits(shop, 250)
    seen(shop, 200, kind="drain")

    assert silence(shop) is None


def test_beside_a_pool_a_single_drain_is_no_matter(shop: Shop) -> None:
    seen(shop, 200, kind="drain")
    seen(shop, 3)
    waits(shop, 70)

    assert silence(shop) is None


def test_where_none_was_ever_seen_a_young_row_is_no_alarm(shop: Shop) -> None:
    assert silence(shop) is None
    waits(shop, 10)
    assert silence(shop) is None

    waits(shop, 61)

    assert silence(shop) == "2 rows wait, and no worker has been seen within a day"


def test_in_a_pause_nobody_is_missed(shop: Shop) -> None:
    waits(shop, 1000)
    seen(shop, 1000)
    shop.outbox.pause(shop.namespace)

    assert silence(shop) is None


def test_processes_of_several_versions_are_a_warning(shop: Shop) -> None:
    seen(shop, 1)
    seen(shop, 2, version="0.2.0")
    seen(shop, 3, version="0.2.0")
    one_version = look("status", shop, "--namespace", "another")
    seen(shop, 1000, version="0.0.9")

    shown = look("status", shop)
    warnings = [each for each in findings(shop) if "several versions" in each[2]]

    assert warnings == [
        ("warning", "workers", "they are of several versions: 0.1.0 (1), 0.2.0 (2)")
    ]
    assert "they are of several versions: 0.1.0, 0.2.0\n" in shown.out
    assert "several versions" not in one_version.out


def test_what_a_process_has_met_lately_is_a_warning(shop: Shop) -> None:
    seen(shop, 1, last_error="OSError: \x1b[31mno route to host")
    seen(shop, 1000, last_error="long ago")

    warnings = [each for each in findings(shop) if each[0] == "warning"]

    assert [(level, check) for level, check, _ in warnings] == [("warning", "workers")]
    assert "pool web1/4711 has lately met: OSError: " in warnings[0][2]
    assert "\x1b" not in warnings[0][2]
    assert "no route to host" in warnings[0][2]


def test_a_server_that_may_be_behind_is_a_warning(shop: Shop) -> None:
    seen(shop, 1, reads_elsewhere="db2:3306")

    warnings = [each for each in findings(shop) if each[0] == "warning"]

    [(_, check, text)] = warnings
    assert check == "replica"
    assert text.startswith("loads of pool web1/4711 read db2:3306, ")


# How the caches fare


def test_hit_rate_and_what_was_not_stored_is_added_up(shop: Shop) -> None:
    counts = {"hits": 90, "misses": 10, "fills": 7, "refused_snapshot": 3}
    of_one = {**counts, "refused_transaction": 2, "of_another_version": 1}
    seen(shop, 1, caches={shop.namespace: of_one, "another": {"hits": 1000}})
    seen(shop, 2, caches={shop.namespace: {"hits": 800, "misses": 100}})
    seen(shop, 1000, caches={shop.namespace: {"misses": 10**6}})

    shown = look("status", shop)
    [found] = look("status", shop, "--json").json["namespaces"]

    text = "hit rate 89.0% of 1000 cached reads; loads not stored: snapshot 1,"
    assert f"{shop.namespace}: {text} transaction 2\n" in shown.out
    assert (found["cache"]["hits"], found["cache"]["misses"]) == (890, 110)
    assert found["cache"]["hit_rate"] == 0.89
    not_stored = found["cache"]["not_stored"]
    assert {why: n for why, n in not_stored.items() if n} == {
        "snapshot": 1,
        "transaction": 2,
    }
    assert ("ok", f"{text} transaction 2") in of_namespace(shop)


def test_the_operators_page_shows_what_is_told(shop: Shop) -> None:
    page = (ROOT / "docs" / "operations" / "operating.md").read_text("utf-8")
    text = page.partition("\n## Which processes apply the rows\n")[2]
    [_, expected] = commands(blocks(text)[0][1])[0]
    # The transactions count among the snapshots.
    refused = {"refused_snapshot": 38, "refused_transaction": 37}
    counts = {"hits": 50907, "misses": 933, **refused}
    seen(shop, 3.1, batch_age=2.0, carried=812, caches={shop.namespace: counts})
    both = {"namespaces": (shop.namespace, "blog"), "batch_age": 116.0}
    seen(shop, 8.4, kind="worker", host="web2", pid=4790, carried=90210, **both)
    shop.outbox.enqueue(shop.namespace, InvalidationIntentBatch().invalidate_key("a"))
    assert shop.drain().code == ExitCode.DONE

    shown = look("status", shop).out

    # The drain is one more line of the table.
    lines = [line for line in shown.splitlines() if not line.startswith("drain ")]
    assert timeless("\n".join(lines), shop) == timeless(expected, shop)


def timeless(text: str, shop: Shop) -> str:
    """Text without moments, and with the page's namespace."""
    text = text.replace(shop.namespace, "shop")
    text = re.sub(r"20[\d-]+ [\d:]+Z", "MOMENT", text)
    text = re.sub(r"(\d+ min )?[\d.]+ s ago", "AGE", text)
    return " ".join(text.split())


def test_a_cache_that_stores_little_is_a_warning(shop: Shop) -> None:
    few = {"misses": 100, "fills": 40, "refused_unknown": 59}
    seen(shop, 1, owner="a", caches={shop.namespace: few})
    in_order = [each for each in of_namespace(shop) if each[0] == "warning"]
    seen(shop, 1, owner="a", caches={shop.namespace: {**few, "refused_unknown": 60}})

    [(_, text)] = [each for each in of_namespace(shop) if each[0] == "warning"]

    assert in_order == []
    assert text == "hit rate 0.0% of 100 cached reads; loads not stored: unknown 60"


def test_without_a_cached_read_nothing_is_said_of_caches(shop: Shop) -> None:
    seen(shop, 1, caches={shop.namespace: {}})

    assert "hit rate" not in look("status", shop).out
    assert not any("hit rate" in text for _, text in of_namespace(shop))

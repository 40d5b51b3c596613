"""``hydracache status``: what it shows, and when it alerts."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import InvalidationIntentBatch, OutboxStatus, SQLiteOutbox
from hydracache_sync.cli import ExitCode
from support.clock import FakeClock
from support.commands import Ended, Shop, run


@pytest.fixture
def shop(tmp_path: Path, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, "127.0.0.1:1") as shop:
        yield shop


def status(shop: Shop, *arguments: str, **values: object) -> Ended:
    named = {name: shop.settings[name] for name in ("outbox", "namespace")}
    return run("status", *arguments, **{**named, **values})


def make_dead(shop: Shop, rows: int) -> None:
    shop.invalidate(rows)
    claimed = shop.outbox.claim(shop.namespace, "test", limit=rows, claim_ttl=60)
    shop.outbox.mark_failed(claimed, "given up", backoff=0, dead=True)


def age(shop: Shop, seconds: float) -> None:
    """Enqueue a row that many seconds ago."""
    clock = FakeClock(int((time.time() - seconds) * 1000))
    outbox = SQLiteOutbox(shop.path, clock=clock)
    outbox.enqueue(shop.namespace, InvalidationIntentBatch().invalidate_key("old"))
    outbox.close()


def test_an_empty_outbox_is_in_order(shop: Shop) -> None:
    shown = status(shop)

    assert shown.code == ExitCode.DONE
    headings, record, empty = shown.out.splitlines()
    assert empty.startswith(f"{shop.namespace} has no row at all")
    assert headings.split("  ")[0] == "namespace"
    assert record.split() == [shop.namespace, "0", "-", "0", "0", "none", "kept"]


def test_the_table_has_a_line_for_each_namespace(shop: Shop) -> None:
    shop.invalidate(3)
    claimed = shop.outbox.claim(shop.namespace, "test", limit=1, claim_ttl=60)
    shop.outbox.mark_published(claimed)
    age(shop, 2 * 3600 + 5 * 60)

    shown = status(shop, "--namespace", shop.namespace, "--namespace", "other")

    headings, record, other, before, silent, _ = shown.out.splitlines()
    assert shown.code == ExitCode.DONE
    assert record.startswith(f"{shop.namespace}  3        2 h 5 min ")
    assert re.search(r"  20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ$", record)
    assert other.startswith("other ")
    assert before.startswith(f"{shop.namespace}: everything committed before 20")
    assert before.endswith("Z is published")
    assert silent == (
        f"{shop.namespace}: 3 rows wait, and no worker has been seen within a day"
    )


def test_json_has_the_fields_of_a_status(shop: Shop) -> None:
    shop.invalidate(2)
    make_dead(shop, 1)

    shown = status(shop, "--json", "--max-dead", "1")

    [found] = shown.json["namespaces"]
    assert shown.code == ExitCode.DONE
    assert shown.json["exit_code"] == 0
    assert found.pop("namespace") == shop.namespace
    assert found.pop("alerts") == []
    assert found.pop("empty") is False
    assert found.pop("published_before_ms") <= time.time() * 1000
    assert found.pop("uncarried") is None
    assert found.pop("cache")["hit_rate"] is None
    assert set(found) == set(OutboxStatus._fields)
    expected = shop.outbox.status(shop.namespace)
    assert OutboxStatus(**found)._replace(oldest_pending_age_ms=0) == (
        expected._replace(oldest_pending_age_ms=0)
    )


def test_a_dead_letter_alerts_unless_allowed(shop: Shop) -> None:
    make_dead(shop, 2)

    by_default = status(shop)
    allowed = status(shop, "--max-dead", "2")
    by_variable = status(shop, max_dead=1)

    assert by_default.code == ExitCode.ALERT
    assert f"ALERT {shop.namespace}: 2 dead, more than --max-dead 0\n" in (
        by_default.out
    )
    assert allowed.code == ExitCode.DONE
    assert by_variable.code == ExitCode.ALERT


def test_a_backlog_alerts_beyond_its_threshold_only(shop: Shop) -> None:
    shop.invalidate(5)

    over, equal = status(shop, "--max-pending", "4"), status(shop, "--max-pending", "5")

    assert over.code == ExitCode.ALERT
    assert f"ALERT {shop.namespace}: 5 pending, more than --max-pending 4\n" in over.out
    assert equal.code == ExitCode.DONE
    assert "ALERT" not in equal.out


def test_an_old_row_alerts_beyond_its_threshold_only(shop: Shop) -> None:
    age(shop, 400)

    over, under = status(shop, "--max-age", "300"), status(shop, "--max-age", "4000")

    assert over.code == ExitCode.ALERT
    assert "the oldest pending row is 6 min 4" in over.out
    assert "more than --max-age 300" in over.out
    assert under.code == ExitCode.DONE


def test_all_that_was_crossed_is_named_in_text_and_in_json(shop: Shop) -> None:
    make_dead(shop, 1)
    age(shop, 400)
    thresholds = ("--max-age", "1", "--max-pending", "0")

    text = status(shop, *thresholds)
    found = status(shop, "--json", *thresholds)

    assert text.out.count("ALERT ") == 3
    assert len(found.json["namespaces"][0]["alerts"]) == 3
    assert found.json["exit_code"] == found.code == ExitCode.ALERT


def test_one_namespace_over_its_threshold_is_enough(shop: Shop) -> None:
    make_dead(shop, 1)

    shown = status(shop, namespace=f"other,{shop.namespace}")

    assert shown.code == ExitCode.ALERT


def test_a_quiet_status_prints_alerts_only(shop: Shop) -> None:
    silent = status(shop, "--quiet")
    make_dead(shop, 1)
    alert = status(shop, "--quiet")

    assert (silent.code, silent.out) == (ExitCode.DONE, "")
    assert alert.out == f"ALERT {shop.namespace}: 1 dead, more than --max-dead 0\n"


def test_counts_beyond_the_cap_are_marked(shop: Shop) -> None:
    shop.invalidate(10_001)

    shown = status(shop, "--max-pending", "9999")
    found = status(shop, "--json")

    assert shown.code == ExitCode.ALERT
    assert f"{shop.namespace}  10000+ " in shown.out
    assert "10000+ pending, more than --max-pending 9999" in shown.out
    assert found.json["namespaces"][0]["capped"] is True


@pytest.mark.parametrize("option", ["--max-pending", "--max-dead"])
def test_a_threshold_that_could_never_be_crossed_is_refused(
    shop: Shop, option: str
) -> None:
    refused = status(shop, option, "10000")

    assert refused.code == ExitCode.USAGE
    assert "a whole number, 0 to 9999" in refused.err


def test_an_outbox_that_cannot_be_read_is_no_alert(shop: Shop, tmp_path: Path) -> None:
    failed = status(shop, "--json", outbox=f"sqlite:///{tmp_path}/none.db")

    assert failed.code == ExitCode.OUTBOX_AWAY
    assert failed.out == ""
    assert not (tmp_path / "none.db").exists()


def test_status_needs_no_memcached(shop: Shop) -> None:
    assert status(shop, memcached="127.0.0.1:1").code == ExitCode.DONE


def test_a_paused_namespace_is_shown_with_its_reason(shop: Shop) -> None:
    shop.outbox.pause(shop.namespace, "memcached moves")

    shown = status(shop, namespace=f"other,{shop.namespace}")
    found = status(shop, "--json")

    assert re.search(
        rf"^{shop.namespace} is paused since 20\S+ \S+Z: memcached moves$",
        shown.out,
        re.MULTILINE,
    )
    since_ms = shop.outbox.paused()[shop.namespace].since_ms
    assert found.json["namespaces"][0]["paused_since_ms"] == since_ms
    assert shown.code == ExitCode.DONE


@pytest.mark.parametrize(
    "change",
    [
        "update hydracache_outbox_paused set since_ms = 'noon'",
        "update hydracache_outbox set created_at_ms = 'noon'",
        "update hydracache_outbox set created_at_ms = 'noon', at_ms = 'noon'",
        "update hydracache_outbox set state = 1, at_ms = 'noon'",
        "update hydracache_outbox set attempts = 'many'",
    ],
)
def test_what_a_foreign_hand_wrote_for_a_number_breaks_nothing(
    shop: Shop, change: str
) -> None:
    shop.invalidate(1)
    shop.outbox.pause(shop.namespace)
    with contextlib.closing(sqlite3.connect(shop.path)) as connection, connection:
        connection.execute(change)

    shown = status(shop)
    listed = run("paused", outbox=shop.settings["outbox"])

    assert shown.code == ExitCode.DONE, shown
    assert f"{shop.namespace} is paused since" in shown.out
    assert (listed.code, listed.err) == (ExitCode.DONE, "")


def test_a_row_that_is_dated_ahead_is_told_and_alerts(shop: Shop) -> None:
    age(shop, -86_400)

    shown = status(shop)
    alerted = status(shop, "--max-age", "60")

    assert shown.code == ExitCode.DONE
    assert re.search(r"dated up to (1 d|23 h 59 min|24 h).* ahead", shown.out)
    assert alerted.code == ExitCode.ALERT
    assert "ALERT" in alerted.out and "ahead, more than --max-age 60" in alerted.out


def test_a_namespace_without_any_row_is_told(shop: Shop) -> None:
    shop.invalidate(1)

    shown = status(shop, "--namespace", "shpo")
    strict = status(shop, "--must-exist", "--namespace", "shpo")
    other = status(shop, "--must-exist")
    found = status(shop, "--json", "--namespace", "shpo").json["namespaces"]

    assert shown.code == ExitCode.DONE
    assert "shpo has no row at all: none was ever written" in shown.out
    assert f"; there are {shop.namespace}\n" in shown.out
    assert strict.code == ExitCode.ALERT
    assert "ALERT shpo: it has no row at all" in strict.out
    assert other.code == ExitCode.DONE
    assert [each["empty"] for each in found] == [True]


def test_dead_letters_are_named_that_hold_back_what_is_published(shop: Shop) -> None:
    make_dead(shop, 2)
    held = status(shop, "--max-dead", "2")
    shop.outbox.escalate(shop.namespace)
    waiting = status(shop, "--max-dead", "2")

    assert "is published, held back by 2 dead letters" in held.out
    assert "is not known at the moment" in waiting.out

"""``hydracache purge``, and what a drain deletes by itself."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync.cli import ExitCode
from hydracache_sync.cli.purge import BITE
from hydracache_sync.cli.signals import StopOnSignals
from support.commands import Ended, Shop, run
from support.servers import Memcached

DAY = 86400

#: The module: in the package its name is that of the command.
drain_command = sys.modules["hydracache_sync.cli.drain"]


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


def publish(shop: Shop, rows: int, age: float, namespace: str = "") -> None:
    """Leave rows that were published ``age`` seconds ago."""
    connection = sqlite3.connect(shop.path)
    connection.execute(
        "insert into hydracache_outbox (namespace, commit_position, target_hash, kind,"
        " value, reason, created_at_ms, state, at_ms)"
        " with recursive n(i) as (select 1 union all select i + 1 from n where i < ?)"
        " select ?, 'tx', randomblob(32), 'key', 'k', '', 1, 1,"
        " (julianday('now') - 2440587.5) * 86400000 - ? from n",
        (rows, namespace or shop.namespace, age * 1000),
    )
    connection.commit()
    connection.close()


def run_purge(shop: Shop, *arguments: str, **values: object) -> Ended:
    return run("purge", *arguments, **{**shop.settings, **values})


def test_only_rows_published_long_ago_are_purged(shop: Shop) -> None:
    publish(shop, 3, age=DAY + 60)
    publish(shop, 2, age=DAY - 60)
    shop.invalidate(1)

    purged = run_purge(shop)

    assert purged == Ended(ExitCode.DONE, f"{shop.namespace}: 3 purged\n", "")
    assert shop.published() == 2
    assert shop.pending() == 1


def test_the_age_can_be_said_as_people_do(shop: Shop) -> None:
    publish(shop, 1, age=2 * 3600 + 60)
    publish(shop, 1, age=2 * 3600 - 60)

    by_option = run_purge(shop, "--older-than", "2h", "--json")
    by_variable = run_purge(shop, keep_published=3600)

    assert by_option.json == {
        "exit_code": 0,
        "namespaces": [{"namespace": shop.namespace, "purged": 1}],
    }
    assert by_variable.out == f"{shop.namespace}: 1 purged\n"


def test_every_namespace_is_purged_in_bites(shop: Shop) -> None:
    publish(shop, 2 * BITE + 5, age=2 * DAY)
    publish(shop, 7, age=2 * DAY, namespace="other")

    purged = run_purge(shop, namespace=f"{shop.namespace},other")

    assert purged.out == f"{shop.namespace}: {2 * BITE + 5} purged\nother: 7 purged\n"


def test_a_purge_ends_when_its_time_is_up(shop: Shop) -> None:
    publish(shop, BITE + 1, age=2 * DAY)

    purged = run_purge(shop, "--max-seconds", "0.001")

    assert purged.code == ExitCode.ENDED_EARLY
    assert "; there may be more\n" in purged.out
    assert shop.published() > 0


def test_what_is_kept_forever_is_not_purged(shop: Shop) -> None:
    publish(shop, 1, age=2 * DAY)

    purged = run_purge(shop, keep_published="forever")
    drained = shop.drain(keep_published="forever")

    assert purged.out == f"{shop.namespace}: 0 purged\n"
    assert drained.code == ExitCode.DONE
    assert shop.published() == 1


# A drain


def test_a_drain_purges_what_was_published_long_ago(shop: Shop) -> None:
    publish(shop, 3, age=2 * DAY)
    shop.invalidate(2)

    drained = shop.drain()
    found = shop.drain("--json")

    assert f"{shop.namespace}: 2 published, 3 old rows purged in " in drained.out
    assert found.json["namespaces"][0]["purged"] == 0
    assert shop.published() == 2


def test_a_busy_drain_purges_one_bite_of_each_namespace(shop: Shop) -> None:
    publish(shop, BITE + 1, age=2 * DAY)
    publish(shop, BITE + 1, age=2 * DAY, namespace="other")

    drained = shop.drain(
        "--json", max_seconds=0.001, namespace=f"{shop.namespace},other"
    )

    purged = [each["purged"] for each in drained.json["namespaces"]]
    assert purged == [BITE, BITE]


def test_a_drain_that_was_told_to_end_purges_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(shop, 1, age=2 * DAY)

    class Stopped(StopOnSignals):
        def __enter__(self) -> Stopped:
            self.received = "SIGTERM"
            return self

        def __exit__(self, *raised: object) -> None:
            pass

    monkeypatch.setattr(drain_command, "StopOnSignals", Stopped)
    shop.drain()

    assert shop.published() == 1

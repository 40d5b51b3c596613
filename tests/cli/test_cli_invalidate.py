"""``hydracache invalidate`` and ``flush``: by hand, through the outbox."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    InvalidationReceipt,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    TaggedCache,
    WorkerPool,
)
from hydracache_sync.cli import ExitCode
from support import ROOT
from support.commands import PATIENCE, Ended, Shop, run
from support.servers import Memcached, free_port


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


def command(shop: Shop, *arguments: str, **values: object) -> Ended:
    return run(*arguments, **{**shop.settings, **values})


@pytest.mark.parametrize(
    ("arguments", "intents"),
    [
        (["key", "a", "b"], [InvalidationIntent.key(key) for key in "ab"]),
        (["tag", "t"], [InvalidationIntent.tag("t")]),
        (["entity", "user", "42"], [InvalidationIntent.entity("user", "42")]),
        (["collection", "c:d"], [InvalidationIntent.collection("c:d")]),
    ],
)
def test_what_is_named_is_enqueued_in_each_namespace(
    shop: Shop, arguments: list[str], intents: list[InvalidationIntent]
) -> None:
    other = f"{shop.namespace}-2"

    done = command(
        shop,
        *("invalidate", *arguments, "--reason", "call"),
        namespace=f"{shop.namespace},{other}",
    )

    assert done.code == ExitCode.DONE
    for name in (shop.namespace, other):
        rows = shop.outbox.rows(name)
        assert [row.intent for row in rows] == intents
        assert {row.reason for row in rows} == {"call"}
        assert f"{name}: {len(rows)} row" in done.out
        assert f" enqueued at {rows[0].commit_position}\n" in done.out


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["key", "a", ""], "KEYS"),
        (["tag", ""], "TAGS"),
        (["entity", "", "42"], "ENTITY"),
        (["entity", "user", ""], "IDS"),
        (["collection", ""], "NAMES"),
    ],
    ids=range(5),
)
def test_an_empty_name_is_refused_and_nothing_is_written(
    shop: Shop, arguments: list[str], field: str
) -> None:
    """It would end with 0, and invalidate nothing that anybody has cached."""
    done = command(shop, "invalidate", *arguments)

    assert done.code == ExitCode.USAGE
    assert f"Invalid value for '{field}" in done.err
    assert "one is empty. Is a variable unset" in " ".join(done.err.split())
    assert shop.outbox.rows(shop.namespace) == []


def priced(id: int, currency: str = "EUR") -> int:
    return next(prices)


prices = iter(range(100))


def test_a_call_of_a_cached_function_is_named_as_it_is_written(
    shop: Shop, memcached: Memcached
) -> None:
    with MemcachedStore([memcached.address], timeout=PATIENCE) as store:
        price = TaggedCache(store, shop.namespace).cached(tags=())(priced)
        old, other = price(42), price(43)

        done = command(shop, "invalidate", "key", f"{__name__}.priced(42, 'EUR')")
        drained = shop.drain()

        assert (done.code, drained.code) == (ExitCode.DONE, ExitCode.DONE)
        assert price(42) != old
        assert price(43) == other


def test_a_flush_makes_everything_a_miss(shop: Shop, memcached: Memcached) -> None:
    with MemcachedStore([memcached.address], timeout=PATIENCE) as store:
        cache = TaggedCache(store, shop.namespace)
        loads = iter(["old", "new"])
        cache.get_or_load("k", lambda: next(loads))

        flushed = command(shop, "flush", shop.namespace)
        drained = shop.drain()

        assert (flushed.code, drained.code) == (ExitCode.DONE, ExitCode.DONE)
        assert cache.get_or_load("k", lambda: next(loads)) == "new"


def test_a_wait_ends_when_a_worker_has_published(
    shop: Shop, memcached: Memcached
) -> None:
    with MemcachedStore([memcached.address], timeout=PATIENCE) as store:
        applier = MemcachedApplier(store, shop.namespace)
        with WorkerPool(OutboxWorker(shop.outbox, applier)):
            done = command(shop, "flush", shop.namespace, "--wait", str(PATIENCE))
            found = command(
                shop, "flush", shop.namespace, "--wait", str(PATIENCE), "--json"
            )

    assert done.code == ExitCode.DONE
    assert f"\n{shop.namespace}: published after " in done.out
    [namespace] = found.json["namespaces"]
    assert namespace["wait"]["satisfied"] is True
    receipt = InvalidationReceipt.from_string(namespace["receipt"])
    assert str(receipt.commit_position) == namespace["commit_position"]


def test_a_wait_in_vain_says_what_to_look_at(shop: Shop) -> None:
    waited = command(shop, "invalidate", "key", "a", "--wait", "0.2")
    shop.outbox.pause(shop.namespace)
    paused = command(shop, "invalidate", "key", "a", "--wait", "0")
    found = command(shop, "invalidate", "key", "a", "--wait", "0", "--json")

    assert waited.code == paused.code == found.code == ExitCode.WAITING
    assert "; is a worker running?\n" in waited.out
    assert "; the namespace is paused\n" in paused.out
    assert found.json["exit_code"] == ExitCode.WAITING
    assert found.json["namespaces"][0]["wait"]["pending"] == 1
    assert shop.pending() == 3


def test_a_wait_for_a_cache_that_is_away_says_so(shop: Shop) -> None:
    address = f"127.0.0.1:{free_port()}"
    with MemcachedStore([address]) as store:
        applier = MemcachedApplier(store, shop.namespace)
        with WorkerPool(OutboxWorker(shop.outbox, applier)):
            waited = command(shop, "flush", shop.namespace, "--wait", "1")

    assert waited.code == ExitCode.WAITING
    assert "a worker running" not in waited.out
    assert "ApplyUnavailable" in waited.out and "refused" in waited.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["invalidate", "key", "a", "k" * 4097], "0 to 4096"),
        (["invalidate", "key", "a", "--reason", "r" * 256], "0 to 255"),
        (["invalidate", "key"], "Missing argument"),
        (["flush"], "Missing argument"),
        (["flush", "n" * 65], "1 to 64"),
        (["flush", "a", "--wait", "soon"], "'soon' is not allowed"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_enqueued(
    shop: Shop, arguments: list[str], said: str
) -> None:
    refused = command(shop, *arguments)

    assert refused.code == ExitCode.USAGE
    assert said in refused.err
    assert shop.outbox.namespaces() == []


def test_a_misspelt_namespace_is_told(shop: Shop) -> None:
    shop.invalidate(1)

    flushed = command(shop, "flush", f"{shop.namespace}x")

    assert flushed.code == ExitCode.DONE
    assert f"did you mean {shop.namespace}?" in flushed.err


def test_after_a_restore_a_flush_as_the_operators_page_says_mends_the_cache(
    shop: Shop, memcached: Memcached, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "how_to" / "restore.md").read_text("utf-8")
    [steps] = re.findall(
        r"## After a restore or a failover\n.*?```sh\n(.*?)```", page, re.S
    )
    with shop.outbox.transaction() as connection:
        connection.execute("create table page (text)")
        connection.execute("insert into page values ('kept')")

    def load() -> str:
        with shop.outbox.transaction() as connection:
            [(text,)] = connection.execute("select text from page")
        return str(text)

    backup = tmp_path / "backup.db"
    with contextlib.closing(sqlite3.connect(shop.path)) as source:
        with contextlib.closing(sqlite3.connect(backup)) as target:
            source.backup(target)
    server = [memcached.address]
    with MemcachedStore(server, timeout=30, connect_timeout=30) as store:
        cache = TaggedCache(store, shop.namespace)
        with shop.outbox.transaction() as connection:
            connection.execute("update page set text = 'lost'")
            batch = InvalidationIntentBatch().invalidate_key("page")
            shop.outbox.enqueue_in(connection, shop.namespace, batch)
        assert shop.drain().code == ExitCode.DONE
        cache.get_or_load("page", load)
        os.replace(backup, shop.path)
        before = cache.get_or_load("page", load)

        for line in steps.splitlines():
            words = line.partition("#")[0].split()[1:]
            words = [shop.namespace if word == "shop" else word for word in words]
            words = [word for word in words if word not in ("blog", "--wait", "30")]
            assert run(*words, **shop.settings).code == ExitCode.DONE
        assert shop.drain().code == ExitCode.DONE

        assert (before, cache.get_or_load("page", load)) == ("lost", "kept")

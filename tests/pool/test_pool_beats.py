"""A pool says beside its outbox that its process carries rows, and how it fares."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
from pathlib import Path
from typing import Any, Iterator

import pytest

import hydracache_sync
from hydracache_sync import (
    InvalidationIntentBatch,
    MemoryStore,
    OutboxWorker,
    RecordingApplier,
    SQLiteOutbox,
    TaggedCache,
    WorkerBeat,
    WorkerPool,
    WorkerProcess,
)
from hydracache_sync.pool.timing import PoolTiming
from hydracache_sync.worker.process_beats import ProcessBeats
from support.clock import FakeClock
from support.processes import Child, UnseenChild, in_processes
from support.waiting import eventually

SHOP = "shop"

OFTEN = PoolTiming(supervise_every=0.01, beat_every=0.01)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[SQLiteOutbox]:
    with contextlib.closing(SQLiteOutbox(tmp_path / "app.db")) as outbox:
        outbox.install_schema()
        yield outbox


@pytest.fixture
def applier() -> RecordingApplier:
    return RecordingApplier(SHOP)


def pool_of(outbox: SQLiteOutbox, applier: Any, **options: Any) -> WorkerPool:
    worker = OutboxWorker(outbox, applier, backoff=0.01)
    return WorkerPool(worker, timing=OFTEN, **options)


def batch_of(*keys: str) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch()
    for key in keys:
        batch.invalidate_key(key)
    return batch


def told(outbox: SQLiteOutbox) -> WorkerProcess | None:
    """The only process, once it has said something."""
    found = outbox.workers()
    assert len(found) <= 1
    return found[0] if found else None


def sql(outbox: SQLiteOutbox, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(outbox.path, timeout=60)) as connection:
        connection.execute(statement)
        connection.commit()


def test_a_pool_says_who_it_is_and_what_it_has_carried(outbox, applier):
    with pool_of(outbox, applier, kind="worker"):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        found = eventually(
            lambda: (each := told(outbox)) and each.carried == 2 and each
        )

    assert (found.kind, found.host) == ("worker", socket.gethostname())
    assert found.pid == os.getpid()
    assert found.version == hydracache_sync.__version__
    assert found.namespaces == (SHOP,)
    assert found.started_ms <= found.batch_ms <= found.seen_ms
    assert (found.every_ms, found.last_error, found.caches) == (10, None, {})


def test_a_pool_that_has_carried_nothing_says_so(outbox, applier):
    with pool_of(outbox, applier):
        found = eventually(lambda: told(outbox))

    assert (found.kind, found.carried, found.batch_ms) == ("pool", 0, None)


def test_what_was_carried_before_does_not_count(outbox, applier):
    worker = OutboxWorker(outbox, applier)
    outbox.enqueue(SHOP, batch_of("a"))
    worker.drain()

    with WorkerPool(worker, timing=OFTEN):
        found = eventually(lambda: told(outbox))

    assert found.carried == 0


def test_errors_are_told(outbox):
    class Failing(RecordingApplier):
        def apply_invalidation(self, intent):
            raise RuntimeError("the audit service said 403")

    with pool_of(outbox, Failing(SHOP)):
        outbox.enqueue(SHOP, batch_of("a"))
        found = eventually(lambda: (each := told(outbox)) and each.last_error and each)

    assert found.last_error == "RuntimeError: the audit service said 403"
    assert found.batch_ms is not None


def test_counts_of_caches_are_told(outbox, applier):
    cache = TaggedCache(MemoryStore(), SHOP)
    for _ in range(3):
        cache.get_or_load("k", lambda: b"v")

    with pool_of(outbox, applier, caches=[cache]):
        found = eventually(lambda: told(outbox))

    assert found.caches == {SHOP: {"hits": 2, "misses": 1, "fills": 1, "loads": 1}}


def test_a_batch_that_ends_while_a_beat_is_made_spoils_none(outbox, applier):
    worker = OutboxWorker(outbox, applier)

    class Slow(TaggedCache):
        def diagnostics(self):
            outbox.enqueue(SHOP, batch_of("a"))
            worker.run_once()
            return super().diagnostics()

    cache = Slow(MemoryStore(), SHOP)
    beats = ProcessBeats([worker], kind="worker", every=10, caches=[cache])
    end = beats.listen()
    cache.diagnostics()

    beats.write()

    end()
    assert told(outbox).carried == 2


@pytest.mark.parametrize("host", ["h\udcff", "\xe9" * 253])
def test_a_host_of_any_name_is_told(outbox, applier, monkeypatch, host):
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    beats = ProcessBeats([OutboxWorker(outbox, applier)], kind="worker", every=10)

    beats.write()

    assert told(outbox).host[0] == host[0]


def test_a_server_that_loads_read_is_told(outbox, applier):
    with pool_of(outbox, applier, reads_elsewhere=lambda: "db2:3306"):
        found = eventually(lambda: told(outbox))

    assert found.reads_elsewhere == "db2:3306"


def test_rows_are_carried_also_where_nothing_can_be_said(outbox, applier, caplog):
    outbox.status(SHOP)  # the tables are checked once
    sql(outbox, "alter table hydracache_outbox_workers rename to away")

    with pool_of(outbox, applier):
        outbox.enqueue(SHOP, batch_of("a"))
        eventually(lambda: "noting this process" in caplog.text)
        eventually(lambda: outbox.status(SHOP).pending == 0)
        outbox.enqueue(SHOP, batch_of("b"))
        eventually(lambda: outbox.status(SHOP).pending == 0)
        sql(outbox, "alter table away rename to hydracache_outbox_workers")
        eventually(lambda: told(outbox))

    lines = [each for each in caplog.messages if "noting this process" in each]
    assert len([each for each in lines if "fails" in each]) == 1
    assert "hydracache_outbox_workers" in lines[0]


def test_each_pool_and_each_process_has_a_row_of_its_own(outbox, applier):
    pool = pool_of(outbox, applier)

    def carry(_: int) -> int:
        pool.start()
        eventually(lambda: os.getpid() in {process.pid for process in outbox.workers()})
        assert pool.stop(60)
        return os.getpid()

    with pool, pool_of(outbox, RecordingApplier("blog")):
        eventually(lambda: len(outbox.workers()) == 2)
        children = in_processes(2, carry)

    pids = sorted(process.pid for process in outbox.workers())
    assert pids == sorted([os.getpid(), os.getpid(), *children])


def test_a_pool_that_is_stopped_says_so_with_all_that_it_carried(outbox, applier):
    with pool_of(outbox, applier):
        eventually(lambda: told(outbox))
        outbox.enqueue(SHOP, batch_of("a", "b"))
        eventually(lambda: outbox.status(SHOP).pending == 0)

    found = told(outbox)
    assert (found.stopped, found.is_late, found.carried) == (True, False, 2)


def test_a_pool_that_has_said_nothing_yet_says_nothing_at_its_end(outbox, applier):
    worker = OutboxWorker(outbox, applier)
    rarely = PoolTiming(supervise_every=3600.0)
    with WorkerPool(worker, timing=rarely):
        outbox.enqueue(SHOP, batch_of("a"))
        eventually(lambda: outbox.status(SHOP).pending == 0)

    assert told(outbox) is None


@pytest.mark.parametrize("kind", [Child, UnseenChild])
def test_a_child_tells_of_no_batch_and_no_error_of_its_parent(outbox, kind):
    class Failing(RecordingApplier):
        def apply_invalidation(self, intent):
            raise RuntimeError("the audit service said 403")

    worker = OutboxWorker(outbox, Failing(SHOP))
    beats = ProcessBeats([worker], kind="pool", every=10)
    beats.listen()
    outbox.enqueue(SHOP, batch_of("a"))
    worker.run_once()
    beats.write()

    def beat() -> int:
        beats.write()
        return os.getpid()

    pid = kind(beat).result()

    [of_child] = [each for each in outbox.workers() if each.pid == pid]
    [of_parent] = [each for each in outbox.workers() if each.pid != pid]
    assert (of_child.batch_ms, of_child.last_error) == (None, None)
    assert of_parent.batch_ms is not None and of_parent.last_error is not None


def test_a_child_tells_of_what_it_did_before_its_first_beat(outbox, applier):
    worker = OutboxWorker(outbox, applier)
    beats = ProcessBeats([worker], kind="pool", every=10)
    beats.listen()
    outbox.enqueue(SHOP, batch_of("a"))
    worker.run_once()

    def carry() -> None:
        outbox.enqueue(SHOP, batch_of("b", "c"))
        worker.run_once()
        beats.write()

    Child(carry).result()

    found = told(outbox)
    assert found.carried == 2
    assert found.batch_ms is not None


def test_a_pool_that_was_started_again_is_the_same(outbox, applier):
    pool = pool_of(outbox, applier)
    with pool:
        first = eventually(lambda: told(outbox))
    with pool:
        outbox.enqueue(SHOP, batch_of("a"))
        again = eventually(
            lambda: (each := told(outbox)) and each.carried == 1 and each
        )

    assert again.owner == first.owner


def test_processes_long_gone_are_forgotten(outbox, applier):
    clock = FakeClock(1_700_000_000_000)
    with contextlib.closing(SQLiteOutbox(outbox.path, clock=clock)) as past:
        past.beat(WorkerBeat("gone", "pool", "h", 1, "1", (SHOP,), 1.0, 10.0, 1))

    with pool_of(outbox, applier):
        eventually(lambda: [each.pid for each in outbox.workers()] == [os.getpid()])


def test_what_is_no_kind_is_refused(outbox, applier):
    with pytest.raises(ValueError, match="kind must be one of pool, .* not 'cron'"):
        pool_of(outbox, applier, kind="cron")

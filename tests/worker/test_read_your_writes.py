"""What a writer reads after its publish, and within its transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import (
    InvalidationIntentBatch,
    InvalidationReceipt,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
)
from support.servers import Memcached


class Shop:
    """An app with one user, its cache, and the worker that publishes in line."""

    def __init__(self, path: str, server: Memcached, namespace: str) -> None:
        self.path = path
        self.outbox = SQLiteOutbox(path)
        self.outbox.install_schema()
        self.store = MemcachedStore([server.address], timeout=10, connect_timeout=10)
        applier = MemcachedApplier(self.store, namespace)
        self.worker = OutboxWorker(self.outbox, applier)
        self.namespace = namespace
        with self.outbox.transaction() as connection:
            connection.execute("create table users (name text)")
            connection.execute("insert into users values ('old')")

    def rename(self, name: str) -> InvalidationReceipt:
        with self.outbox.transaction() as connection:
            connection.execute("update users set name = ?", (name,))
            return self.outbox.enqueue_in(
                connection,
                self.namespace,
                InvalidationIntentBatch().invalidate_entity("user", "42"),
            )

    def read(self) -> str:
        # As another process does: with a cache of its own.
        cache = TaggedCache(self.store, self.namespace)
        return cache.get_or_load("profile:42", self.load, tags=["user:42"])

    def load(self) -> str:
        connection = sqlite3.connect(self.path)
        try:
            return str(connection.execute("select name from users").fetchone()[0])
        finally:
            connection.close()


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    shop = Shop(str(tmp_path / "shop.db"), memcached, unique)
    yield shop
    shop.outbox.close()


def test_after_an_inline_publish_every_read_shows_the_write(shop: Shop) -> None:
    assert shop.read() == "old"

    report = shop.worker.publish(shop.rename("new"))

    assert report.complete
    assert shop.read() == "new"
    assert shop.worker.run_once().claimed == 0


def test_without_it_a_read_shows_the_write_when_a_worker_has_run(shop: Shop) -> None:
    assert shop.read() == "old"

    shop.rename("new")
    before = shop.read()
    shop.worker.drain()

    assert before == "old"
    assert shop.read() == "new"


@pytest.mark.parametrize("writing", [True, False], ids=["writing", "without"])
@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
def test_in_its_transaction_a_writer_reads_round_the_cache_what_it_writes(
    shop: Shop, writing: bool, commits: bool
) -> None:
    assert shop.read() == "old"
    cache = TaggedCache(shop.store, shop.namespace)
    batch = InvalidationIntentBatch()
    block = cache.writing(batch) if writing else contextlib.nullcontext()

    with contextlib.suppress(Undone), block, shop.outbox.transaction() as connection:
        connection.execute("update users set name = 'new'")
        batch.invalidate_entity("user", "42")

        def load() -> str:
            return str(connection.execute("select name from users").fetchone()[0])

        seen = cache.get_or_load("profile:42", load, tags=["user:42"])
        cold = cache.get_or_load("name:42", load, tags=["user:42"])
        shop.outbox.enqueue_in(connection, shop.namespace, batch)
        if not commits:
            raise Undone

    assert cold == "new"
    assert seen == ("new" if writing else "old")
    stored = cache.get("name:42", tags=["user:42"])
    assert stored == (None if writing else "new")


class Undone(Exception):
    """Rolls a transaction back."""

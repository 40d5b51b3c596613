"""A task of Celery, RQ and Huey is a request: by the libraries' own workers."""

from __future__ import annotations

import abc
import contextlib
import logging
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import fakeredis
import pytest
import rq
from apscheduler.schedulers.background import BackgroundScheduler
from celery import Celery
from celery.contrib.testing.worker import start_worker
from flask import Flask
from huey import MemoryHuey

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryStore,
    OutboxWorker,
    SQLiteOutbox,
)
from hydracache_sync.integrations.flask import HydraCache as FlaskHydraCache
from hydracache_sync.integrations.huey import scope_tasks
from hydracache_sync.integrations.wsgi import HydraCache
from support.page_blocks import blocks_of

#: What docs/how_to/jobs.md shows for each queue, and for a drain.
CELERY, RQ, HUEY, DRAIN = (block.body for block in blocks_of("docs/how_to/jobs.md"))

#: Seconds that a worker may take, on a machine that does much else.
PATIENCE = 60.0


class Site:
    """A database with an outbox, an app's calls, and what its tasks have seen.

    :cvar now: of the test that runs: RQ finds tasks by their names, so that they are
        functions of this module.
    """

    now: Site

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outbox = SQLiteOutbox(path)
        self.outbox.install_schema()
        self.calls = HydraCache(
            {
                "HYDRACACHE_OUTBOX": self.outbox,
                "HYDRACACHE_NAMESPACE": "shop",
                "HYDRACACHE_MEMCACHED": MemoryStore(),
                "HYDRACACHE_MODE": "inline",
                "HYDRACACHE_POOL": "none",
            }
        )
        self.seen: list[Any] = []
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("create table item (name text)")
            db.execute("insert into item values ('before')")

    def name(self) -> str:
        with closing(sqlite3.connect(self.path)) as db:
            return str(db.execute("select name from item").fetchone()[0])

    def read(self) -> str:
        return self.calls.get_or_load("item", self.name)

    def rows(self) -> list[tuple[str | None, bool, str]]:
        rows = self.outbox.rows("shop")
        return [
            (row.intent and row.intent.value, row.is_published, row.reason)
            for row in rows
        ]


@pytest.fixture(autouse=True)
def site(tmp_path: Path) -> Iterator[Site]:
    Site.now = Site(tmp_path / "shop.db")
    yield Site.now
    Site.now.outbox.close()


def rename(name: str) -> None:
    """Write, and read what is written; 'flaky' fails the first time, 'bad' each."""
    calls, before = Site.now.calls, len(Site.now.seen)
    Site.now.seen.append((calls.collected().intents, calls.receipts))
    with closing(sqlite3.connect(Site.now.path)) as db, calls.transaction(db):
        db.execute("update item set name = ?", (name,))
        calls.invalidate_key("item")
        if name == "bad" or (name == "flaky" and before == 0):
            raise ZeroDivisionError
    Site.now.seen.append(Site.now.read())


def forget_to_write() -> None:
    Site.now.seen.append((Site.now.calls.collected().intents, Site.now.calls.receipts))
    Site.now.calls.invalidate_key("forgotten")
    raise ZeroDivisionError


TASKS = {each.__name__: each for each in (rename, forget_to_write)}


class Queue(abc.ABC):
    """A queue, with a worker that runs one task after the other in one thread."""

    @abc.abstractmethod
    def run(self, *tasks: tuple[str, ...]) -> None:
        """Have the worker run tasks, by name with their arguments, and fail or not."""


def pasted(block: str, **names: Any) -> dict[str, Any]:
    """The names after a block of the page, which has these."""
    names["hydracache"] = Site.now.calls
    exec(block, names)
    return names


class OfCelery(Queue):
    def run(self, *tasks: tuple[str, ...]) -> None:
        app = pasted(CELERY, Celery=Celery, BROKER="memory://")["celery"]
        app.conf.update(
            result_backend="cache+memory://",
            # It would take the log and the output of this whole process over.
            worker_hijack_root_logger=False,
            worker_redirect_stdouts=False,
        )
        made = {
            name: app.task(
                name=name,
                autoretry_for=(ZeroDivisionError,),
                max_retries=1,
                default_retry_delay=0,
            )(function)
            for name, function in TASKS.items()
        }
        with start_worker(
            app, pool="solo", perform_ping_check=False, loglevel="WARNING"
        ):
            for name, *arguments in tasks:
                result = made[name].delay(*arguments)
                result.get(timeout=PATIENCE, propagate=False)


class OfRQ(Queue):
    def run(self, *tasks: tuple[str, ...]) -> None:
        with contextlib.closing(fakeredis.FakeStrictRedis()) as redis:
            queue = rq.Queue(connection=redis)
            for name, *arguments in tasks:
                queue.enqueue(TASKS[name], *arguments, retry=rq.Retry(max=1))
            # In this process; RQ's other worker forks for each job.
            worker = rq.SimpleWorker(
                [queue], connection=redis, job_class=pasted(RQ)["ShopJob"]
            )
            worker.work(burst=True, logging_level=logging.CRITICAL)


class OfHuey(Queue):
    def run(self, *tasks: tuple[str, ...]) -> None:
        huey = pasted(HUEY, SqliteHuey=MemoryHuey)["huey"]
        made = {name: huey.task(retries=1)(each) for name, each in TASKS.items()}
        ended = threading.Semaphore(0)
        huey.signal("complete", "error")(lambda *_: ended.release())
        consumer = huey.create_consumer(workers=1, periodic=False, initial_delay=0.01)
        consumer.start()
        try:
            for name, *arguments in tasks:
                made[name](*arguments)
                fails = name == "forget_to_write" or "bad" in arguments
                # A task that fails is tried twice.
                for _ in range(2 if fails or "flaky" in arguments else 1):
                    assert ended.acquire(timeout=PATIENCE)
        finally:
            consumer.stop(graceful=True)


@pytest.fixture(params=[OfCelery, OfRQ, OfHuey], ids=["celery", "rq", "huey"])
def queue(request: pytest.FixtureRequest) -> Queue:
    return request.param()


def test_what_a_task_writes_is_published_and_read_in_it(
    queue: Queue, site: Site
) -> None:
    with site.calls.collecting():
        assert site.read() == "before"

    queue.run(("rename", "after"))

    assert site.seen == [((), []), "after"]
    [(value, is_published, reason)] = site.rows()
    assert (value, is_published) == ("item", True)
    assert reason in ("task rename", "job test_jobs.rename")
    with site.calls.collecting():
        assert site.read() == "after"
    assert site.calls.current_scope is None


def test_a_task_that_raises_takes_back_what_its_transaction_wrote(
    queue: Queue, site: Site
) -> None:
    queue.run(("rename", "bad"))

    assert (site.rows(), site.name()) == ([], "before")
    assert site.seen == [((), [])] * 2  # tried again, with nothing of the first


def test_a_task_that_is_tried_again_invalidates_once(queue: Queue, site: Site) -> None:
    queue.run(("rename", "flaky"))

    assert [row[:2] for row in site.rows()] == [("item", True)]
    assert site.seen == [((), []), ((), []), "flaky"]


def test_what_a_task_has_not_written_is_written_at_its_end_and_not_in_the_next(
    queue: Queue, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    queue.run(("forget_to_write",), ("rename", "after"))

    # As of a request that raises: in doubt it is written, with a warning.
    values = [str(value) for value, _, _ in site.rows()]
    assert sorted(values) == ["forgotten", "forgotten", "item"]
    assert [each for each in site.seen if each != "after"] == [((), [])] * 3
    told = [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("hydracache_sync")
    ]
    assert len(told) == 2
    assert all("collected key forgotten and did not write it" in each for each in told)


def test_a_task_that_a_request_runs_itself_is_part_of_it(site: Site) -> None:
    huey = MemoryHuey("shop", immediate=True)
    scope_tasks(huey, site.calls)
    task = huey.task()(lambda: site.calls.invalidate_key("item"))

    scope = site.calls.begin("POST", "/")
    with site.calls.current(scope):
        task()
        assert [each.value for each in site.calls.collected().intents] == ["item"]
        site.calls.discard()
    scope.end()


def test_what_a_task_has_not_committed_is_not_cached(site: Site) -> None:
    with closing(sqlite3.connect(site.path)) as db:

        def load() -> str:
            return str(db.execute("select name from item").fetchone()[0])

        with site.calls.collecting():
            site.read()  # makes the tokens, older than the task
        with site.calls.collecting("task", is_request=True):
            db.execute("update item set name = 'never'")
            assert site.calls.refresh("item", load) == "never"
            db.rollback()

    with site.calls.collecting():
        assert site.read() == "before"


def test_in_a_flask_app_the_app_context_is_the_scope() -> None:
    app = Flask("shop")
    calls = FlaskHydraCache()
    app.config.update(
        SECRET_KEY="not secret",
        HYDRACACHE_OUTBOX=Site.now.outbox,
        HYDRACACHE_NAMESPACE="shop",
        HYDRACACHE_MEMCACHED=MemoryStore(),
        HYDRACACHE_MODE="inline",
        HYDRACACHE_POOL="none",
    )
    calls.init_app(app)
    huey = MemoryHuey("shop", immediate=True)

    @huey.task()
    def change(name: str) -> None:
        with app.app_context(), closing(sqlite3.connect(Site.now.path)) as db:
            Site.now.seen.append(calls.receipts)
            with calls.transaction(db):
                db.execute("update item set name = ?", (name,))
                calls.invalidate_key("item")

    change("one")
    change("two")

    assert [row[:2] for row in Site.now.rows()] == [("item", True)] * 2
    assert Site.now.seen == [[], []]


def test_apscheduler_drains(site: Site) -> None:
    with closing(sqlite3.connect(site.path)) as db, db:
        db.execute("update item set name = 'after'")
        site.outbox.enqueue_in(
            db, "shop", InvalidationIntentBatch().invalidate_key("item")
        )
    scheduler = BackgroundScheduler()
    pasted(
        DRAIN.replace("seconds=5", "seconds=0.05"),
        MemcachedApplier=MemcachedApplier,
        OutboxWorker=OutboxWorker,
        outbox=site.outbox,
        scheduler=scheduler,
        store=MemoryStore(),
    )
    scheduler.start()
    try:
        until = time.monotonic() + PATIENCE
        while not all(row[1] for row in site.rows()) and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        scheduler.shutdown()

    assert [row[:2] for row in site.rows()] == [("item", True)]

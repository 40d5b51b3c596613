"""The same job, done with this library and with others that are for it or near it.

The job: a transaction changes a row of the app's and enqueues some keys; a worker sets
each key in memcached, acknowledged, and then does away with its row. Each commit is
synced. What a library is not told here is as it ships.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import sqlite3
import time
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Sequence

import pymysql
from pymemcache import Client

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    WorkerPool,
    open_outbox,
)

NAMESPACE = "shop"

UPDATE = "update app set version = version + 1 where id = 1"

#: Told of each key that was applied.
Heard = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where everything is; travels to the process of a worker."""

    memcached: str
    #: A file of SQLite, or nothing.
    path: str
    #: A server of MySQL's kind, and an empty database on it.
    host: str = ""
    port: int = 0
    user: str = ""
    database: str = ""

    def connect(self) -> Any:
        """A connection of the app's, which begins and commits by hand."""
        if self.path:
            connection = sqlite3.connect(self.path, isolation_level=None)
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
            return connection
        return pymysql.connect(
            host=self.host, port=self.port, user=self.user, database=self.database
        )

    def client(self) -> Client:
        host, _, port = self.memcached.rpartition(":")
        return Client((host, int(port)), default_noreply=False, no_delay=True)


class Peer(abc.ABC):
    """One library at the job.

    :param new: whether the place is empty, so that tables have to be made.
    """

    name: ClassVar[str]
    #: Whether keys are enqueued in the transaction of the app, and not after it.
    same_transaction: ClassVar[bool] = True
    #: Whether a worker comes with it.
    has_worker: ClassVar[bool] = True

    def __init__(self, place: Place, new: bool) -> None:
        self.place = place
        self.client = place.client()
        self.connection = place.connect()
        if new:
            cursor = self.connection.cursor()
            cursor.execute("create table app (id integer primary key, version integer)")
            cursor.execute("insert into app values (1, 0)")
            self.connection.commit()

    def begin(self) -> None:
        cursor = self.connection.cursor()
        cursor.execute("begin immediate" if self.place.path else "begin")
        cursor.execute(UPDATE)

    def commit(self) -> float:
        """Commit; when it was sent, of ``time.monotonic()``."""
        sent = time.monotonic()
        self.connection.commit()
        return sent

    def apply(self, key: str) -> None:
        self.client.set(f"invalidated:{key}", b"1")

    @abc.abstractmethod
    def enqueue(self, keys: Sequence[str]) -> float:
        """Run one transaction; when its commit was sent."""

    @abc.abstractmethod
    def drain(self) -> int:
        """Carry all that is there; how many that was."""

    def serve(self, heard: Heard) -> None:
        """Be its worker, until this process is ended."""
        raise NotImplementedError

    def close(self) -> None:
        self.connection.close()
        self.client.close()


class Hydracache(Peer):
    name = "hydracache_sync"

    def __init__(self, place: Place, new: bool) -> None:
        super().__init__(place, new)
        self.outbox = open_outbox(
            f"sqlite:///{place.path}"
            if place.path
            else f"mysql://{place.user}@{place.host}:{place.port}/{place.database}"
        )
        if new:
            self.outbox.install_schema()
        self.store = MemcachedStore([place.memcached])
        self.worker = OutboxWorker(self.outbox, MemcachedApplier(self.store, NAMESPACE))

    def enqueue(self, keys: Sequence[str]) -> float:
        self.begin()
        batch = InvalidationIntentBatch()
        for key in keys:
            batch.invalidate_key(key)
        self.outbox.enqueue_in(self.connection, NAMESPACE, batch)
        return self.commit()

    def drain(self) -> int:
        return self.worker.drain().published

    def serve(self, heard: Heard) -> None:
        class Telling(MemcachedApplier):
            def apply_batch(
                self, intents: Sequence[InvalidationIntent]
            ) -> list[Exception | None]:
                failures = super().apply_batch(intents)
                for intent in intents:
                    heard(intent.value or "")
                return failures

        with WorkerPool(OutboxWorker(self.outbox, Telling(self.store, NAMESPACE))):
            time.sleep(3600)

    def close(self) -> None:
        self.outbox.close()
        self.store.close()
        super().close()


class TxOutbox(Peer):
    name = "txoutbox"

    def __init__(self, place: Place, new: bool) -> None:
        super().__init__(place, new)
        from txoutbox.adapters.sqlite import SqliteStorage

        self.storage = SqliteStorage(place.path)
        if new:
            self.storage.create_schema()

    def enqueue(self, keys: Sequence[str]) -> float:
        self.begin()
        for key in keys:
            self.storage.insert(self.connection, "invalidate", key.encode())
        return self.commit()

    def relay(self, heard: Heard) -> Any:
        from txoutbox import Relay

        async def publish(message: Any) -> None:
            key = message.payload.decode()
            self.apply(key)
            heard(key)

        return Relay(self.storage, publish)

    def drain(self) -> int:
        async def run() -> int:
            relay, total = self.relay(lambda key: None), 0
            while published := (await relay.run_once()).published:
                total += published
            return total

        return asyncio.run(run())

    def serve(self, heard: Heard) -> None:
        asyncio.run(self.relay(heard).run())

    def close(self) -> None:
        self.storage.close()
        super().close()


class Huey(Peer):
    """Takes a task away before it is run, and enqueues each in its own transaction."""

    name = "huey"
    same_transaction = False

    def __init__(self, place: Place, new: bool) -> None:
        super().__init__(place, new)
        from huey import SqliteHuey

        self.heard: Heard = lambda key: None
        self.huey = SqliteHuey("peers", filename=place.path)
        self.task = self.huey.task()(self.carry)

    def carry(self, key: str) -> None:
        self.apply(key)
        self.heard(key)

    def enqueue(self, keys: Sequence[str]) -> float:
        self.begin()
        sent = self.commit()
        for key in keys:
            self.task(key)
        return sent

    def drain(self) -> int:
        total = 0
        while (task := self.huey.dequeue()) is not None:
            self.huey.execute(task)
            total += 1
        return total

    def serve(self, heard: Heard) -> None:
        self.heard = heard
        self.huey.create_consumer(workers=1, periodic=False).run()

    def close(self) -> None:
        self.huey.storage.close()
        super().close()


class LiteQueue(Peer):
    """Has a file of its own, and no worker."""

    name = "litequeue"
    same_transaction = False
    has_worker = False

    def __init__(self, place: Place, new: bool) -> None:
        super().__init__(place, new)
        import litequeue

        self.queue = litequeue.LiteQueue(f"{place.path}-queue")
        # It ships with normal, with which a commit may be lost with the machine.
        self.queue.conn.execute("pragma synchronous = full")

    def enqueue(self, keys: Sequence[str]) -> float:
        self.begin()
        sent = self.commit()
        with self.queue.transaction(mode="IMMEDIATE"):
            for key in keys:
                self.queue.put(key)
        return sent

    def drain(self) -> int:
        total = 0
        while (message := self.queue.pop()) is not None:
            self.apply(message.data)
            self.queue.done(message.message_id, claim_id=message.claim_id)
            total += 1
        return total

    def close(self) -> None:
        self.queue.close()
        super().close()


class Pactix(Peer):
    name = "pactix"

    def __init__(self, place: Place, new: bool) -> None:
        super().__init__(place, new)
        from pactix import OutboxStore, PactixConfig
        from pactix.db.tables import metadata
        from sqlalchemy.ext.asyncio import create_async_engine

        self.loop = asyncio.new_event_loop()
        self.engine = create_async_engine(
            f"mysql+asyncmy://{place.user}@{place.host}:{place.port}/{place.database}"
        )
        self.config = PactixConfig()
        self.store = OutboxStore(self.config)

        async def create() -> None:
            async with self.engine.begin() as connection:
                await connection.run_sync(metadata.create_all)

        if new:
            self.loop.run_until_complete(create())

    def enqueue(self, keys: Sequence[str]) -> float:
        from pactix import MessageEnvelope, MessageMetadata
        from sqlalchemy import text

        async def run() -> float:
            async with self.engine.connect() as connection:
                await connection.execute(text(UPDATE))
                for key in keys:
                    metadata = MessageMetadata.for_event_type("invalidate")
                    envelope = MessageEnvelope(metadata, {"key": key})
                    await self.store.append(connection, envelope)
                sent = time.monotonic()
                await connection.commit()
            return sent

        return self.loop.run_until_complete(run())

    async def runner(self, heard: Heard) -> Any:
        from pactix import (
            OutboxRunner,
            PublisherRegistry,
            PublishOutcome,
            outbox_publisher,
        )

        async def publish(record: Any) -> Any:
            self.apply(record.payload["key"])
            heard(record.payload["key"])
            return PublishOutcome.published()

        registry = PublisherRegistry()
        await registry.register_all(outbox_publisher(publish))
        return OutboxRunner(self.store, registry)

    def drain(self) -> int:
        async def run() -> int:
            runner, total = await self.runner(lambda key: None), 0
            while published := (await runner.run_once(self.engine)).published:
                total += published
            return total

        return self.loop.run_until_complete(run())

    def serve(self, heard: Heard) -> None:
        """It ships no loop for MySQL, but says how long to wait in one."""

        async def run() -> None:
            runner = await self.runner(heard)
            while True:
                if not (await runner.run_once(self.engine)).published:
                    pause = self.config.outbox_poll_interval.total_seconds()
                    await asyncio.sleep(pause)

        self.loop.run_until_complete(run())

    def close(self) -> None:
        self.loop.run_until_complete(self.engine.dispose())
        self.loop.close()
        super().close()


class DjQueue(Peer):
    name = "dj-queue"

    def __init__(self, place: Place, new: bool) -> None:
        super().__init__(place, new)
        import django
        from django.conf import settings
        from django.core.management import call_command
        from django.db import connections

        database = {
            "ENGINE": "django.db.backends.mysql",
            "HOST": place.host,
            "PORT": place.port,
            "USER": place.user,
            "NAME": place.database,
            "CONN_MAX_AGE": None,
        }
        if settings.configured:
            connections["default"].close()
            connections["default"].settings_dict.update(database)
        else:
            settings.configure(
                DATABASES={"default": database},
                INSTALLED_APPS=["dj_queue"],
                DATABASE_ROUTERS=["dj_queue.routers.DjQueueRouter"],
                TASKS={
                    "default": {
                        "BACKEND": "dj_queue.backend.DjQueueBackend",
                        "QUEUES": [],
                        "OPTIONS": {},
                    }
                },
                USE_TZ=True,
                LOGGING_CONFIG=None,
            )
            django.setup()
        import _dj_queue_task

        self.tasks = _dj_queue_task
        self.tasks.apply = self.apply
        if new:
            call_command("migrate", verbosity=0)

    def enqueue(self, keys: Sequence[str]) -> float:
        from django.db import connection, transaction

        carry = self.tasks.carry
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(UPDATE)
            if len(keys) == 1:
                carry.enqueue(keys[0])
            else:
                carry.get_backend().enqueue_all([(carry, [key], {}) for key in keys])
            return time.monotonic()

    def drain(self) -> int:
        from dj_queue.operations.claiming import claim_ready_jobs
        from dj_queue.operations.execution import execute_claimed_job

        total = 0
        while jobs := claim_ready_jobs(limit=100):
            for job in jobs:
                execute_claimed_job(job)
            total += len(jobs)
        return total

    def serve(self, heard: Heard) -> None:
        from django.core.management import call_command

        def apply(key: str) -> None:
            # Its threads share no client.
            with contextlib.closing(self.place.client()) as client:
                client.set(f"invalidated:{key}", b"1")
            heard(key)

        self.tasks.apply = apply
        call_command("dj_queue", mode="async", skip_recurring=True, verbosity=0)

    def close(self) -> None:
        from django.db import connections

        connections["default"].close()
        super().close()


ON_SQLITE: list[type[Peer]] = [Hydracache, TxOutbox, Huey, LiteQueue]
ON_MYSQL: list[type[Peer]] = [Hydracache, Pactix, DjQueue]

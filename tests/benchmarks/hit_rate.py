"""Hits under writes, against a cache from which the writer deletes after its commit.

    PYTHONPATH=tests python tests/benchmarks/hit_rate.py [--seconds 20]

A tag is written 0.1, 1, 10 and 30 times a second by one process, which publishes
inline, and read 100 times a second by two others, each visit a request of its own.
After each commit the writer also deletes a plain key, and each visit reads that, too:
``get``, and ``set`` of what it loads at a miss. So both caches meet the same writes and
the same readers. Told are the hits of both, their ratio, and why what was loaded was
not stored.

Then 16 threads that miss at once: how many load.

Flask with ``connection=``, Flask-SQLAlchemy attached, and Django, each with its default
settings, on SQLite in memory where there is room. Starts a memcached of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable

from _results import Results, add_save
from pymemcache.client.base import Client

from hydracache_sync import SQLiteOutbox
from support.servers import Memcached

NAMESPACE = "shop"
RATES = (0.1, 1.0, 10.0, 30.0)
READERS = 2
READS_A_SECOND = 100.0
THREADS = 16

#: Seconds that the loader of the herd takes.
SLOW = 0.3

#: Pages read a row before the cache, as those do that know who is logged in.
LOGIN = "HIT_RATE_LOGIN" in os.environ

#: Pages get another entry from the cache before, which nobody writes.
HIT = "HIT_RATE_HIT" in os.environ

SELECT = "select version from item where id = 1"
UPDATE = "update item set version = version + 1 where id = 1"


def settings(path: str, memcached: str) -> dict[str, Any]:
    return {
        "HYDRACACHE_OUTBOX": f"sqlite:///{path}",
        "HYDRACACHE_NAMESPACE": NAMESPACE,
        "HYDRACACHE_MEMCACHED": [memcached],
        "HYDRACACHE_POOL": "none",
        "HYDRACACHE_MODE": "inline",
        "HYDRACACHE_SNAPSHOT": os.environ.get("HYDRACACHE_SNAPSHOT", "auto"),
    }


class FlaskApp:
    """A page that shows the item, and one that changes it."""

    def __init__(self, path: str, memcached: str) -> None:
        from flask import Flask, g

        from hydracache_sync.integrations.flask import HydraCache

        self.path = path
        self.g = g
        self.calls: Any = HydraCache()
        app = Flask("shop")
        app.config.update(SECRET_KEY="not secret", **settings(path, memcached))
        app.teardown_appcontext(self.close)
        self.set_up(app)
        app.add_url_rule("/", "show", lambda: self.show(0.0))
        app.add_url_rule("/slow", "slow", lambda: self.show(SLOW))
        app.add_url_rule("/change", "change", self.change, methods=["POST"])
        self.app = app
        self.loads = threading.local()

    def set_up(self, app: Any) -> None:
        self.calls.init_app(app, connection=lambda: self.g.get("db"))

    def close(self, exc: BaseException | None = None) -> None:
        db = self.g.pop("db", None)
        if db is not None:
            db.close()

    def db(self) -> Any:
        if "db" not in self.g:
            self.g.db = sqlite3.connect(self.path, timeout=30)
        return self.g.db

    def select(self) -> int:
        return int(self.db().execute(SELECT).fetchone()[0])

    def show(self, pause: float) -> str:
        def load() -> int:
            self.loads.count += 1
            time.sleep(pause)
            return self.select()

        if LOGIN:
            self.select()
        if HIT:
            self.calls.get_or_load("user:1", self.select, tags=["user"])
        return str(self.calls.get_or_load("item:1", load, tags=["item"]))

    def change(self) -> str:
        with self.calls.transaction(self.db()):
            self.db().execute(UPDATE)
            self.calls.invalidate_tag("item")
        return "done"

    def visit(self, pause: float) -> bool:
        self.loads.count = 0
        answer = self.app.test_client().get("/slow" if pause else "/")
        assert answer.status_code == 200
        return bool(self.loads.count)

    def write(self) -> None:
        assert self.app.test_client().post("/change").status_code == 200

    def diagnostics(self) -> Any:
        return self.app.extensions["hydracache"].cache.diagnostics()


class SQLAlchemyApp(FlaskApp):
    def set_up(self, app: Any) -> None:
        from flask_sqlalchemy import SQLAlchemy
        from sqlalchemy import text

        app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{self.path}?timeout=30"
        self.session = SQLAlchemy(app).session
        self.text = text
        self.calls.attach(self.session)
        self.calls.init_app(app)

    def select(self) -> int:
        return int(self.session.execute(self.text(SELECT)).scalar_one())

    def change(self) -> str:
        self.session.execute(self.text(UPDATE))
        self.calls.invalidate_tag("item")
        self.session.commit()
        return "done"


class DjangoApp:
    def __init__(self, path: str, memcached: str) -> None:
        import django
        from django.conf import settings as of_django

        database = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": path,
            "OPTIONS": {"timeout": 30},
        }
        of_django.configure(
            SECRET_KEY="not secret",
            DATABASES={"default": database},
            **settings(path, memcached),
        )
        django.setup()
        from django.db import connection
        from django.http import HttpResponse
        from django.test import RequestFactory

        from hydracache_sync.integrations.django import HydraCache

        self.connection, self.answer = connection, HttpResponse
        self.requests = RequestFactory()
        self.calls: Any = HydraCache()
        self.loads = threading.local()

    def execute(self, statement: str) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone() if statement is SELECT else None

    def visit(self, pause: float) -> bool:
        def select() -> int:
            return int(self.execute(SELECT)[0])

        def load() -> int:
            self.loads.count += 1
            time.sleep(pause)
            return select()

        def show(request: Any) -> Any:
            if LOGIN:
                self.execute(SELECT)
            if HIT:
                self.calls.get_or_load("user:1", select, tags=["user"])
            found = self.calls.get_or_load("item:1", load, tags=["item"])
            return self.answer(str(found))

        self.loads.count = 0
        try:
            self.calls.middleware(show)(self.requests.get("/"))
        finally:
            if pause:  # of a thread that ends here
                self.connection.close()
        return bool(self.loads.count)

    def write(self) -> None:
        def change(request: Any) -> Any:
            with self.calls.atomic():
                self.execute(UPDATE)
                self.calls.invalidate_tag("item")
            return self.answer("done")

        self.calls.middleware(change)(self.requests.post("/"))

    def diagnostics(self) -> Any:
        return self.calls.cache.diagnostics()


APPS: dict[str, Any] = {
    "Flask, connection=": FlaskApp,
    "Flask-SQLAlchemy": SQLAlchemyApp,
    "Django": DjangoApp,
}


def plain_visit(client: Client, path: str) -> bool:
    """What an app does that has no such library; returns whether it has loaded."""
    if client.get("plain") is not None:
        return False
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as db:
        [version] = db.execute(SELECT).fetchone()
    client.set("plain", str(version))
    return True


def pace(rate: float, seconds: float, step: Callable[[], None]) -> None:
    """Call ``step`` so often, at moments of chance, for so long."""
    until = at = time.monotonic()
    until += seconds
    while True:
        at += random.expovariate(rate)
        if at >= until:
            return
        time.sleep(max(0.0, at - time.monotonic()))
        step()


def read(kind: str, path: str, memcached: str, seconds: float, begin: Any) -> Any:
    app = APPS[kind](path, memcached)
    client = Client(memcached)
    reads = [0, 0, 0]

    def step() -> None:
        reads[0] += 1
        reads[1] += app.visit(0.0)
        reads[2] += plain_visit(client, path)

    step()
    reads[:] = [0, 0, 0]
    begin.wait()
    pace(READS_A_SECOND / READERS, seconds, step)
    found = app.diagnostics()
    why = ("transaction", "uncommitted", "unseen", "request", "earlier")
    return reads, {each: getattr(found, f"refused_{each}") for each in why}


def write(
    kind: str, path: str, memcached: str, rate: float, seconds: float, begin: Any
) -> None:
    app = APPS[kind](path, memcached)
    client = Client(memcached, default_noreply=False)

    def step() -> None:
        app.write()
        client.delete("plain")

    begin.wait()
    pace(rate, seconds, step)


def herd(kind: str, path: str, memcached: str) -> int:
    """How many of the threads load that miss at once."""
    app = APPS[kind](path, memcached)
    app.write()
    barrier = threading.Barrier(THREADS)
    loaded: list[bool] = []

    def visit() -> None:
        barrier.wait()
        loaded.append(app.visit(SLOW))

    threads = [threading.Thread(target=visit) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == THREADS
    return sum(loaded)


@contextlib.contextmanager
def database() -> Any:
    room = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=room) as folder:
        path = str(Path(folder) / "shop.db")
        outbox = SQLiteOutbox(path)
        outbox.install_schema()
        outbox.close()
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("pragma journal_mode = wal")
            db.execute("create table item (id integer primary key, version int)")
            db.execute("insert into item values (1, 0)")
            db.commit()
        yield path


def measure(kind: str, rate: float, seconds: float) -> list[str]:
    """Print what was hit, and return the same as cells."""
    processes = multiprocessing.get_context("spawn")
    with Memcached() as memcached, database() as path:
        with processes.Manager() as shared, processes.Pool(READERS + 1) as pool:
            begin = shared.Barrier(READERS + 1)
            common = kind, path, memcached.address
            writing = pool.apply_async(write, (*common, rate, seconds, begin))
            reading = [
                pool.apply_async(read, (*common, seconds, begin))
                for _ in range(READERS)
            ]
            found = [each.get() for each in reading]
            writing.get()
    reads, ours, plain = (sum(each) for each in zip(*(each for each, _ in found)))
    refused = {
        why: total
        for why in found[0][1]
        if (total := sum(each[why] for _, each in found))
    }
    hits, of_plain = 1 - ours / reads, 1 - plain / reads
    print(
        f"{kind:20} {rate:6} {reads:7} {hits:8.1%} {of_plain:8.1%}"
        f" {hits / of_plain:7.3f}  {refused or ''}",
        flush=True,
    )
    why = ", ".join(f"{reason} {total}" for reason, total in refused.items())
    shares = f"{hits:.1%}".replace("%", " %"), f"{of_plain:.1%}".replace("%", " %")
    return [kind, f"{rate:g}", str(reads), *shares, f"{hits / of_plain:.3f}", why]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each rate")
    parser.add_argument("--only", choices=list(APPS))
    parser.add_argument("--snapshot", default="auto", help="HYDRACACHE_SNAPSHOT")
    parser.add_argument("--login", action="store_true", help="read a row before, too")
    add_save(parser)
    parser.add_argument("--hit", action="store_true", help="get another entry before")
    options = parser.parse_args()
    os.environ["HYDRACACHE_SNAPSHOT"] = options.snapshot  # of the processes
    if options.login:
        os.environ["HIT_RATE_LOGIN"] = "yes"
    if options.hit:
        os.environ["HIT_RATE_HIT"] = "yes"
    kinds = [options.only] if options.only else list(APPS)
    print("                     writes   reads     hits    plain   ratio  refused for")
    results = Results()
    table = results.table(
        f"{READERS} processes that read {READS_A_SECOND:g} times a second together:",
        ["app", "writes a second", "reads", "hits", "plain key", "ratio", "not stored"],
    )
    for kind in kinds:
        for rate in RATES:
            table.append(measure(kind, rate, options.seconds))
    herds = results.table(
        f"{THREADS} readers that miss a key at once:", ["app", "loads"]
    )
    processes = multiprocessing.get_context("spawn")
    for kind in kinds:
        with Memcached() as memcached, database() as path, processes.Pool(1) as pool:
            loads = pool.apply(herd, (kind, path, memcached.address))
        print(f"{kind:20} {THREADS} readers miss at once: loads {loads}", flush=True)
        herds.append([kind, str(loads)])
    if options.save:
        results.save(options.save, SQLite=sqlite3.sqlite_version)


if __name__ == "__main__":
    main()

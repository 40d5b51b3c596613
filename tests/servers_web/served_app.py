"""The app that the tests put behind web servers: Flask, MariaDB and memcached.

Configured by the environment, as an app in a container is. Beside its pages it has what
the tests look at from outside: the state of a process, and a store that is slow on
request, so that a batch can be in flight when a signal comes.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Sequence
from urllib.parse import urlsplit

import pymysql
from flask import Flask, g

from hydracache_sync import MemcachedStore, entity_tag
from hydracache_sync.integrations.flask import HydraCache

#: Seconds until memcached counts as away: a busy machine is no outage.
PATIENCE = 30.0

#: Seconds that a slow batch takes: far more than a server needs to send its signals.
SLOW_BATCH = 0.5

hydracache = HydraCache()


class SlowStore(MemcachedStore):
    """Takes its time for a batch of the pool while the file ``slow`` is there."""

    def __init__(self, servers: Sequence[str], notes: Path) -> None:
        patience = float(os.environ.get("CACHE_PATIENCE", PATIENCE))
        super().__init__(servers, connect_timeout=patience, timeout=patience)
        self._notes = notes

    def replace_many(self, *arguments: Any, **options: Any) -> Any:
        worker = threading.current_thread().name.startswith("hydracache-worker")
        if worker and (self._notes / "slow").exists():
            (self._notes / f"began.{os.getpid()}").touch()
            time.sleep(SLOW_BATCH)
            done = super().replace_many(*arguments, **options)
            (self._notes / f"ended.{os.getpid()}").touch()
            return done
        return super().replace_many(*arguments, **options)


class Ticker:
    """How long the hub of gevent kept a greenlet waiting that only sleeps.

    Less the time for which the process was ready and had no processor.
    """

    INTERVAL = 0.005

    def __init__(self) -> None:
        self.longest = 0.0
        self.pid = 0

    def start_once(self) -> None:
        if self.pid != os.getpid():
            self.pid = os.getpid()
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            started, unserved = time.monotonic(), without_processor()
            time.sleep(self.INTERVAL)
            late = time.monotonic() - started - self.INTERVAL
            late -= without_processor() - unserved
            self.longest = max(self.longest, late)


def without_processor() -> float:
    """Seconds for which the main thread was ready to run and did not."""
    with open("/proc/self/schedstat") as numbers:
        return int(numbers.read().split()[1]) / 1e9


def create_app() -> Flask:
    notes = Path(os.environ["NOTES"])
    app = Flask(__name__)
    app.config.update(
        {
            name: value
            for name, value in os.environ.items()
            if name.startswith("HYDRACACHE_")
        },
        SECRET_KEY="not secret",
        HYDRACACHE_COOKIE="",
        HYDRACACHE_MEMCACHED=SlowStore([os.environ["MEMCACHED"]], notes),
    )
    app.teardown_appcontext(close_db)
    hydracache.init_app(app)
    # What many apps do when they start, and what a fork of theirs then inherits: look
    # at the database and at the cache.
    with app.app_context():
        hydracache.outbox.check_schema()
        hydracache.cache.get("warm")
    add_pages(app)
    return app


def db() -> Any:
    if "db" not in g:
        at = urlsplit(os.environ["HYDRACACHE_OUTBOX"])
        g.db = pymysql.connect(
            host=at.hostname,
            port=at.port or 3306,
            user=at.username,
            password=at.password or "",
            database=at.path[1:],
            ssl_disabled=True,
        )
    return g.db


def close_db(exc: BaseException | None = None) -> None:
    connection = g.pop("db", None)
    if connection is not None:
        connection.close()


def add_pages(app: Flask) -> None:
    ticker = Ticker()

    @app.get("/state")
    def state() -> Any:
        """How this process is."""
        patched = "gevent.monkey" in sys.modules
        if patched:
            ticker.start_once()
        pool = hydracache.pool
        alive = [t.name for t in threading.enumerate() if t.is_alive()]
        return {
            "pid": os.getpid(),
            "ok": pool is not None and pool.health().ok,
            "threads": sorted(name for name in alive if name.startswith("hydracache")),
            "longest": ticker.longest,
            "gevent": patched,
        }

    @app.post("/items/<id>/<name>")
    def rename(id: str, name: str) -> Any:
        write(id, name)
        db().commit()
        return {"pid": os.getpid()}

    @app.post("/items/<id>/<name>/die")
    def rename_and_die(id: str, name: str) -> Any:
        """The process is killed after its commit and before it could publish."""
        write(id, name)
        db().commit()
        os.kill(os.getpid(), signal.SIGKILL)

    def write(id: str, name: str) -> None:
        db().cursor().execute("update item set name = %s where id = %s", (name, id))
        hydracache.invalidate_entity("item", id)
        hydracache.write(db())

    @app.get("/items/<id>")
    def read(id: str) -> Any:
        name = hydracache.get_or_load(
            f"item:{id}", lambda: load(id), tags=[entity_tag("item", id)]
        )
        return {"pid": os.getpid(), "name": name}

    def load(id: str) -> str:
        with db().cursor() as cursor:
            cursor.execute("select name from item where id = %s", (id,))
            return str(cursor.fetchone()[0])


if "NOTES" in os.environ:
    logging.basicConfig(format="%(levelname)s %(process)d %(name)s: %(message)s")
    logging.getLogger("hydracache_sync").setLevel(logging.INFO)
    app = create_app()

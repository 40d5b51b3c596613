"""Read with a bound of staleness while no worker carries rows, in each of several ways.

    python tests/faults/bounded.py
    python tests/faults/bounded.py --reads 100000 --seed 7
    python tests/faults/bounded.py --scenes killed paused

A writer commits new versions of pages without end. Readers whose clocks differ by the
skew read them with ``max_staleness``, and one without it shows what the bound is for:
a scene lasts until that one was given what is older. Then a worker makes all right
again, and the next scene begins once the others are served from the cache. The seed
draws the order of the scenes and the pages. Exit code: 0 if no read with the bound was
given a version whose successor's commit had ended longer before.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

if __name__ == "__main__":
    here = Path(__file__).resolve().parents[1]
    sys.path[:1] = [str(here), str(here.parent)]

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
)
from hydracache_sync.errors import ApplyPermanent
from support.servers import Memcached

NAMESPACE, PAGES, SKEW, BOUND = "shop", 5, 0.25, 2.5

#: Seconds after which what should come to pass counts as never happening.
PATIENCE = 120.0


class Refusing(MemcachedApplier):
    """Makes a dead letter of each row."""

    def apply_batch(self, intents: Any) -> list[Exception | None]:
        return [ApplyPermanent("refused") for _ in intents]


class World:
    """The servers, the writer and the readers.

    :ivar ends: of each page, when the commit of each version had ended.
    """

    def __init__(self, folder: Path, servers: list[Memcached], seed: int) -> None:
        self.path = folder / "shop.db"
        self.servers = servers
        self.addresses = [each.address for each in servers]
        self.outbox = SQLiteOutbox(self.path)
        self.outbox.install_schema()
        self.store = MemcachedStore(self.addresses, retry_after=0.1)
        self.stop = threading.Event()
        self.seed = seed
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("create table pages (id integer, version integer)")
            connection.executemany(
                "insert into pages values (?, 0)", [(page,) for page in range(PAGES)]
            )
        self.ends = [[time.time()] for _ in range(PAGES)]
        #: By the clock's offset, None for the reader without a bound.
        self.caches = {
            offset: self.cache(offset) for offset in (-SKEW, 0.0, SKEW, None)
        }
        self.reads = dict.fromkeys(self.caches, 0)
        self.too_old = dict.fromkeys(self.caches, 0)
        self.errors: list[BaseException] = []

    def cache(self, offset: float | None) -> TaggedCache:
        off = offset or 0.0
        return TaggedCache(
            self.store,
            NAMESPACE,
            clock_skew=SKEW,
            max_staleness=None if offset is None else BOUND,
            clock=lambda: time.time() + off,
        )

    def write(self) -> None:
        chance = random.Random(self.seed)
        while not self.stop.wait(0.05):
            page = chance.randrange(PAGES)
            with self.outbox.transaction() as connection:
                connection.execute(
                    "update pages set version = version + 1 where id = ?", (page,)
                )
                batch = InvalidationIntentBatch().invalidate_tag(page)
                self.outbox.enqueue_in(connection, NAMESPACE, batch)
            self.ends[page].append(time.time())

    def read(self, offset: float | None) -> None:
        chance = random.Random(f"{self.seed} {offset}")
        cache = self.caches[offset]
        with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as connection:

            def load() -> int:
                found = connection.execute(
                    "select version from pages where id = ?", (page,)
                )
                return int(found.fetchone()[0])

            while not self.stop.is_set():
                page = chance.randrange(PAGES)
                began = time.time()
                # What readers with the bound load must not fix what the other reads.
                key = f"{page} {offset is None}"
                version = cache.get_or_load(key, load, tags=[page])
                later = self.ends[page][version + 1 : version + 2]
                self.reads[offset] += 1
                if later and began - later[0] > BOUND:
                    self.too_old[offset] += 1

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        def kept(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as exc:
                self.errors.append(exc)

        works: list[Callable[[], None]] = [self.write]
        works += [lambda at=each: self.read(at) for each in self.caches]
        threads = [threading.Thread(target=kept, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
            self.store.close()
            self.outbox.close()

    @contextlib.contextmanager
    def worker(self, **changed: str) -> Iterator[subprocess.Popen[bytes]]:
        """A ``hydracache worker``, which is killed in the end."""
        process = subprocess.Popen(self.command("worker", **changed))
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def cron(self) -> Iterator[None]:
        """One ``hydracache drain`` after the other."""
        ended = threading.Event()

        def drain() -> None:
            while not ended.wait(0.2):
                # Its exit code is of the rows that a killed worker has claimed.
                subprocess.run(self.command("drain"))

        thread = threading.Thread(target=drain)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def command(self, name: str, **changed: str) -> list[str]:
        given = {
            "outbox": f"sqlite:///{self.path}",
            "namespace": NAMESPACE,
            "memcached": ",".join(self.addresses),
            "max-staleness": str(BOUND),
            **changed,
        }
        options = [f"--{name}={value}" for name, value in given.items()]
        return [sys.executable, "-m", "hydracache_sync", name, "--quiet", *options]

    def until(self, what: str, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if self.errors:
                raise self.errors[0]
            if time.monotonic() > deadline:
                raise AssertionError(f"after {PATIENCE:g} s still not: {what}")
            time.sleep(0.05)

    def until_old(self) -> None:
        """Until a reader without a bound was given what is older than the bound."""
        before = self.too_old[None]
        self.until("an old page", lambda: self.too_old[None] > before)

    def until_served(self) -> None:
        for offset in (-SKEW, 0.0, SKEW):
            counts = self.caches[offset].diagnostics
            before = counts().hits
            self.until("a hit", lambda: counts().hits > before)  # noqa: B023


# The scenes


def killed(world: World) -> None:
    world.until_old()


def frozen(world: World) -> None:
    with world.worker() as process:
        world.until_served()
        process.send_signal(signal.SIGSTOP)
        world.until_old()


def cron_dies(world: World) -> None:
    with world.cron():
        time.sleep(BOUND + SKEW)  # what the worker before them has said is too old
        world.until_served()
    world.until_old()


def wrong_namespace(world: World) -> None:
    with world.worker(namespace="blog"):
        world.until_old()


def old_ring(world: World) -> None:
    world.outbox.pause(NAMESPACE)  # else it would publish what it does not reach
    with world.worker(ring="0"):
        world.until_old()
    world.outbox.resume(NAMESPACE)


def paused(world: World) -> None:
    with world.worker():
        world.outbox.pause(NAMESPACE)
        world.until_old()
        world.outbox.resume(NAMESPACE)


def dead_letters(world: World) -> None:
    applier = Refusing(world.store, NAMESPACE)
    worker = OutboxWorker(world.outbox, applier, escalate=False, watermark=True)
    before = world.too_old[None]

    def refused() -> bool:
        worker.drain()
        return world.too_old[None] > before

    world.until("an old page", refused)


def empty_node(world: World) -> None:
    with world.worker():
        world.until_served()
        world.servers[0].restart()
    world.until_old()


SCENES = (
    killed,
    frozen,
    cron_dies,
    wrong_namespace,
    old_ring,
    paused,
    dead_letters,
    empty_node,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [each.__name__ for each in SCENES]
    parser.add_argument("--scenes", nargs="+", choices=names, default=names)
    parser.add_argument("--reads", type=int, default=1, help="with the bound, at least")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [stack.enter_context(Memcached()) for _ in range(2)]
        world = World(folder, servers, options.seed)

        def bounded(counts: dict[float | None, int]) -> int:
            return sum(n for offset, n in counts.items() if offset is not None)

        with world.running():
            while True:
                scenes = [each for each in SCENES if each.__name__ in options.scenes]
                chance.shuffle(scenes)
                for scene in scenes:
                    with world.worker():
                        world.until_served()
                    scene(world)
                    print(f"  {scene.__name__}: played", flush=True)
                if bounded(world.reads) >= options.reads:
                    break
        lapsed = sum(each.diagnostics().lapsed for each in world.caches.values())
        hits = sum(each.diagnostics().hits for each in world.caches.values())
        late = bounded(world.too_old)
        for count, what in (
            (bounded(world.reads), "reads with the bound"),
            (late, f"of them older than {BOUND:g} s"),
            (lapsed, "entries not served"),
            (hits, "hits of all readers"),
            (world.too_old[None], f"reads without it older than {BOUND:g} s"),
            (sum(map(len, world.ends)), "versions committed"),
        ):
            print(f"{count:10} {what}")
    return 1 if late or world.errors else 0


if __name__ == "__main__":
    sys.exit(main())

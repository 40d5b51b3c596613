"""Scenes in which a token arrives late, one after the other, in the middle of it all.

At random a late token meets just the reader that it could deceive once in thousands of
reads. A scene has them meet each time: a host commits and its token is held, somebody
begins a snapshot, another host commits and publishes, and then the token comes. What
its readers get is judged as all reads are. Only scenes write their items; whatever else
goes on, goes on.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import ExitStack, closing, suppress
from typing import Any, Callable

import pymysql

from chaos.app import (
    CLAIM_TTL,
    CLOCK_SKEW,
    HOLD_OFF,
    SCENES_ITEMS,
    Settings,
    key_of,
)
from chaos.records import CACHED, LOADED, LOADED_IN_OLD_SNAPSHOT, Log
from chaos.transactions import write_one
from hydracache_sync import HydraCacheError, OutboxWorker, open_outbox
from support.late_link import Link

#: Seconds between two scenes, on average.
EVERY = 0.2

#: Seconds by which a token is later than it has to be.
LATER = (0.0, 0.0, 0.1, 1.0)

#: Seconds until a scene that does not go on is broken off.
PATIENCE = 3.0


class BrokenOff(Exception):
    """Something else happened to the scene: it shows nothing, and does no harm."""


class Scenes:
    """Plays them until it is told to stop. Has links of its own for host A."""

    def __init__(self, settings: Settings, dice: random.Random, log: Log) -> None:
        self._settings = settings
        self._random = dice
        self._log = log
        self._played: dict[str, Callable[[int], None]] = {
            "a late apply": self._late_apply,
            "an apply that was stopped": self._stopped_apply,
            "a late apply beside a quarantine": self._late_apply_beside_quarantine,
            "a quarantine that was stopped": self._stopped_quarantine,
        }

    def run(self, stop: threading.Event) -> None:
        settings, dice = self._settings, self._random
        with ExitStack() as stack:
            self._links = [
                stack.enter_context(Link(node, seed=dice.random()))
                for node in settings.nodes
            ]
            self._outbox = stack.enter_context(closing(open_outbox(settings.database)))
            self._far = settings.stores([link.port for link in self._links])
            self._near = settings.stores()
            programme: list[str] = []
            while not stop.wait(0 if settings.calm else dice.expovariate(1 / EVERY)):
                if not programme:
                    # Each once, and then each once more.
                    programme = dice.sample(list(self._played), len(self._played))
                name = programme.pop()
                item = settings.items - 1 - dice.randrange(SCENES_ITEMS)
                if "quarantine" in name:
                    item += settings.items
                try:
                    self._played[name](item)
                    self._log.count(f"scenes of {name}")
                except (BrokenOff, HydraCacheError, pymysql.err.Error):
                    # A node was killed, a connection cut, a row locked by a purge.
                    self._log.count("scenes broken off")
                finally:
                    self._deliver()
        self._log.flush()

    # The scenes

    def _late_apply(self, item: int) -> None:
        """Host A's apply is late, and an old snapshot reads after it has come."""
        self._warm(item)
        written = self._write(item)
        self._cut()
        self._publish(self._far, item, written)
        self._old_snapshot_meets(item, self._deliver)

    def _stopped_apply(self, item: int) -> None:
        """A process of host A is stopped between its stamp and its token."""
        self._warm(item)
        written = self._write(item)
        with Stopped() as stopped:
            stopped.does(
                lambda: self._publish(self._near, item, written, clock=stopped.clock)
            )
            self._old_snapshot_meets(item, stopped.go_on)

    def _late_apply_beside_quarantine(self, item: int) -> None:
        """Host A's apply is late, and comes while host B is about to commit."""
        self._warm(item)
        written = self._write(item)
        self._cut()
        self._publish(self._far, item, written)
        self._quarantine_meets(item, self._deliver)

    def _stopped_quarantine(self, item: int) -> None:
        """A writer is stopped in its quarantine, and rolls back; another commits."""
        self._warm(item)

        def begin() -> None:
            cache = self._settings.cache(self._near, item, clock=stopped.clock)
            with suppress(HydraCacheError):
                with cache.quarantine(self._settings.batch(item)):
                    pass

        # The second look at the clock is the one for the stamp.
        with Stopped(looks=2) as stopped:
            stopped.does(begin)
            self._quarantine_meets(item, stopped.go_on)

    # Their parts

    def _warm(self, item: int) -> None:
        """Have all tokens stamped: under others no old snapshot is stored anyway."""
        self._read(item, since=time.time())

    def _old_snapshot_meets(self, item: int, late: Callable[[], None]) -> None:
        """Read in a snapshot from before a commit, after the commit and ``late``."""
        self._wait(CLOCK_SKEW)
        with closing(self._settings.connect()) as old:
            since = time.time() if self._settings.guard else None
            with old.cursor() as cursor:
                cursor.execute("start transaction with consistent snapshot")
            self._publish(self._near, item, self._write(item))
            late()
            self._read(item, old, since)
        for _ in range(3):
            self._read(item)

    def _quarantine_meets(self, item: int, late: Callable[[], None]) -> None:
        """Commit in a quarantine, and read in it after ``late``, and after it."""
        self._wait(HOLD_OFF + CLOCK_SKEW)

        def before_commit() -> None:
            late()
            self._read(item)

        self._write(item, before_commit)
        for _ in range(3):
            self._read(item)

    def _wait(self, seconds: float) -> None:
        """Until a stamp of now counts as old, or for longer."""
        later = 0.0 if self._settings.calm else self._random.choice(LATER)
        time.sleep(seconds + 0.01 + later)

    def _write(
        self, item: int, before_commit: Callable[[], object] = lambda: None
    ) -> tuple[int, Any]:
        settings = self._settings
        cache = settings.cache(self._near, item)
        with closing(settings.connect()) as connection:
            version, receipt, strictly = write_one(
                settings, self._outbox, connection, cache, item, before_commit
            )
        now = time.monotonic_ns()
        self._log.fact("committed", item, version, now)
        if strictly:
            self._log.fact("strict", item, version, now)
        return version, receipt

    def _publish(
        self, stores: list[Any], item: int, written: tuple[int, Any], **options: Any
    ) -> None:
        namespace = self._settings.namespace(item)
        applier = self._settings.applier(stores, namespace, **options)
        worker = OutboxWorker(self._outbox, applier, claim_ttl=CLAIM_TTL)
        version, receipt = written
        if worker.publish(receipt).complete:
            self._log.fact("inline", item, version, time.monotonic_ns())

    def _read(
        self, item: int, connection: Any = None, since: float | None = None
    ) -> None:
        settings = self._settings
        how = CACHED

        def load() -> int:
            nonlocal how
            if connection is not None:
                how = LOADED_IN_OLD_SNAPSHOT
                return _version(connection, item)
            how = LOADED
            with closing(settings.connect(autocommit=True)) as fresh:
                return _version(fresh, item)

        cache = settings.cache(self._near, item)
        began = time.monotonic_ns()
        version = cache.get_or_load(
            key_of(item), load, tags=settings.tags(item), since=since
        )
        self._log.read(item, version, began, time.monotonic_ns(), how)

    def _cut(self) -> None:
        at_once = self._random.random() < 0.5
        for link in self._links:
            link.hold() if at_once else link.hold_after_reply()

    def _deliver(self) -> None:
        """Have arrive what is held, and wait until the nodes have done it."""
        for link in self._links:
            link.release()
        for link in self._links:
            # A node that is stopped does it later, which is late as well.
            link.wait_until_delivered(0.3)


class Stopped:
    """A thread that stands still between two looks at the clock, as SIGSTOP does it."""

    def __init__(self, *, looks: int = 1) -> None:
        self._looks = looks
        self._stands = threading.Event()
        self._goes_on = threading.Event()
        self._thread: threading.Thread | None = None

    def clock(self) -> float:
        now = time.time()
        self._looks -= 1
        if not self._looks:
            self._stands.set()
            self._goes_on.wait()
        return now

    def does(self, work: Callable[[], None]) -> None:
        """Begin, and return when it stands still."""

        def run() -> None:
            # It may meet any outage; whoever else has to notice, does.
            with suppress(HydraCacheError, pymysql.err.Error):
                work()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        if not self._stands.wait(PATIENCE):
            raise BrokenOff

    def go_on(self) -> None:
        self._goes_on.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Stopped:
        return self

    def __exit__(self, *failure: object) -> None:
        self.go_on()


def _version(connection: Any, item: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute("select version from item where id = %s", (item,))
        [version] = cursor.fetchone()
    return int(version)

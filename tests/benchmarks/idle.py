"""Instructions of a pool's poll that finds nothing, by hand and by the library.

    python tests/benchmarks/idle.py [--only mariadb ...] [--polls 400] [--save FILE]

What ``latency.py`` says of an idle pool depends on what else the machine does, and
these do not. By hand is a thread that waits for a lock, and then compares the times of
the two files, or sends the same query on an open socket and reads the answer. The
library is a pool with 8 namespaces. valgrind's cachegrind counts instructions of the
process, so without those of the kernel and of the server. Each side runs with so many
polls, and with twice as many: the difference is theirs.

Not in it is what comes by the clock: whether the database takes writes, rows that are
dated ahead, and on SQLite the query four times a second. The check of MySQL's
connection, once a second, is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _results import Results, add_save, tell, versions  # noqa: E402
from instructions import NEVER, instructions_of  # noqa: E402
from latency import NAMESPACES, Database, server_url, sqlite_url  # noqa: E402

from hydracache_sync import (  # noqa: E402
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    open_outbox,
)
from hydracache_sync.outbox import claims  # noqa: E402
from hydracache_sync.outbox.sqlite import poll as sqlite_poll  # noqa: E402
from hydracache_sync.pool.poll_scheduler import (  # noqa: E402
    PollScheduler,
    T,
    _is_never_quiet,
)
from hydracache_sync.pool.thread_group import ThreadGroup  # noqa: E402
from hydracache_sync.pool.timing import PoolTiming  # noqa: E402
from support.servers import SQL_SERVERS  # noqa: E402

#: Seconds between two polls: it must be waited for them, also within valgrind.
PAUSE = 0.02


class Counted(PollScheduler):
    """Counts the polls that are left, and ends the threads after the last."""

    def __init__(self, polls: int, end: Callable[[], None]) -> None:
        super().__init__(PAUSE, NEVER)
        self._left = polls
        self._end = end

    def nothing_due(self, thread: object, took: float) -> None:
        self._count()
        super().nothing_due(thread, took)

    def wait(
        self, thread: T, is_quiet: Callable[[T, float], bool] = _is_never_quiet
    ) -> bool:
        def counted(thread: T, now: float) -> bool:
            quiet = is_quiet(thread, now)
            if quiet:
                self._count()
            return quiet

        return super().wait(thread, counted)

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            self._end()


def poll(side: str, count: int, url: str) -> None:
    """Do it, in the process whose instructions are counted."""
    claims.LOOK_AHEAD_EVERY = sqlite_poll.LOOK_ANYWAY = NEVER
    outbox = open_outbox(url)
    try:
        for _ in range(2):  # the second one is by the way of the others
            assert outbox.due_namespaces(NAMESPACES) == []
        if side == "by hand":
            by_hand(outbox, count)
        else:
            by_library(outbox, count)
    finally:
        outbox.close()


def by_hand(outbox: Any, count: int) -> None:
    wakeup = threading.Lock()
    wakeup.acquire()
    if hasattr(outbox, "path"):
        before = None
        for _ in range(count):
            wakeup.acquire(True, PAUSE)
            data, log = os.stat(outbox.path), os.stat(f"{outbox.path}-wal")
            times = data.st_mtime_ns, log.st_mtime_ns, data.st_size, log.st_size
            assert before in (None, times)
            before = times
        return
    [packet] = outbox._poll.queries.values()
    with outbox._sessions.lend() as connection:
        answer = None
        for _ in range(count):
            wakeup.acquire(True, PAUSE)
            connection._sock.sendall(packet)
            received = connection._sock.recv(4096)
            assert answer in (None, received)
            answer = received


def by_library(outbox: Any, count: int) -> None:
    applier = MemcachedStore(["127.0.0.1:9"])  # nothing is due: it is not asked
    group = ThreadGroup(
        [OutboxWorker(outbox, MemcachedApplier(applier, each)) for each in NAMESPACES],
        threads=1,
        names=iter(["poller"]),
        poll_interval=PAUSE,
        stuck_after=NEVER,
        emit=print,
        timing=PoolTiming(check_writable_every=NEVER, hanging_poll=NEVER),
    )
    group._scheduler = Counted(count, group.stop)
    group.start()
    [thread] = group.threads()
    assert thread.has_ended(time.monotonic() + NEVER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    places = ["sqlite", *SQL_SERVERS]
    parser.add_argument("--only", choices=places, action="append")
    parser.add_argument("--polls", type=int, default=400)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    add_save(parser)
    options = parser.parse_args()
    if options.run:
        side, count, url = options.run
        poll(side, int(count), url)
        return
    if shutil.which("valgrind") is None:
        print("valgrind is missing: nothing is counted")
        return
    results = Results()
    saved = results.table(
        "Instructions of an idle poll, without those of the kernel and of the server:",
        ["place", "by hand", "library"],
    )
    versioned = versions("pymysql")
    for place in options.only or ["sqlite", "mariadb"]:
        with sqlite_url() if place == "sqlite" else server_url(place) as url:
            database = Database(url)  # open, or SQLite would delete its log
            versioned.update(database.outbox.versions())
            found = []
            for side in ("by hand", "library"):
                once, twice = (
                    instructions_of(__file__, "--run", side, str(count), url)
                    for count in (options.polls, 2 * options.polls)
                )
                found.append(f"{(twice - once) / options.polls:,.0f}")
            tell(saved, place, *found)
    if options.save:
        results.save(options.save, **versioned)


if __name__ == "__main__":
    main()

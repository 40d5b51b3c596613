"""The supervisor: starts the processes, harms them, starts their successors, cleans up.

Ends only what it has started. What it has started ends with it, whatever happens.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Callable, Iterator

from faults.checker import Verdict, check
from faults.database import Database, Session, SQLiteDatabase, open_database
from faults.fate import WORKER_FATES, WRITER_FATES
from faults.job import CLAIM_TTL, Job
from faults.plan import (
    AWAY,
    CRON_EVERY,
    CRON_PASSES,
    FREEZE_WORKER,
    FROZEN_BEYOND,
    KILL_WORKER,
    KILL_WRITER,
    RESTART_DATABASE,
    RESTART_MEMCACHED,
    WORKER_PASSES,
    WRITER_PASSES,
    Settings,
    draw_events,
    fates,
)
from support.servers import SQL_SERVERS, Memcached, Server

#: Seconds between two looks at the processes.
TICK = 0.02

#: Seconds between two lines about the progress.
TOLD_EVERY = 10.0

#: Seconds until a process that was asked to stop is killed.
STOP_TIMEOUT = 20.0

TESTS = Path(__file__).resolve().parent.parent


class StormError(Exception):
    """The storm itself failed: a process crashed, or the time was up."""


class Child:
    """A process of the storm.

    :ivar hit_by: what the supervisor has done to it last.
    :ivar thaw_at: when it is to go on, if it is frozen.
    """

    def __init__(self, job: Job, errors: Path) -> None:
        self.job = job
        self.errors = errors
        self.hit_by: str | None = None
        self.thaw_at: float | None = None
        path = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        with errors.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "faults.process", job.to_json()],
                stdin=subprocess.DEVNULL,
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
                # Out of reach of Ctrl-C, which the supervisor answers for all.
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def has_stopped(self) -> bool:
        """Whether SIGSTOP has come into effect since the last look."""
        try:
            found = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            return False
        return found is not None

    def thaw(self) -> None:
        self.thaw_at = None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it, frozen or not. Safe to call again."""
        self.process.kill()
        self.process.wait()


class Storm:
    """One run. Call :meth:`run` once.

    :param server: of the database, to be killed; the caller ends it.
    """

    def __init__(
        self,
        settings: Settings,
        folder: str,
        database: Database,
        server: Server | None,
        tell: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._tell = tell
        self._tell_at = time.monotonic() + TOLD_EVERY
        self._folder = Path(folder)
        self._random = random.Random(settings.seed)
        self._events = draw_events(settings, self._random)
        self._fates = {
            "writer": fates(WRITER_FATES, WRITER_PASSES, self._random),
            "worker": fates(WORKER_FATES, WORKER_PASSES, self._random),
            "cron": fates(WORKER_FATES, CRON_PASSES, self._random),
        }
        self._children: list[Child] = []
        self._lives: Counter[tuple[str, int]] = Counter()
        self._harm: Counter[str] = Counter()
        self._database = database
        # By the fault that hits them, and when they are to be back after it.
        self._servers: dict[str, Server] = {}
        if server is not None:
            self._servers[RESTART_DATABASE] = server
        self._back_at: dict[str, float] = {}
        self._cron_at = 0.0
        self._ends_at = time.monotonic() + settings.deadline

    def run(self) -> Verdict:
        """Run it all and look at what is left.

        :raises StormError: it did not come to its end.
        """
        (self._folder / "ledgers").mkdir()
        self._database.prepare(self._settings.items)
        began = time.monotonic()
        try:
            self._servers[RESTART_MEMCACHED] = Memcached()
            self._start_all()
            with closing(self._database.reader()) as session:
                self._rage(session)
            self._calm_down()
            duration = time.monotonic() - began
        finally:
            self._end_all()
        return check(
            self._folder / "ledgers",
            self._database,
            harm=self._harm,
            duration=duration,
        )

    # Processes

    def _start(self, role: str, slot: int = 0) -> Child:
        settings = self._settings
        life = self._lives[role, slot]
        self._lives[role, slot] += 1
        deck = self._fates.get(role)
        job = Job(
            role=role,
            slot=slot,
            life=life,
            seed=settings.seed,
            folder=str(self._folder),
            database=self._database.url,
            memcached=self._servers[RESTART_MEMCACHED].address,
            items=settings.items,
            parent=os.getpid(),
            quota=settings.quota(slot) if role == "writer" else 0,
            rate=settings.rate / settings.writers,
            fate=next(deck) if deck else None,
            plain_delete=settings.plain_delete,
            drop_intents=settings.drop_intents,
        )
        child = Child(job, self._folder / f"{job.name}.err")
        self._children.append(child)
        return child

    def _start_all(self) -> None:
        for role, count in (
            ("writer", self._settings.writers),
            ("worker", self._settings.workers),
            ("reader", self._settings.readers),
        ):
            for slot in range(count):
                self._start(role, slot)

    def _of(self, role: str) -> list[Child]:
        return [child for child in self._children if child.job.role == role]

    def _reap(self, *, succeed: bool = True) -> None:
        """Note who has ended, and start successors of those who were killed."""
        for child in list(self._children):
            if child.running:
                continue
            self._children.remove(child)
            job = child.job
            code = child.process.returncode
            if code == -signal.SIGKILL and (child.hit_by or job.fate):
                how = child.hit_by or f"when {job.fate[0]}"  # type: ignore[index]
                self._harm[f"{job.role} killed {how}"] += 1
                if succeed and job.role in ("writer", "worker"):
                    self._start(job.role, job.slot)
            elif code not in (0, -signal.SIGTERM):
                errors = child.errors.read_text(errors="replace")[-3000:].strip()
                raise StormError(f"{job.name} ended with {code}:\n{errors}")

    def _thaw(self) -> None:
        """Note who has been frozen, by us or itself, and let go on whose time is up."""
        now = time.monotonic()
        for child in self._children:
            if child.thaw_at is None and child.has_stopped():
                point = child.job.fate[0] if child.job.fate else ""
                how = child.hit_by or f"when {point}"
                self._harm[f"{child.job.role} frozen {how}"] += 1
                child.hit_by = None
                child.thaw_at = now + CLAIM_TTL + self._random.uniform(*FROZEN_BEYOND)
            elif child.thaw_at is not None and now >= child.thaw_at:
                child.thaw()

    # The storm

    def _rage(self, session: Session) -> None:
        """Go on until every writer has committed its quota, and all faults came."""
        while self._of("writer") or self._are_to_come():
            self._check_time()
            self._reap()
            self._thaw()
            if RESTART_DATABASE not in self._back_at:
                progress = self._progress(session)
                # One that finds nobody to hit comes later: after an outage several are
                # due at once, and what is hit first takes a second to start again.
                self._events = [
                    event
                    for event in self._events
                    if event.at > progress or not self._strike(event.what)
                ]
            self._return_servers()
            if time.monotonic() >= self._cron_at:
                self._cron_at = time.monotonic() + CRON_EVERY
                if not self._of("cron"):
                    self._start("cron")
            time.sleep(TICK)

    def _progress(self, session: Session) -> float:
        committed, wanted = session.committed(), self._settings.transactions
        if time.monotonic() > self._tell_at:
            self._tell_at += TOLD_EVERY
            hits = ", ".join(f"{n} {what}" for what, n in sorted(self._harm.items()))
            self._tell(f"{committed} of {wanted} committed, {hits}")
        return committed / wanted

    def _are_to_come(self) -> bool:
        """Whether there are faults that can still hit: not of a writer that is done."""
        return any(event.what != KILL_WRITER for event in self._events)

    def _strike(self, what: str) -> bool:
        """Let the fault happen, if there is something that it can hit."""
        if what == KILL_WRITER:
            return self._signal("writer", signal.SIGKILL)
        if what == KILL_WORKER:
            return self._signal("worker", signal.SIGKILL)
        if what == FREEZE_WORKER:
            return self._signal("worker", signal.SIGSTOP)
        if what in self._back_at:
            return False
        server = self._servers[what]
        server.kill()
        self._harm[f"{server.program} killed"] += 1
        self._back_at[what] = time.monotonic() + self._random.uniform(*AWAY)
        return True

    def _signal(self, role: str, number: signal.Signals) -> bool:
        """Hit one that runs and has not been hit yet, if there is one."""
        found = [
            child
            for child in self._of(role)
            if child.hit_by is None and child.running
            # Nothing tells that one was stopped that was stopped already.
            and (number != signal.SIGSTOP or child.thaw_at is None)
        ]
        if not found:
            return False
        victim = self._random.choice(found)
        victim.hit_by = "at random"
        victim.process.send_signal(number)
        return True

    def _return_servers(self, *, now: bool = False) -> None:
        for what, back_at in list(self._back_at.items()):
            if now or time.monotonic() >= back_at:
                self._servers[what].start()
                del self._back_at[what]

    def _check_time(self) -> None:
        if time.monotonic() > self._ends_at:
            raise StormError(
                f"not at its end after {self._settings.deadline:g} s, with"
                f" {[child.job.name for child in self._children]} running"
            )

    # The end

    def _calm_down(self) -> None:
        """Drain in a fresh process what is left, then read everything once more."""
        self._return_servers(now=True)
        for role in ("worker", "cron"):
            self._stop(role)
        for role in ("last-drain", "sweep"):
            self._start(role)
            while self._of(role):
                self._check_time()
                self._reap()
                time.sleep(TICK)
        self._stop("reader")

    def _stop(self, role: str) -> None:
        """Have those of ``role`` finish what they are doing, and end."""
        give_up_at = time.monotonic() + STOP_TIMEOUT
        for child in self._of(role):
            # One that is frozen sees the signal when it goes on.
            child.process.send_signal(signal.SIGTERM)
        while self._of(role):
            self._reap(succeed=False)
            self._thaw()
            if time.monotonic() > give_up_at:
                raise StormError(f"{role} did not stop in {STOP_TIMEOUT:g} s")
            time.sleep(TICK)

    def _end_all(self) -> None:
        for child in self._children:
            with suppress(OSError):
                child.kill()
        self._children.clear()
        if RESTART_MEMCACHED in self._servers:
            self._servers[RESTART_MEMCACHED].stop()


@contextmanager
def started_database(
    kind: str, folder: str
) -> Iterator[tuple[Database, Server | None]]:
    """A new database, and its server if it has one, which ends with the block."""
    if kind == "sqlite":
        yield SQLiteDatabase.in_folder(folder), None
        return
    with SQL_SERVERS[kind]() as server:
        yield open_database(server.url("storm")), server


def run(
    settings: Settings, *, tell: Callable[[str], None], keep: str | None = None
) -> Verdict:
    """Run a storm in a folder of its own, which is removed unless ``keep`` names it.

    :param tell: called with a line about the progress now and then.
    :param keep: what a server has in its own directory is not kept.
    :raises StormError: the storm itself failed.
    """
    if keep is not None:
        Path(keep).mkdir()
        return run_in(keep, settings, tell)
    with tempfile.TemporaryDirectory(prefix="hydracache-storm-") as folder:
        return run_in(folder, settings, tell)


def run_in(folder: str, settings: Settings, tell: Callable[[str], None]) -> Verdict:
    with started_database(settings.database, folder) as (database, server):
        return Storm(settings, folder, database, server, tell).run()

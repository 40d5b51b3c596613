"""Starts the processes and servers of a run, harms them, and ends them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Callable, Iterator, Sequence

from faults.storm import StormError
from hydracache_sync import OutboxWorker, open_outbox
from support.servers import SQL_SERVERS, Memcached, SQLServer, free_port

from .app import HOSTS, Settings
from .judge import Verdict, judge
from .records import LOADED, Log, count_reads

#: Name of the database of a run.
NAME = "chaos"

NODES = 3
PROCESSES = {
    "link": HOSTS,
    "writer": 3,
    "worker": 2,
    "reader": 3,
    "observer": 1,
    "evictor": 1,
    "latecomer": 1,
    "scenes": 1,
}

#: Without these it is calm, but for the scenes.
UNREST = ("evictor", "latecomer")

#: Roles that write to all rings of a roll-out, and those that look into one.
WRITE_TO_RINGS = ("writer", "worker", "latecomer", "scenes")
LOOK_INTO_RING = ("reader", "evictor")

#: Megabytes of each node: so little that floods evict.
MEMORY = 2

#: What is done how often, in seconds on average, and for how long in seconds.
KILL_EVERY = 1.5
STOP_EVERY = 1.5
NODE_DOWN_EVERY = 6.0
NODE_STOPPED_EVERY = 8.0
DOWN = (0.1, 1.5)
STOPPED = (1.0, 5.0)

#: Seconds between two changes of the ring, and between two processes that get to know.
RING_EVERY = 15.0
RESTART_EVERY = 0.2

#: A worker sleeps beyond its claim and is late then. A writer sleeps for less than half
#: of the hold-off: that its COMMIT ends within it is an assumption of strictness.
SLEEPS = {"worker": (0.5, 4.5), "reader": (0.1, 4.0), "writer": (0.05, 0.4)}

EVICTED = "evictions by memcached"

STOP_TIMEOUT = 60.0
COUNT_EVERY = 1.0
TELL_EVERY = 10.0


class Child:
    """A process of a run."""

    def __init__(self, settings: Settings, role: str, slot: int, life: int) -> None:
        self.settings = settings
        self.role, self.slot, self.life = role, slot, life
        self.errors = Path(settings.folder) / f"{role}-{slot}-{life}.err"
        self.wake_at: float | None = None
        self.killed = False
        tests = Path(__file__).resolve().parent.parent
        path = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
        with self.errors.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chaos.roles", role, str(slot), str(life)]
                + [settings.to_json()],
                stdin=subprocess.DEVNULL,
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
                start_new_session=True,
            )

    def kill(self) -> None:
        self.killed = True
        self.process.kill()
        self.process.wait()


class Run:
    """One run; call :meth:`run` once."""

    def __init__(
        self,
        settings: Settings,
        database: SQLServer,
        nodes: list[Memcached],
        tell: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._nodes = nodes
        self._tell = tell
        self._random = random.Random(settings.seed)
        self._children: list[Child] = []
        self._harm: Counter[str] = Counter()
        self._nodes_back: dict[int, tuple[float, Callable[[], object]]] = {}
        self._roll_out: Iterator[object] = iter(())
        self._restart_at = 0.0

    def run(self, *, seconds: float | None, reads: int | None) -> Verdict:
        try:
            for role, count in PROCESSES.items():
                for slot in range(count):
                    if self._has_part(role):
                        self._start(role, slot, 0)
            self._rage(seconds, reads)
            self._settle()
        finally:
            for child in self._children:
                child.kill()
        verdict = judge(self._settings.folder, strict_from=self._settings.items)
        verdict.counts.update(self._harm)
        return verdict

    def _start(self, role: str, slot: int, life: int) -> None:
        self._children.append(Child(self._settings, role, slot, life))

    def _has_part(self, role: str) -> bool:
        if self._settings.plain_delete and role == "scenes":
            # There are no tokens.
            return False
        return not self._settings.calm or role not in UNREST

    def _rage(self, seconds: float | None, reads: int | None) -> None:
        began = time.monotonic()
        told = counted = began
        done = 0
        due = {
            what: began + 2.0 + self._pause(every) for what, every in _EVENTS.items()
        }
        while True:
            now = time.monotonic()
            if now - counted > COUNT_EVERY:
                counted = now
                done = count_reads(self._settings.folder)
            if seconds is not None and now - began >= seconds:
                return
            if reads is not None and done >= reads:
                return
            if now - told > TELL_EVERY:
                told = now
                self._tell(
                    f"{now - began:.0f} s, {done} reads, "
                    + ", ".join(f"{n} {what}" for what, n in self._harm.items())
                )
            self._look_after(now)
            for what, at in due.items():
                if now >= at and not self._settings.calm:
                    getattr(self, what)(now)
                    due[what] = now + self._pause(_EVENTS[what])
            if now >= self._restart_at:
                self._restart_at = now + RESTART_EVERY
                next(self._roll_out, None)
            time.sleep(0.02)

    def _pause(self, every: float) -> float:
        """Seconds to the next event; never so many that a short run has none."""
        return min(self._random.expovariate(1 / every), 2 * every)

    def _look_after(self, now: float) -> None:
        """Wake who sleeps, bring back who is away, and replace who was killed."""
        for number, (at, back) in list(self._nodes_back.items()):
            if now >= at:
                back()
                del self._nodes_back[number]
        for child in list(self._children):
            if child.wake_at is not None and now >= child.wake_at:
                child.wake_at = None
                child.process.send_signal(signal.SIGCONT)
            code = child.process.poll()
            if code is None:
                continue
            self._children.remove(child)
            if not child.killed:
                said = child.errors.read_text(errors="replace")[-3000:]
                raise StormError(
                    f"{child.role} {child.slot} ended with {code}:\n{said}"
                )
            self._start(child.role, child.slot, child.life + 1)

    # What is done to them

    def _kill(self, now: float) -> None:
        role = self._random.choice(("writer", "worker", "reader"))
        child = self._some(role)
        if child is not None:
            child.killed = True
            child.process.kill()
            self._harm[f"{role}s killed"] += 1

    def _sleep(self, now: float) -> None:
        role = self._random.choice(list(SLEEPS))
        child = self._some(role)
        if child is not None:
            child.process.send_signal(signal.SIGSTOP)
            child.wake_at = now + self._random.uniform(*SLEEPS[role])
            self._harm[f"{role}s stopped"] += 1

    def _some(self, role: str) -> Child | None:
        found = [
            child
            for child in self._children
            if child.role == role and not child.killed and child.wake_at is None
        ]
        return self._random.choice(found) if found else None

    def _node_down(self, now: float) -> None:
        number = self._random.randrange(len(self._nodes))
        if number not in self._nodes_back:
            node = self._nodes[number]
            self._harm[EVICTED] += _evictions(node)
            node.kill()
            self._nodes_back[number] = now + self._random.uniform(*DOWN), node.start
            self._harm["nodes killed"] += 1

    def _node_sleeps(self, now: float) -> None:
        number = self._random.randrange(len(self._nodes))
        if number not in self._nodes_back:
            node = self._nodes[number]
            node.pause()
            self._nodes_back[number] = now + self._random.uniform(*STOPPED), node.resume
            self._harm["nodes stopped"] += 1

    # A change of the ring, which comes to one process after the other

    def _new_ring(self, now: float) -> None:
        if next(self._roll_out, self) is not self:
            # The one before is not over.
            return
        self._roll_out = self._rolled_out()

    def _rolled_out(self) -> Iterator[object]:
        old = self._settings.ring
        new = str(int(old) + 1)
        self._settings = replace(self._settings, rings=(old, new))
        yield from self._restarted(WRITE_TO_RINGS)
        self._settings = replace(self._settings, ring=new)
        yield from self._restarted(LOOK_INTO_RING)
        self._settings = replace(self._settings, rings=(new,))
        yield from self._restarted(WRITE_TO_RINGS)
        self._harm["changes of the ring"] += 1

    def _restarted(self, roles: Sequence[str]) -> Iterator[object]:
        """Kill one after the other of those that do not know yet, until all do."""
        while True:
            late = [
                child
                for child in self._children
                if child.role in roles and child.settings != self._settings
            ]
            if not late:
                return
            child = self._random.choice(late)
            if not child.killed:
                child.killed = True
                child.process.kill()
            yield child

    # The end

    def _settle(self) -> None:
        """Let all finish, drain what is left, and read every item once more."""
        for _, back in self._nodes_back.values():
            back()
        self._nodes_back.clear()
        for _ in self._roll_out:
            # So that nobody reads a ring which not all write to.
            self._look_after(time.monotonic())
            time.sleep(RESTART_EVERY)
        for role in ("evictor", "latecomer", "scenes", "writer", "reader", "worker"):
            self._stop(role)
        self._stop("link")
        settings = self._settings
        stores = settings.stores()
        with closing(open_outbox(settings.database)) as outbox:
            for namespace in settings.namespaces():
                worker = OutboxWorker(outbox, settings.applier(stores, namespace))
                deadline = time.monotonic() + STOP_TIMEOUT
                while outbox.status(namespace).pending:
                    worker.drain(max_seconds=1.0)
                    if time.monotonic() > deadline:
                        raise StormError(f"rows of {namespace} are left undrained")
                    time.sleep(0.05)
        # The observer sees the last row.
        time.sleep(0.3)
        self._stop("observer")
        log = Log(settings.folder, "sweep")
        with closing(settings.connect(autocommit=True)) as connection:
            for item in range(settings.all_items):
                with connection.cursor() as cursor:
                    cursor.execute("select version from item where id = %s", (item,))
                    [version] = cursor.fetchone()
                log.fact("published", item, version, time.monotonic_ns())
                began = time.monotonic_ns()
                cached = settings.cache(stores, item).get_or_load(
                    f"item:{item}", lambda: version, tags=settings.tags(item)
                )
                log.read(item, cached, began, time.monotonic_ns(), LOADED)
        log.flush()
        self._harm[EVICTED] += sum(_evictions(node) for node in self._nodes)

    def _stop(self, role: str) -> None:
        chosen = [child for child in self._children if child.role == role]
        for child in chosen:
            child.process.send_signal(signal.SIGCONT)
            child.process.send_signal(signal.SIGTERM)
        for child in chosen:
            try:
                code = child.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                # It says where all its threads are.
                child.process.send_signal(signal.SIGUSR1)
                time.sleep(1.0)
                said = child.errors.read_text(errors="replace")[-5000:]
                raise StormError(
                    f"{role} did not stop in {STOP_TIMEOUT:g} s:\n{said}"
                ) from None
            if code and not child.killed:
                said = child.errors.read_text(errors="replace")[-3000:]
                # Asked to stop before it could listen.
                if code != -signal.SIGTERM:
                    raise StormError(f"{role} ended with {code}:\n{said}")
            self._children.remove(child)


_EVENTS = {
    "_kill": KILL_EVERY,
    "_sleep": STOP_EVERY,
    "_node_down": NODE_DOWN_EVERY,
    "_node_sleeps": NODE_STOPPED_EVERY,
    "_new_ring": RING_EVERY,
}


def _evictions(node: Memcached) -> int:
    from pymemcache.client.base import Client

    with closing(Client(node.address, connect_timeout=10, timeout=10)) as client:
        return int(client.stats()[b"evictions"])


def run(
    folder: str,
    *,
    seed: int,
    seconds: float | None,
    reads: int | None,
    tell: Callable[[str], None],
    kind: str = "mariadb",
    **weakened: bool,
) -> Verdict:
    """Run with servers of its own, and judge what was written down in ``folder``.

    :param kind: of the database's server.
    :param weakened: what of ``Settings`` is to be another way than the library's.
    """
    with ExitStack() as servers:
        database = servers.enter_context(SQL_SERVERS[kind]())
        memory = ("-m", str(MEMORY))
        nodes = [
            servers.enter_context(Memcached(arguments=memory)) for _ in range(NODES)
        ]
        settings = Settings(
            seed=seed,
            folder=folder,
            database=database.url(NAME),
            nodes=tuple(node.address for node in nodes),
            links=tuple(tuple(free_port() for _ in range(NODES)) for _ in range(HOSTS)),
            parent=os.getpid(),
            **weakened,
        )
        settings.prepare(NAME)
        return Run(settings, database, nodes, tell).run(seconds=seconds, reads=reads)

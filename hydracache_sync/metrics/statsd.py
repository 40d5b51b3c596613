"""The exporter for StatsD, of the numbers of ``readings``.

A thread of each process sends them by UDP; no request, no worker and no reader sends,
waits or looks up a name. A line of StatsD is a line of text, so no library is needed.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
import threading
import time
from collections import deque
from typing import Callable, Deque, Iterable, Sequence

from hydracache_sync.addresses import addresses_of
from hydracache_sync.cache.diagnostics import READS_FOR_ONE
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.durations import positive_ms
from hydracache_sync.fork import PerProcess, ProcessLock
from hydracache_sync.metrics.readings import Reading, Readings
from hydracache_sync.outage import LoggedOutage
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.pool import WorkerPool
from hydracache_sync.printable import printable_logger
from hydracache_sync.worker.worker import OutboxWorker

logger = printable_logger(__name__)

#: What all names begin with.
PREFIX = "hydracache"

#: Seconds between two sends of what was counted. Below the ten seconds for which StatsD
#: adds up by default, so that each of its sums has all processes.
SEND_EVERY = 1.0

#: Seconds between two readings of the gauges: the outbox is asked for its status.
GAUGES_EVERY = 10.0

#: Seconds after which the address is looked up again: a name may move.
LOOK_UP_EVERY = 60.0

#: Seconds that :meth:`StatsD.flush` may take.
FLUSH_TIMEOUT = 2.0

#: Bytes of a packet at most: what each network carries in one piece.
MAX_PACKET = 1200

#: Timers that wait to be sent, at most; of more the oldest are dropped.
MAX_TIMERS = 10_000

#: Timers of one batch's rows. Each counts for several rows where there are more.
TIMERS_OF_BATCH = 10


class StatsD:
    """Sends the metrics of one outbox, and of what works on it in this process.

    Nothing is sent before :meth:`ensure`, or an event of a worker, has started the
    thread of this process. Thread-safe, usable after a fork; a child sends what it
    counts itself. While the address is not known, or the network refuses, counters
    wait, and the log says so once. What UDP loses on its way is lost.

    :param host: name or address.
    :param namespaces: whose rows are counted in the outbox, every ten seconds.
    :param workers: whose counts are sent.
    :param caches: the same.
    :param pool: returns the pool of this process, None while it has none.
    :param prefix: what names begin with, before a dot.
    :param send_every: seconds between two sends.
    :param gauges_every: seconds between two readings of the gauges, at least.
    """

    def __init__(
        self,
        host: str,
        port: int,
        outbox: InvalidationOutbox,
        namespaces: Sequence[str],
        *,
        workers: Sequence[OutboxWorker] = (),
        caches: Sequence[TaggedCache] = (),
        pool: Callable[[], WorkerPool | None] = lambda: None,
        prefix: str = PREFIX,
        send_every: float = SEND_EVERY,
        gauges_every: float = GAUGES_EVERY,
    ) -> None:
        positive_ms("send_every", send_every)
        positive_ms("gauges_every", gauges_every)
        self._prefix = prefix
        self._send_every = send_every
        self._gauges_every = gauges_every
        self._readings = Readings(
            outbox, namespaces, workers=workers, caches=caches, pool=pool
        )
        self._sending = LoggedOutage(logger, f"sending metrics to {host} port {port}")
        self._mine = PerProcess(lambda: _Unsent(host, port))
        self._starts = ProcessLock()
        #: Held by who sends, which may take a while: no request and no worker takes it.
        self._sends = ProcessLock()
        #: The process whose thread sends.
        self._running_in = 0
        self._stop = threading.Event()
        self._closed = False
        self._readings.listen(
            outage=self._note_outage,
            batch=self._note_batch,
            lags=self._note_lags,
            read=self._note_read,
        )

    def ensure(self) -> None:
        """Have what this process counts sent from now on, by a thread.

        For each request, and called by each event of a worker: the usual case is one
        comparison. Never raises.
        """
        if self._running_in == os.getpid() or self._closed:
            return
        self._readings.abandon_inherited()
        with self._starts.mine():
            if self._running_in == os.getpid() or self._closed:
                return
            self._stop = threading.Event()
            thread = threading.Thread(
                target=self._run,
                args=(self._stop,),
                name="hydracache-statsd",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError as exc:
                # No thread to be had; the next request tries again.
                self._sending.begin(exc)
                return
            # A forked child that ends by sys.exit() has inherited it.
            if not self._running_in:
                atexit.register(self._at_exit)
            self._running_in = os.getpid()

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> bool:
        """Send what was counted until now, for the end of a process; return whether.

        Never raises for the network.

        :param timeout: seconds that looking up the address may take. Reading the
            outbox for its gauges takes up to two more.
        """
        return self._send(by=time.monotonic() + timeout, gauges=True)

    def close(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Send what is left, as :meth:`flush`, and nothing any more."""
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        atexit.unregister(self._at_exit)
        self.flush(timeout)
        self._mine.mine().close()

    def _at_exit(self) -> None:
        # By then no thread can be had, and the resolver takes what it takes.
        if self._running_in == os.getpid() and self._mine.mine().is_connected:
            self._send(by=time.monotonic(), gauges=False)

    def _run(self, stop: threading.Event) -> None:
        next_gauges = time.monotonic()
        while not stop.wait(self._send_every):
            now = time.monotonic()
            gauges = now >= next_gauges
            if gauges:
                next_gauges = now + self._gauges_every
            self._send(by=now + FLUSH_TIMEOUT, gauges=gauges)

    def _send(self, *, by: float, gauges: bool) -> bool:
        lock = self._sends.mine()
        if not lock.acquire(timeout=max(0.0, by - time.monotonic())):
            return False  # the thread is at it, and waits for an address itself
        try:
            readings: list[Reading] = []
            if gauges:
                readings += self._readings.outbox()
                readings += self._readings.states()
                by = max(by, time.monotonic())
            mine = self._mine.mine()
            for (name, labels), more in self._readings.grown():
                if more:
                    mine.count(self._name(name, labels), more)
            mine.send(
                [
                    f"{self._name(name, labels)}:{_number(value)}|g"
                    for name, labels, value in readings
                ],
                by,
            )
        except Exception as exc:
            # Counters wait; nothing that is counted depends on this.
            self._sending.begin(exc)
            return False
        finally:
            lock.release()
        self._sending.end()
        return True

    def _name(self, name: str, labels: Iterable[str]) -> str:
        return ".".join([self._prefix, name, *map(_part, labels)])

    # Events of workers and reads

    def _note_outage(self, namespace: str, node: str) -> None:
        self.ensure()
        self._mine.mine().outages.append(self._name("cache_outages", (namespace, node)))

    def _note_batch(self, namespace: str, seconds: float) -> None:
        self.ensure()
        self._time("worker_batch", namespace, seconds, "")

    def _note_lags(self, namespace: str, lags: Sequence[float]) -> None:
        kept, rate = sorted(lags), ""
        if len(kept) > TIMERS_OF_BATCH:
            # Evenly over all of them; StatsD multiplies by what the rate says.
            step = len(kept) / TIMERS_OF_BATCH
            kept = [kept[int(step * (n + 0.5))] for n in range(TIMERS_OF_BATCH)]
            rate = f"|@{TIMERS_OF_BATCH / len(lags):.6f}"
        for lag in kept:
            self._time("publish_lag", namespace, lag, rate)

    def _note_read(self, namespace: str, seconds: float) -> None:
        self._time("cache_read", namespace, seconds, f"|@{1 / READS_FOR_ONE}")

    def _time(self, name: str, namespace: str, seconds: float, rate: str) -> None:
        line = f"{self._name(name, (namespace,))}:{_number(seconds * 1000)}|ms{rate}"
        self._mine.mine().timers.append(line)


class _Unsent:
    """What a process has to send, and its socket. One thread at a time sends.

    :ivar outages: names of counters, each to be counted once. Any thread may append.
    :ivar timers: lines. Any thread may append.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._counts: dict[str, int] = {}
        self.outages: Deque[str] = deque()
        self.timers: Deque[str] = deque(maxlen=MAX_TIMERS)
        self._socket: socket.socket | None = None
        self._look_up_at = 0.0

    @property
    def is_connected(self) -> bool:
        return self._socket is not None

    def count(self, name: str, more: int) -> None:
        self._counts[name] = self._counts.get(name, 0) + more

    def send(self, gauges: list[str], by: float) -> None:
        """Send all of it; what is not sent waits for the next time, gauges do not.

        :raises OSError: the address is not known in time, or the network refuses.
        """
        while self.outages:
            self.count(self.outages.popleft(), 1)
        try:
            to = self._connected(by)
            self._send_counts(to)
            self._send_timers(to)
            _deliver(to, gauges)
        except OSError:
            self.close()
            raise

    def _send_counts(self, to: socket.socket) -> None:
        names = list(self._counts)
        lines = [f"{name}:{count}|c" for name, count in self._counts.items()]
        try:
            _deliver(to, lines)
        finally:
            for name in names[: len(names) - len(lines)]:
                del self._counts[name]

    def _send_timers(self, to: socket.socket) -> None:
        # Only here any is taken out, so there are as many.
        lines = [self.timers.popleft() for _ in range(len(self.timers))]
        try:
            _deliver(to, lines)
        finally:
            self.timers.extendleft(reversed(lines))

    def _connected(self, by: float) -> socket.socket:
        if self._socket is not None and time.monotonic() < self._look_up_at:
            return self._socket
        found = addresses_of(self._host, self._port, by)
        # Most daemons of StatsD listen on IPv4 alone, also where "localhost" is first
        # an address of IPv6.
        family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        self.close()
        to = socket.socket(family, socket.SOCK_DGRAM)
        try:
            # A full buffer is a failure, not a pause.
            to.setblocking(False)
            # So that a port where nothing listens on this host is a failure, too.
            to.connect(address)
        except OSError:
            to.close()
            raise
        self._look_up_at = time.monotonic() + LOOK_UP_EVERY
        self._socket = to
        return to

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _deliver(to: socket.socket, lines: list[str]) -> None:
    """Send lines, as many in a packet as fit, and take those that are sent out."""
    while lines:
        size = count = 0
        for line in lines:
            size += len(line) + 1
            if count and size > MAX_PACKET:
                break
            count += 1
        to.send("\n".join(lines[:count]).encode())
        del lines[:count]


def _part(label: str) -> str:
    """A label as a part of a name; a node without a name is the cache."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", label) or "cache"


def _number(value: float) -> str:
    """Without an exponent, which not every StatsD reads."""
    return f"{value:.3f}".rstrip("0").rstrip(".")

"""Compares what the cache serves with what the database says, while the app runs.

Each published invalidation promises that nothing older is served any more. A sample of
them is looked at again, three times by default: right after, when slow readers have
come back, and when nodes may have been restarted. A difference counts as stale only
when it is none of the changes that may still be on their way. Reads the outbox and the
cache, writes to neither.
"""

from __future__ import annotations

import heapq
import itertools
import operator
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Sequence

from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.durations import duration_ms
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.keys import Identity, identity_text
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import OutboxRow
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Seconds after its publish at which an invalidation is looked at.
DELAYS = (1.0, 60.0, 300.0)

#: Published rows that are taken each second at most: each costs a load and three
#: reads of the cache in all.
SAMPLE = 5

#: Seconds between two looks for newly published rows.
ROUND = 1.0

#: Published rows of one round that the sample is drawn from.
POPULATION = 1000

#: Seconds to wait until the changes are published that a load has seen.
SETTLE_TIMEOUT = 10.0

#: Seconds between two looks at the outbox meanwhile.
SETTLE_PAUSE = 0.05

#: How often a difference must be met, each time with all changes published that the
#: load before has seen, until it is called stale.
CONFIRMATIONS = 3

#: Findings kept with the counts; the log has them all.
MAX_FINDINGS = 100

#: What a check may come to.
EQUAL = "equal"
MISS = "miss"
STALE = "stale"
CHANGING = "changing"
UNSETTLED = "unsettled"
FAILED = "failed"
VERDICTS = (EQUAL, MISS, STALE, CHANGING, UNSETTLED, FAILED)

_ABSENT = object()


@dataclass(frozen=True)
class CachedRead:
    """One read that the app caches: what is served under ``key``, and its source.

    :ivar load: reads the database as the app's own loader does, in a fresh snapshot.
    :ivar tags: as the app gives them to the cache.
    """

    key: Identity
    load: Callable[[], Any]
    tags: Sequence[Identity] = ()


#: Names the reads that an intent invalidates; none where the app caches nothing of it.
ReadsOf = Callable[[InvalidationIntent], Iterable[CachedRead]]


@dataclass(frozen=True)
class StaleRead:
    """A value that went on being served although the database had another one.

    No row was pending: either an invalidation has had no effect, or a change was made
    that no row tells of. Which one cannot be told from here.

    :ivar row: the published invalidation that led to the check, not its cause.
    :ivar delay: seconds after its publish at which it was meant to be checked.
    """

    row: OutboxRow
    key: str
    delay: float


@dataclass(frozen=True)
class VerifyReport:
    """Counts since the verifier was made.

    :ivar published: published rows that were seen.
    :ivar sampled: of these, rows that were taken.
    :ivar checks: comparisons of one read at one moment, by what they came to.
        ``equal``: the cache served what the database has. ``miss``: it served nothing.
        ``stale``: it went on serving something else, with every change published that
        the database showed. ``changing``: both changed too quickly to be compared.
        ``unsettled``: rows stayed pending for too long to tell. ``failed``: the app's
        function raised.
    :ivar unmapped: sampled rows that the app named no read for.
    :ivar waiting: checks that are still to come.
    :ivar findings: the first stale reads.
    """

    published: int
    sampled: int
    checks: dict[str, int]
    unmapped: int
    waiting: int
    findings: tuple[StaleRead, ...]

    @property
    def stale(self) -> int:
        return self.checks[STALE]


class CacheVerifier:
    """Checks a sample of published invalidations of one namespace.

    For one thread, in a process of its own or a thread of the app's.

    :param cache: as the app's own: the same store, ring, namespace and codec.
    :param reads_of: names the reads that an intent invalidates.
    :param delays: seconds after the publish, 0 or more, at which a row is looked at.
    :param sample: rows that are taken in each second at most, at random.
    :param equal: compares the cached value with the loaded one.
    :param settle_timeout: seconds that a difference waits for rows to be published.
    :param seed: of the sample, to repeat a run.
    """

    def __init__(
        self,
        outbox: InvalidationOutbox,
        cache: TaggedCache,
        reads_of: ReadsOf,
        *,
        delays: Sequence[float] = DELAYS,
        sample: int = SAMPLE,
        equal: Callable[[Any, Any], bool] = operator.eq,
        settle_timeout: float = SETTLE_TIMEOUT,
        seed: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not delays:
            raise ValueError("delays is empty: name at least one, in seconds")
        for delay in delays:
            duration_ms("delays", delay)
        if isinstance(sample, bool) or not isinstance(sample, int) or sample < 1:
            raise ValueError(f"sample must be 1 or more, not {sample!r}")
        duration_ms("settle_timeout", settle_timeout)
        self._outbox = outbox
        self._cache = cache
        self._reads_of = reads_of
        self._delays = tuple(sorted(delays))
        self._sample = sample
        self._equal = equal
        self._settle_timeout = settle_timeout
        self._random = random.Random(seed)
        self._monotonic = monotonic
        self._sleep = sleep
        self._seen_until_ms: int | None = None
        # By the moment they are due; the number keeps rows out of the comparison.
        self._due: list[tuple[float, int, OutboxRow, float]] = []
        self._numbers = itertools.count()
        self._published = 0
        self._sampled = 0
        self._unmapped = 0
        self._checks: Counter[str] = Counter()
        self._findings: list[StaleRead] = []

    @property
    def namespace(self) -> str:
        return self._cache.namespace

    def run(
        self, *, seconds: float | None = None, stop: threading.Event | None = None
    ) -> VerifyReport:
        """Sample for ``seconds``, then finish the checks that are still to come.

        Rows that were published before the first look are not checked.

        :param seconds: None to go on until ``stop``.
        :param stop: when set, return at the next step; what is to come is left out.
        :raises OutboxError: the outbox could not be read.
        """
        stop = stop or threading.Event()
        end = None if seconds is None else self._monotonic() + seconds
        while not stop.is_set():
            sampling = end is None or self._monotonic() < end
            pause = self.step(sampling=sampling, stop=stop)
            if not sampling and not self._due:
                break
            stop.wait(pause)
        return self.report()

    def step(
        self, *, sampling: bool = True, stop: threading.Event | None = None
    ) -> float:
        """Take a sample, do the checks that are due; return seconds until the next.

        For a loop of your own; :meth:`run` is one.

        :param sampling: False to do only the checks that are still to come.
        :param stop: when set, leave out the checks that have not begun.
        """
        started = self._monotonic()
        if sampling:
            self.look()
        self.check_due(stop=stop)
        pause = started + ROUND - self._monotonic()
        if self._due:
            pause = min(pause, self._due[0][0] - self._monotonic())
        return max(0.0, pause)

    def look(self) -> int:
        """Take a sample of the rows published since the last look; return how many.

        The first look only notes the time.
        """
        until_ms = self._outbox.now_ms()
        from_ms, self._seen_until_ms = self._seen_until_ms, until_ms
        if from_ms is None:
            return 0
        rows = self._outbox.published_between(
            self._cache.namespace, from_ms, until_ms, limit=POPULATION
        )
        rounds = max(1.0, (until_ms - from_ms) / 1000 / ROUND)
        taken = self._random.sample(rows, min(len(rows), int(self._sample * rounds)))
        now = self._monotonic()
        for row in taken:
            age = (until_ms - row.available_at_ms) / 1000
            for delay in self._delays:
                entry = (now - age + delay, next(self._numbers), row, delay)
                heapq.heappush(self._due, entry)
        self._published += len(rows)
        self._sampled += len(taken)
        return len(taken)

    def check_due(self, *, stop: threading.Event | None = None) -> int:
        """Do the checks whose moment has come; return how many rows were looked at."""
        looked_at = 0
        while self._due and self._due[0][0] <= self._monotonic():
            if stop is not None and stop.is_set():
                break
            _, _, row, delay = heapq.heappop(self._due)
            self._check_row(row, delay)
            looked_at += 1
        return looked_at

    def report(self) -> VerifyReport:
        return VerifyReport(
            published=self._published,
            sampled=self._sampled,
            checks={verdict: self._checks[verdict] for verdict in VERDICTS},
            unmapped=self._unmapped,
            waiting=len(self._due),
            findings=tuple(self._findings),
        )

    def _check_row(self, row: OutboxRow, delay: float) -> None:
        if row.intent is None:
            return
        try:
            reads = list(self._reads_of(row.intent))
        except Exception:
            # The app's function; one row that it cannot tell must not end the others.
            logger.exception("no reads could be named for %s", row)
            self._checks[FAILED] += 1
            return
        if not reads and delay == self._delays[0]:
            self._unmapped += 1
        for read in reads:
            verdict = self.check(read)
            self._checks[verdict] += 1
            if verdict == STALE:
                # Never the values: they are the app's users'.
                logger.error(
                    "stale: key %r is not what the database has, seen %g s after %s"
                    " was published; that one, or a change that no row tells of,"
                    " is missing",
                    read.key,
                    delay,
                    row,
                )
                if len(self._findings) < MAX_FINDINGS:
                    self._findings.append(
                        StaleRead(row, identity_text("key", read.key), delay)
                    )

    def check(self, read: CachedRead) -> str:
        """Compare one read now; return one of :data:`VERDICTS`.

        A cache may serve what was true a moment ago, until the change is published; so
        a difference is looked at again when every row is published that was there at
        the load. The value that a read begun after that gets must be at least as new as
        that load: only one that stays the same, and different from load after load, is
        stale.
        """
        first: Any = _ABSENT
        for attempt in range(CONFIRMATIONS + 1):
            served = self._cache.get(read.key, tags=read.tags, default=_ABSENT)
            if served is _ABSENT:
                return MISS
            try:
                loaded = read.load()
                if self._equal(served, loaded):
                    return EQUAL
                if first is _ABSENT:
                    first = served
                elif not self._equal(served, first):
                    return CHANGING
            except Exception:
                # The app's code and the app's database; the next check is another one.
                logger.exception("the value of key %r could not be compared", read.key)
                return FAILED
            if attempt < CONFIRMATIONS and not self._settled():
                return UNSETTLED
        return STALE

    def _settled(self) -> bool:
        """Wait until every row that is in the outbox now has been published."""
        namespace = self._cache.namespace
        loaded_ms = self._outbox.now_ms()
        deadline = self._monotonic() + self._settle_timeout
        while True:
            now_ms = self._outbox.now_ms()
            status = self._outbox.status(namespace)
            # Beyond the cap the oldest row need not be among the counted ones.
            oldest_ms = now_ms - status.oldest_pending_age_ms
            if not status.capped and (not status.pending or oldest_ms > loaded_ms):
                return True
            if self._monotonic() >= deadline:
                return False
            self._sleep(SETTLE_PAUSE)

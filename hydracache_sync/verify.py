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
from typing import Any, Callable, Sequence

from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.decorated_reads import DecoratedReads
from hydracache_sync.durations import duration_ms
from hydracache_sync.keys import identity_text, identity_texts
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import OutboxRow
from hydracache_sync.outbox.watermark import Watermark
from hydracache_sync.printable import printable_logger
from hydracache_sync.verify_report import (
    CHANGING,
    EQUAL,
    FAILED,
    MISS,
    NO_EFFECT,
    NOT_TAGGED,
    PASSED_BY,
    STALE,
    UNKNOWN,
    UNSETTLED,
    VERDICTS,
    CachedRead,
    ReadsOf,
    StaleRead,
    VerifyReport,
    Within,
)

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

#: Seconds by which the clocks of the outbox and of the hosts of workers may differ.
CLOCK_SKEW = 1.0

#: Findings kept with the counts; the log has them all.
MAX_FINDINGS = 100

_ABSENT = object()


class CacheVerifier:
    """Checks a sample of published invalidations of one namespace.

    For one thread, in a process of its own or a thread of the app's.

    :param cache: as the app's own: the same store, ring, namespace and codec.
    :param reads_of: names the reads that an intent invalidates, beside those of cached
        functions of this process, which ``DecoratedReads`` finds.
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
        reads_of: ReadsOf | None = None,
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
        decorated = DecoratedReads(cache)
        self._sources: list[ReadsOf] = [decorated]
        if reads_of is not None:
            self._sources.insert(0, reads_of)
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
        self._checks: Counter[tuple[float, str]] = Counter()
        self._findings: list[StaleRead] = []

    @property
    def namespace(self) -> str:
        return self._cache.namespace

    def watermark(self) -> Watermark:
        """Return until when everything that was committed is published."""
        return self._outbox.watermark(self.namespace)

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
            checks={
                verdict: sum(self._checks[delay, verdict] for delay in self._delays)
                for verdict in VERDICTS
            },
            unmapped=self._unmapped,
            waiting=len(self._due),
            findings=tuple(self._findings),
            within=tuple(
                Within(
                    delay,
                    sum(self._checks[delay, each] for each in (EQUAL, MISS, STALE)),
                    self._checks[delay, STALE],
                )
                for delay in self._delays
            ),
        )

    def _check_row(self, row: OutboxRow, delay: float) -> None:
        if row.intent is None:
            return
        try:
            found = [read for of in self._sources for read in of(row.intent)]
        except Exception:
            # The app's function; one row that it cannot tell must not end the others.
            logger.exception("no reads could be named for %s", row)
            self._checks[delay, FAILED] += 1
            return
        # A function that reads_of names as well is one read.
        reads = {identity_text("key", each.key): each for each in found[::-1]}
        if not reads and delay == self._delays[0]:
            self._unmapped += 1
        for key, read in reads.items():
            verdict = self.check(read)
            self._checks[delay, verdict] += 1
            if verdict == STALE:
                cause = self._cause(row, key, read)
                blamed = row if cause in (NO_EFFECT, NOT_TAGGED) else None
                stale = StaleRead(blamed, key, delay, cause)
                # Never the values: they are the app's users'.
                logger.error("%s", stale)
                if len(self._findings) < MAX_FINDINGS:
                    self._findings.append(stale)

    def _cause(self, row: OutboxRow, key: str, read: CachedRead) -> str:
        """Tell whether ``row`` has done what it was for, by the entry's tokens."""
        assert row.intent is not None
        kind, value = row.intent.to_cache_invalidation()
        if kind == "tag" and value not in identity_texts("tag", read.tags):
            return NOT_TAGGED
        if kind == "key" and value != key:
            return NOT_TAGGED
        made_at = self._cache.invalidated_at(kind, value, beside=key)
        if made_at is None:
            return UNKNOWN
        carried = made_at >= row.created_at_ms / 1000 - CLOCK_SKEW
        return PASSED_BY if carried else NO_EFFECT

    def check(self, read: CachedRead) -> str:
        """Compare one read now; return one of ``VERDICTS``.

        A cache may serve what was true a moment ago, until the change is published; so
        a difference is looked at again when every row is published that was there at
        the load. A read that begins after that must get a value at least as new as that
        load. Only a value that stays the same, and differs from load after load, is
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

"""What a writer of a strict namespace does before its commit.

From before the commit on, what it touches is not served, and that ends by itself. An
end at the commit, or at the apply, would also end it for another writer that is about
to commit.
"""

from __future__ import annotations

import time
from typing import Callable, Sequence

from hydracache_sync.cache.keyspace import Keyspace
from hydracache_sync.cache.store import CacheStore, Copy
from hydracache_sync.cache.tokens.policy import HoldOff
from hydracache_sync.cache.tokens.replacing import replace
from hydracache_sync.cache.tokens.token import COLD, fresh_tokens
from hydracache_sync.errors import ApplyError, QuarantineError
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)


class Quarantine:
    """A block around a COMMIT; made by ``TaggedCache.quarantine``.

    Entering it replaces the tokens, in two round trips to all nodes at once. Leave
    nothing but the commit in the block; if there is more, call :meth:`check` right
    before it.

    :ivar strict: whether reads that begin after the commit get nothing older. True from
        entering on, unless the cache could not be reached and that was allowed, or the
        block took longer than the hold-off. None before.
    """

    def __init__(
        self,
        stores: Sequence[tuple[CacheStore, Keyspace]],
        batch: InvalidationIntentBatch,
        hold_off: HoldOff,
        *,
        degrade: bool,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.strict: bool | None = None
        self._stores = stores
        self._batch = batch
        self._hold_off = hold_off
        self._degrade = degrade
        self._clock = clock
        self._monotonic = monotonic
        self._began = (0.0, 0.0)

    def __enter__(self) -> Quarantine:
        """Replace the tokens by cold ones.

        :raises QuarantineError: they could not all be, or it took too long. Roll back:
            what was marked is not served for a moment, which does no harm.
        """
        self._began = self._clocks()
        failure = self._mark()
        if failure is None:
            self.strict = True
            self.check()
            return self
        if not self._degrade:
            raise QuarantineError(
                f"memcached did not acknowledge the quarantine: {failure}; roll back,"
                " or allow it with degrade=True"
            ) from failure
        self.strict = False
        logger.warning("a commit goes on without its quarantine: %s", failure)
        return self

    def check(self) -> None:
        """Make sure that there is time enough for the commit; call it right before.

        :raises QuarantineError: there is not, the hold-off could end before it does.
            Roll back, or enter a new quarantine.
        """
        if not self.strict:
            return
        elapsed = self._elapsed()
        if elapsed > self._hold_off.latest_commit:
            self.strict = False
            raise QuarantineError(
                f"{elapsed:.3f} s have passed since the quarantine began, and a COMMIT"
                f" must be sent within {self._hold_off.latest_commit:.3f} s of it"
                f" (hold_off is {self._hold_off.seconds:g} s)"
            )

    def __exit__(self, *_: object) -> None:
        # After a rollback too: an error out of a COMMIT does not say that it failed.
        if not self.strict or self._elapsed() <= self._hold_off.seconds:
            return
        # Readers may have found old rows and a token that was no longer cold. From here
        # on they do not.
        self.strict = False
        failure = self._mark()
        logger.error(
            "a commit took longer than its quarantine of %g s: reads meanwhile may have"
            " got older values%s",
            self._hold_off.seconds,
            "" if failure is None else f", and a new quarantine has failed: {failure}",
        )

    def _mark(self) -> ApplyError | None:
        # Now and not before: what was added to the batch until here counts.
        targets = [each.to_cache_invalidation() for each in self._batch.distinct()]
        for store, keyspace in self._stores:
            addresses = list(
                dict.fromkeys(keyspace.target(kind, value) for kind, value in targets)
            )
            failures = replace(store, addresses, self._marks, COLD)
            for failure in failures.values():
                return failure
        return None

    def _marks(self, _: Sequence[Copy], found: Sequence[bytes]) -> list[bytes]:
        return fresh_tokens(len(found), int(self._clock() * 1000), COLD)

    def _elapsed(self) -> float:
        """Seconds since it began, by the clock that says more.

        A machine that was asleep has a monotonic clock that knows nothing of it.
        """
        return max(now - then for now, then in zip(self._clocks(), self._began))

    def _clocks(self) -> tuple[float, float]:
        return self._monotonic(), self._clock()

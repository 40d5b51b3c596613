"""Checked reads: through the cache, with a version that the answer must reach.

The version is known *before* the read begins: a reader has seen it published (promise
P3), or a writer has committed it and was told that it is readable (promise P4). Older
values are noted as stale.
"""

from __future__ import annotations

import random
import time

from faults.caches import Cache
from faults.database import Session
from faults.ledger import Ledger
from faults.workload import key_of, tags_of

#: Shares of loads that sleep between the load and the fill, and for how many seconds.
#: Long enough for a commit and its publishing, or for a restart of memcached.
SLOW, SLOW_SECONDS = 0.4, (0.005, 0.08)
VERY_SLOW, VERY_SLOW_SECONDS = 0.002, (0.5, 2.5)

#: Share of reads after which the value's author is looked up.
VERIFIED = 0.05

P3 = "P3 no resurrection"
P4 = "P4 read your writes"


class CheckedReads:
    """Reads items through ``cache``. For one thread.

    :param session: for the loads; each is a snapshot of its own.
    :ivar reads, hits, slow: counts so far.
    """

    def __init__(
        self, cache: Cache, session: Session, ledger: Ledger, rng: random.Random
    ) -> None:
        self._cache = cache
        self._session = session
        self._ledger = ledger
        self._random = rng
        self.reads = 0
        self.hits = 0
        self.slow = 0

    def read_published(self, item: int) -> int:
        """Read what was published before; return the version that came."""
        return self.read(item, self._session.published_version(item), P3)

    def read(self, item: int, floor: int, promise: str) -> int:
        """Read ``item``; a version below ``floor`` breaks ``promise``."""
        loads = []

        def load() -> dict[str, object]:
            version, txn = self._session.item(item)
            loads.append(version)
            self._dawdle()
            return {"item": item, "version": version, "txn": txn}

        began_ms = time.time_ns() // 1_000_000
        value = self._cache.get_or_load(key_of(item), load, tags=tags_of(item))
        version, txn = int(value["version"]), value["txn"]
        self.reads += 1
        self.hits += not loads
        if version < floor:
            self._ledger.note(
                "stale",
                promise=promise,
                item=item,
                wanted=floor,
                got=version,
                hit=not loads,
                began_ms=began_ms,
            )
        if value["item"] != item or (
            self._random.random() < VERIFIED
            and self._session.author(item, version) != txn
        ):
            self._ledger.note("foreign", item=item, value=value)
        return version

    def _dawdle(self) -> None:
        """Now and then let the world go on between the load and the fill."""
        chance = self._random.random()
        if chance < VERY_SLOW:
            self.slow += 1
            time.sleep(self._random.uniform(*VERY_SLOW_SECONDS))
        elif chance < SLOW:
            self.slow += 1
            time.sleep(self._random.uniform(*SLOW_SECONDS))

"""A store in the memory of this process: for tests, demos and single-process apps.

Behaves as memcached does, item limit and whole seconds included, so that what works
on it works there. Bytes in, bytes out: a caller cannot change a cached value by
changing its own.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from typing import Callable, Sequence

from hydracache_sync.cache.keyspace import Address, checked_app_key
from hydracache_sync.cache.store import (
    GONE,
    CacheStore,
    Copy,
    Failures,
    Maker,
    Write,
    checked_value,
    whole_seconds,
)
from hydracache_sync.errors import (
    ApplyError,
    ApplyPermanent,
    ApplyUnavailable,
    ConfigurationError,
)
from hydracache_sync.fork import ProcessLock

#: Bytes of one value, key included: memcached's limit unless started with ``-I``.
MAX_ITEM_SIZE = 1024 * 1024

_EXPIRED = -1


class MemoryStore(CacheStore):
    """Keep bytes in this process. Safe for threads.

    Nothing leaves the process: an invalidation that a worker applies in *another*
    process does not reach this store. After a fork the child has a copy of its own, and
    neither sees what the other does from then on.

    :param max_items: entries and tokens kept; beyond it the least recently used goes.
        1 or more.
    :param clock: seconds, for expiry; replaced in tests.
    """

    def __init__(
        self,
        *,
        ring: str = "1",
        max_items: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(ring)
        if max_items < 1:
            raise ConfigurationError(f"max_items must be 1 or more, not {max_items}")
        self._max_items = max_items
        self._clock = clock
        # What a thread of the parent had half done at a fork is whole enough: each step
        # is one operation on the dict.
        self._lock = ProcessLock()
        # Key -> value, the moment it expires, version; least recently used first.
        self._items: OrderedDict[bytes, tuple[bytes, float | None, int]] = OrderedDict()
        self._uniques = itertools.count(1)

    def get_many(self, addresses: Sequence[Address]) -> list[bytes | None]:
        now = self._clock()
        with self._lock.mine():
            return [self._live(key, now) for _, key in addresses]

    def add_many(self, writes: Sequence[Write]) -> list[bytes | None]:
        checked = [self._checked(write) for write in writes]
        for _, _, _, refusal in checked:
            if refusal is not None:
                raise refusal
        now = self._clock()
        with self._lock.mine():
            for key, value, seconds, _ in checked:
                if self._live(key, now) is None:
                    self._store(key, value, seconds, now)
            return [self._live(key, now) for key, _, _, _ in checked]

    def set_many(self, writes: Sequence[Write]) -> Failures:
        checked = [self._checked(write) for write in writes]
        failures: Failures = {}
        now = self._clock()
        with self._lock.mine():
            for write, (key, value, seconds, refusal) in zip(writes, checked):
                if refusal is not None:
                    failures[write[0]] = refusal
                    self._items.pop(key, None)
                else:
                    self._store(key, value, seconds, now)
        return failures

    def copies(self, addresses: Sequence[Address]) -> list[Copy]:
        return [(address, None) for address in addresses]

    def replace_many(
        self, copies: Sequence[Copy], placeholders: Sequence[bytes], make: Maker
    ) -> list[bool | ApplyError]:
        now = self._clock()
        keys = [key for (_, key), _ in copies]
        with self._lock.mine():
            found = []
            for key, placeholder in zip(keys, placeholders):
                if self._live(key, now) is None:
                    self._store(key, placeholder, 0, now)
                found.append(self._items[key])
        values = make(copies, [value for value, _, _ in found])
        now = self._clock()
        with self._lock.mine():
            outcomes: list[bool | ApplyError] = []
            for key, value, (_, _, unique) in zip(keys, values, found):
                same = (
                    self._live(key, now) is not None and self._items[key][2] == unique
                )
                if same and value is not None:
                    self._store(key, value, 0, now)
                outcomes.append(same)
            return outcomes

    def delete_many(self, addresses: Sequence[Address]) -> Failures:
        failures: Failures = {}
        with self._lock.mine():
            for address in addresses:
                try:
                    self._items.pop(checked_app_key(address[1]), None)
                except ValueError as exc:
                    failures[address] = ApplyPermanent(str(exc))
        return failures

    def nodes_of(self, address: Address) -> list[str]:
        return ["memory"]

    def ping(self) -> dict[str, str | ApplyUnavailable]:
        return {"memory": "in-process"}

    def close(self) -> None:
        """Nothing to give up; what is stored stays."""

    def clear(self) -> None:
        """Forget everything, as a memcached does that is restarted."""
        with self._lock.mine():
            self._items.clear()

    def __len__(self) -> int:
        """Items held, expired ones that nobody asked for included."""
        return len(self._items)

    def __repr__(self) -> str:
        return f"MemoryStore(ring={self.ring!r}, max_items={self._max_items})"

    def _checked(self, write: Write) -> tuple[bytes, bytes, int, ApplyPermanent | None]:
        (_, key), value, ttl = write
        seconds = _EXPIRED if ttl == GONE else whole_seconds(ttl)
        refusal = None
        try:
            checked_app_key(key)
        except ValueError as exc:
            refusal = ApplyPermanent(str(exc))
        size = len(key) + len(checked_value(value))
        if size > MAX_ITEM_SIZE:
            refusal = ApplyPermanent(
                f"value of {len(value)} bytes at {key!r} is over the item limit of"
                f" {MAX_ITEM_SIZE} bytes"
            )
        return key, value, seconds, refusal

    # Below, the lock is held.

    def _live(self, key: bytes, now: float) -> bytes | None:
        item = self._items.get(key)
        if item is None:
            return None
        value, expires_at, _ = item
        if expires_at is not None and now >= expires_at:
            del self._items[key]
            return None
        self._items.move_to_end(key)
        return value

    def _store(self, key: bytes, value: bytes, seconds: int, now: float) -> None:
        expires_at = now + seconds if seconds else None
        self._items[key] = value, expires_at, next(self._uniques)
        self._items.move_to_end(key)
        if len(self._items) > self._max_items:
            self._items.popitem(last=False)

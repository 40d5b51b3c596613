"""The tokens of a key as they were before a load, to store its value under."""

from __future__ import annotations

from typing import Callable

from hydracache_sync.cache.entries import Entries, FillDecision
from hydracache_sync.cache.lifetime import Lifetimes
from hydracache_sync.cache.unstorable import NotToBeStored


class Reservation:
    """What ``TaggedCache.reserve`` returns. Safe for threads.

    :param unless_changed: asked before a fill; refuses what the thread is changing, and
        what it may have made of a value that is not to be stored.
    """

    def __init__(
        self,
        entries: Entries,
        decision: FillDecision,
        lifetimes: Lifetimes,
        unless_changed: Callable[[FillDecision], FillDecision],
    ) -> None:
        self._entries = entries
        self._judgement = decision
        self._lifetimes = lifetimes
        self._unless_changed = unless_changed

    @property
    def fillable(self) -> bool:
        """Whether :meth:`fill` will try to store, or is refused already."""
        return self._judgement.refused is None

    def fill(
        self, value: object, ttl: float | None = None, *, soft_ttl: float | None = None
    ) -> bool:
        """Store a value that was loaded since this reservation was made.

        It is served until something it rests on is invalidated; if that has happened
        meanwhile, never. One round trip, none if refused. Refused is also what this
        thread has changed since and not committed, as far as the cache is told of it:
        by ``writing()``, by its ``snapshot``; and each value, if this thread was given
        one by ``stale_on_error`` since. A value over the item limit is not stored and
        counted.

        :param ttl: as in ``get_or_load``.
        :param soft_ttl: as in ``get_or_load``.
        :return: whether the store has confirmed it.
        :raises TypeError, ValueError: as ``get_or_load``; nothing was stored.
        """
        lifetime = self._lifetimes.of(ttl, soft_ttl)
        decision = self._unless_changed(self._judgement)
        if decision.refused is not None:
            decision.refused.add()
            self._entries.check_value(value)
            return False
        try:
            entry = self._entries.pack(decision, value, lifetime)
        except NotToBeStored:
            self._entries.check_value(value)
            return False
        return self._entries.fill([(decision, entry)], lifetime)

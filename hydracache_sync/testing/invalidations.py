"""What a test asks of the outbox: was this invalidated, what was, and apply it now."""

from __future__ import annotations

from typing import Any, Callable

from hydracache_sync.cache.memory import MemoryStore
from hydracache_sync.cache.pending_writes import Targets
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.keys import collection_tag, entity_tag, identity_text
from hydracache_sync.testing.outbox import RecordingOutbox
from hydracache_sync.worker.appliers import MemcachedApplier
from hydracache_sync.worker.worker import OutboxWorker


def _entity_tag(given: object) -> str:
    # The letters of a text of two would be an entity that nothing invalidates.
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(
            f'entity must be its name and its id, ("user", 42), not {given!r}'
        )
    return entity_tag(*given)


#: Makes the text of a key or of a tag, by the name that a test gives it by.
_TEXTS: dict[str, Callable[[Any], str]] = {
    "entity": _entity_tag,
    "tag": lambda given: identity_text("tag", given),
    "key": lambda given: identity_text("key", given),
    "collection": collection_tag,
}


class Invalidations:
    """The outbox and the store of one test; both are empty when it is made.

    :param outbox: that of the app; by default a new one.
    :param store: where the app caches; by default a new one.
    """

    def __init__(
        self,
        outbox: RecordingOutbox | None = None,
        store: MemoryStore | None = None,
    ) -> None:
        self.outbox = RecordingOutbox() if outbox is None else outbox
        self.store = MemoryStore() if store is None else store
        self.outbox.forget()
        self.store.clear()

    @property
    def settings(self) -> dict[str, object]:
        """What an app under test is set to, beside its namespace; with no threads."""
        return {
            "HYDRACACHE_OUTBOX": self.outbox,
            "HYDRACACHE_MEMCACHED": self.store,
            "HYDRACACHE_POOL": "none",
        }

    @property
    def intents(self) -> list[InvalidationIntent]:
        """What was not rolled back so far, in order, applied or not."""
        standing = self.outbox.standing()
        rows = []
        for namespace in self.outbox.namespaces():
            page = self.outbox.rows(namespace)
            while page:
                rows += page
                page = self.outbox.rows(namespace, after=page[-1].id)
        rows.sort(key=lambda row: row.id)
        return [row.intent for row in rows if row.intent is not None] + standing

    def assert_invalidated(self, **what: Any) -> None:
        """Fail unless a value of this key or tag was invalidated by what is committed.

        By its own name, by a change of all entities of its kind, or by a flush.

        :param what: one of ``entity=("user", 42)``, ``tag=``, ``key=`` and
            ``collection=``, as in the calls that invalidate.
        :raises TypeError: another, none or several.
        """
        name, found, intents = self._look(what)
        assert found, f"{name} was not invalidated; what was: {intents}"

    def refute_invalidated(self, **what: Any) -> None:
        """Fail if :meth:`assert_invalidated` would not."""
        name, found, intents = self._look(what)
        assert not found, f"{name} was invalidated, by one of: {intents}"

    def drain(self) -> int:
        """Apply to the store what is committed and not applied yet; return how much.

        :raises AssertionError: something could not be applied.
        """
        self.outbox.settle()
        done = 0
        for namespace in self.outbox.namespaces():
            applier = MemcachedApplier(self.store, namespace)
            report = OutboxWorker(self.outbox, applier).drain()
            assert report.published == report.claimed, report
            done += report.published
        return done

    def _look(self, what: dict[str, Any]) -> tuple[str, bool, str]:
        if len(what) != 1 or not what.keys() <= _TEXTS.keys():
            raise TypeError(f"give one of {', '.join(_TEXTS)}, not {list(what)}")
        [(name, given)] = what.items()
        text, intents = _TEXTS[name](given), self.intents
        # No value has the empty text for its key.
        key, tags = (text, ()) if name == "key" else ("", (text,))
        listed = "; ".join(" ".join(filter(None, each)) for each in intents)
        found = Targets(intents).affect(key, tags)
        return f"{name} {text!r}", found, listed or "nothing"

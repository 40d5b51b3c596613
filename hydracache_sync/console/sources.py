"""What a console shows: outboxes by name, and what of this process works on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Mapping, Sequence

from flask import Flask

from hydracache_sync.app import settings
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.integrations.flask.state import NAME as EXTENSION
from hydracache_sync.integrations.flask.state import state_of
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.pool import WorkerPool
from hydracache_sync.worker.worker import OutboxWorker

#: Name of an outbox that was given without one.
ONLY = "outbox"


@dataclass(frozen=True, eq=False)
class Source:
    """One outbox of a console.

    :ivar given: namespaces that are shown also while they have no row.
    :ivar workers: of this process, by namespace: what drains a batch by hand.
    :ivar caches: of this process, for their hit rates.
    :ivar pool: returns the pool of this process, None while it has none.
    """

    name: str
    outbox: InvalidationOutbox
    given: tuple[str, ...] = ()
    workers: Mapping[str, OutboxWorker] = field(default_factory=dict)
    caches: tuple[TaggedCache, ...] = ()
    pool: Callable[[], WorkerPool | None] = lambda: None

    def namespaces(self, paused: Iterable[str], first: str, limit: int) -> list[str]:
        """Those that have rows, are paused, or were given; sorted.

        :param first: the first one that may be among them.
        :param limit: how many at most.
        """
        found = {
            *self.outbox.namespaces(first=first, limit=limit),
            *paused,
            *self.given,
        }
        return sorted(name for name in found if name >= first)[:limit]

    def has(self, namespace: str) -> bool:
        """Whether ``namespace`` is one of these, however many there are."""
        found = self.namespaces(self.outbox.paused(), namespace, 1)
        return found == [namespace]


def sources_of(
    outboxes: Any,
    namespaces: Iterable[str],
    workers: Sequence[OutboxWorker],
    caches: Sequence[TaggedCache],
) -> dict[str, Source]:
    """Return the sources of what ``console_blueprint`` was given, by name.

    :raises TypeError: something else than outboxes was given.
    :raises ConfigurationError: there is none, or a worker works on another one.
    """
    if isinstance(outboxes, InvalidationOutbox):
        outboxes = {ONLY: outboxes}
    if not isinstance(outboxes, Mapping) or not outboxes:
        raise ConfigurationError(
            f"outboxes must be an outbox, or a dict of them by name, not {outboxes!r}"
        )
    found = {}
    for name, outbox in outboxes.items():
        if not isinstance(name, str) or not isinstance(outbox, InvalidationOutbox):
            raise TypeError(f"outboxes has {outbox!r} under {name!r}, not an outbox")
        mine = {each.namespace: each for each in workers if each.outbox is outbox}
        found[name] = Source(
            name, outbox, tuple(dict.fromkeys([*namespaces, *mine])), mine
        )
    known = [each.outbox for each in found.values()]
    for worker in workers:
        if all(worker.outbox is not each for each in known):
            raise ConfigurationError(f"{worker!r} works on none of these outboxes")
    first = next(iter(found))
    # A cache knows no outbox; there is one table for all of them.
    found[first] = Source(**{**vars(found[first]), "caches": tuple(caches)})
    return found


def sources_of_app(app: Flask) -> dict[str, Source]:
    """Return the source that the ``HydraCache`` of ``app`` is.

    :raises ConfigurationError: it has none.
    """
    if EXTENSION not in app.extensions:
        raise ConfigurationError(
            f"{app.name} has no HydraCache: call init_app(app) before the console is"
            " registered, or give console_blueprint() the outboxes"
        )
    runtime = state_of(app).runtime
    has_cache = runtime.config[settings.MEMCACHED] is not None
    return {
        ONLY: Source(
            ONLY,
            runtime.outbox,
            (runtime.namespace,),
            {runtime.namespace: runtime.worker} if has_cache else {},
            (runtime.cache,) if has_cache else (),
            lambda: runtime.placement.pool,
        )
    }

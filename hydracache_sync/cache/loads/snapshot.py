"""What is known of the snapshot that one load reads in.

Before the load it decides whether the value may be stored, and who may wait for it.
An app that follows each statement sees more during the load. It may withdraw the
decision when the load has ended: then nothing is stored, and nothing shared.
"""

from __future__ import annotations

from typing import Callable, Protocol, TypeVar

from hydracache_sync.cache.tokens.seen import EarlierHits
from hydracache_sync.cache.unstorable import withhold

T = TypeVar("T")

#: Older than every snapshot: who says that it began then shows rows of its own.
NEVER = 0.0


class LoadSnapshot:
    """The snapshot of one load; of the thread that loads.

    :ivar since: Unix seconds that the snapshot is not older than; None if it begins
        with the load. Another one, perhaps, once the load has ended.
    """

    def __init__(self, since: float | None) -> None:
        self.since = since

    def read(self, loader: Callable[[], T]) -> T:
        """Call ``loader``, once; :attr:`since` says afterwards what it has read in."""
        return loader()

    def load(self, loader: Callable[[], T]) -> T:
        """As :meth:`read`; what shows rows of its own is in no load around it, either.

        That load may have begun before the rows were changed, and end after a rollback.
        """
        value = self.read(loader)
        if self.since is not None and self.since <= NEVER:
            # Where no request is served nothing is known, and nothing is to be feared.
            if getattr(self.since, "why", "") != "request":
                withhold()
        return value


class LoadSnapshots(Protocol):
    """What an app gives to its cache as ``snapshot``: more than a moment.

    :ivar earlier_hits: what the request was given before that a load may return whose
        snapshot does not begin with it; None if none does.
    """

    earlier_hits: EarlierHits | None

    def __call__(self) -> float | None:
        """When the snapshot began, for a load that is not looked at."""

    def of_load(self) -> LoadSnapshot:
        """The snapshot of a load that begins now, which is looked at."""

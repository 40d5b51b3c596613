"""Pauses of namespaces: whose rows no worker may claim until a resume."""

from __future__ import annotations

from hydracache_sync.intents import MAX_REASON
from hydracache_sync.keys import checked_namespace, checked_text
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.row import Pause, readable
from hydracache_sync.subscribers import Subscribers


class Pauses:
    """Pauses namespaces for all processes.

    :param on_commit: told of the namespaces whose rows have become due.
    """

    def __init__(
        self, database: Database, on_commit: Subscribers[frozenset[str]]
    ) -> None:
        self._database = database
        self._on_commit = on_commit

    def pause(self, namespace: str, reason: str = "") -> None:
        encode = self._database.dialect.encode
        params = self._database.params(
            namespace=encode(checked_namespace(namespace)),
            reason=encode(checked_text("reason", reason, maximum=MAX_REASON)),
        )
        self._database.change(statements.PAUSE, params)

    def resume(self, namespace: str) -> bool:
        encoded = self._database.dialect.encode(checked_namespace(namespace))
        resumed = self._database.change(statements.RESUME, {"namespace": encoded}) > 0
        if resumed:
            # Its rows have become due.
            self._on_commit.tell(frozenset((namespace,)))
        return resumed

    def paused(self) -> dict[str, Pause]:
        return {
            readable(namespace): Pause(int(since_ms), readable(reason))
            for namespace, since_ms, reason in self._database.read(
                statements.PAUSED, {}
            )
        }

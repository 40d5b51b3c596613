"""Operators: listing rows, dead letters, pauses, and purging what is finished."""

from __future__ import annotations

import functools
import getpass
import os
import socket
import sys
from typing import Any, Iterable

from hydracache_sync.durations import duration_ms
from hydracache_sync.intents import MAX_REASON, InvalidationIntentBatch
from hydracache_sync.keys import checked_namespace, checked_text
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.arguments import (
    MAX_ERROR,
    checked_count,
    checked_position,
    checked_state,
)
from hydracache_sync.outbox.database import IDS_PER_STATEMENT, Database, parts_of
from hydracache_sync.outbox.enqueue import Enqueuer
from hydracache_sync.outbox.history import RowEventKind, history_of, noted
from hydracache_sync.outbox.row import (
    OutboxRow,
    OutboxState,
    Pause,
    PendingPhase,
    readable,
    whole,
)
from hydracache_sync.outbox.statements import Present
from hydracache_sync.outbox.watermark import DEAD_LETTER
from hydracache_sync.receipts import CommitPosition
from hydracache_sync.subscribers import Subscribers


class Admin:
    """What commands call; each statement commits by itself.

    :param on_commit: told of the namespaces whose rows have become due.
    """

    def __init__(
        self,
        database: Database,
        enqueuer: Enqueuer,
        on_commit: Subscribers[frozenset[str]],
    ) -> None:
        self._database = database
        self._enqueuer = enqueuer
        self._on_commit = on_commit

    def row(self, id: int) -> OutboxRow | None:
        records = self._database.read(statements.ROW, {"id": checked_count("id", id)})
        for *record, history in records:
            kept = None if history is None else readable(history)
            return OutboxRow(tuple(record), history=history_of(kept))
        return None

    def rows(
        self,
        namespace: str,
        *,
        state: OutboxState | None = None,
        commit_position: CommitPosition | str | None = None,
        limit: int = 100,
        after: int = 0,
        newest: bool = False,
        timeout: float | None = None,
    ) -> list[OutboxRow]:
        params = self._database.params_of(
            namespace,
            state=None if state is None else checked_state(state),
            limit=checked_count("limit", limit),
            after=checked_count("after", after),
        )
        if commit_position is not None:
            position, _ = checked_position(commit_position)
            params["position"] = self._database.dialect.encode(position.value)
            template = statements.ROWS_OF_COMMIT
        else:
            template = statements.ROWS if state is None else statements.ROWS_OF_STATE
        if newest:
            template = statements.newest_first(template)
        records = self._database.read(template, params, timeout=timeout)
        return [OutboxRow(record) for record in records]

    def row_ids(
        self,
        namespace: str,
        state: OutboxState,
        *,
        phase: PendingPhase | None = None,
        error: str | None = None,
        older_than: float | None = None,
    ) -> list[int]:
        params = self._database.params_of(
            namespace,
            state=checked_state(state, phase),
            age_ms=(
                None if older_than is None else duration_ms("older_than", older_than)
            ),
            pattern=(
                None
                if error is None
                else self._database.dialect.pattern(
                    checked_text("error", error, maximum=MAX_ERROR)
                )
            ),
        )
        template = statements.ROW_IDS
        if phase is not None:
            template += statements.PHASES[phase]
        return sorted(record[0] for record in self._database.read(template, params))

    def rows_by_id(self, namespace: str, ids: Iterable[int]) -> list[OutboxRow]:
        params = self._database.params_of(namespace)
        wanted = sorted({checked_count("id", id) for id in ids})
        return [
            OutboxRow(record)
            for part in parts_of(wanted, IDS_PER_STATEMENT)
            for record in self._database.read(statements.ROWS_BY_ID, params, part)
        ]

    def published_between(
        self, namespace: str, from_ms: int, until_ms: int, *, limit: int
    ) -> list[OutboxRow]:
        params = self._database.params_of(
            namespace,
            from_ms=checked_count("from_ms", from_ms),
            until_ms=checked_count("until_ms", until_ms),
            limit=checked_count("limit", limit),
        )
        records = self._database.read(statements.PUBLISHED_BETWEEN, params)
        return [OutboxRow(record) for record in records]

    def namespaces(self, *, first: str, limit: int | None) -> list[str]:
        most = sys.maxsize if limit is None else checked_count("limit", limit)
        found: list[str] = []
        begin = first
        while len(found) < most:
            params = {"first": self._database.dialect.encode(first)}
            [(raw,)] = self._database.read(statements.NEXT_NAMESPACE, params)
            if raw is None:
                break
            namespace = readable(raw)
            if namespace in found:
                # A foreign hand's, which is no UTF-8: what is after it, is not to be
                # said as text.
                everyone = self._database.read(statements.ALL_NAMESPACES, {})
                names = sorted({readable(raw) for (raw,) in everyone})
                return [each for each in names if each >= begin][:limit]
            found.append(namespace)
            # Right behind it.
            first = f"{namespace}\0"
        return found

    def reset_dead_letters(
        self, namespace: str, ids: Iterable[int] | None = None, *, by: str | None = None
    ) -> int:
        line = noted(RowEventKind.RETRIED, who=process_user() if by is None else by)
        if ids is None:
            # Listed first: rows that die again meanwhile are not reset in a circle.
            ids = self.row_ids(namespace, OutboxState.DEAD)
        reset = self._change_dead(
            statements.RESET_DEAD,
            namespace,
            ids,
            noted=self._database.dialect.encode(line),
        )
        if reset:
            self._on_commit.tell(frozenset((namespace,)))
        return reset

    def discard_dead_letters(self, namespace: str, ids: Iterable[int]) -> int:
        return self._change_dead(statements.DISCARD_DEAD, namespace, ids)

    def _change_dead(
        self, template: str, namespace: str, ids: Iterable[int], **more: Any
    ) -> int:
        database, params = self._database, self._database.params_of(namespace, **more)
        checked = [checked_count("id", id) for id in ids]
        return sum(
            database.change(template, database.params(**params), part)
            for part in parts_of(checked, IDS_PER_STATEMENT)
        )

    def purge_published(
        self, namespace: str, *, older_than: float, limit: int = 5000
    ) -> int:
        params = self._database.params_of(
            namespace,
            age_ms=duration_ms("older_than", older_than),
            limit=checked_count("limit", limit),
        )
        ids = [
            record[0] for record in self._database.read(statements.PURGE_SELECT, params)
        ]
        # Each part commits by itself: producers wait for 500 rows, not for 5000.
        return sum(
            self._database.change(statements.PURGE_DELETE, {}, part)
            for part in parts_of(ids, IDS_PER_STATEMENT)
        )

    def pause(self, namespace: str, reason: str = "") -> None:
        checked = checked_text("reason", reason, maximum=MAX_REASON)
        params = self._database.params_of(
            namespace, reason=self._database.dialect.encode(checked)
        )
        self._database.change(statements.PAUSE, params)

    def resume(self, namespace: str) -> bool:
        params = self._database.params_of(namespace)
        resumed = self._database.change(statements.RESUME, params) > 0
        if resumed:
            # Its rows have become due.
            self._on_commit.tell(frozenset((namespace,)))
        return resumed

    def paused(self) -> dict[str, Pause]:
        return {
            readable(namespace): Pause(whole(since_ms, 0), readable(reason))
            for namespace, since_ms, reason in self._database.read(
                statements.PAUSED, {}
            )
        }

    def schedule_flush(self, namespace: str) -> bool:
        """See ``InvalidationOutbox.escalate``."""
        checked_namespace(namespace)
        batch = InvalidationIntentBatch("an invalidation was given up").flush()
        minute = self._database.host_now_ms() // 60_000
        later = 0
        while True:
            # The position makes the unique key count: one flush a minute, of all
            # processes. One that is not claimed yet will be applied after this moment,
            # and so covers the case; any other may have been applied too early.
            position = CommitPosition(f"{DEAD_LETTER}{minute + later}")
            receipt = self._enqueuer.write(
                namespace, batch, position, Present.LEFT, 60_000 * later
            )
            if receipt.inserted:
                return True
            flushes = self.rows(namespace, commit_position=position)
            if any(
                row.state is OutboxState.PENDING and row.claim_token is None
                for row in flushes
            ):
                return False
            later += 1


@functools.lru_cache(maxsize=1)
def process_user() -> str:
    """Return the login name and the host, or the number of a user without a name."""
    return f"{_login()}@{socket.gethostname()}"


def _login() -> str:
    try:
        import pwd
    except ImportError:  # Windows
        return getpass.getuser()
    number = os.getuid()
    try:
        # Not getpass: LOGNAME of the environment may say anything.
        return pwd.getpwuid(number).pw_name
    except KeyError:  # in a container, often
        return f"uid {number}"

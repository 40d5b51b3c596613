"""Marks: how a claim ends, row by row, and how a writer finishes its own rows."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from hydracache_sync.durations import duration_ms
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.arguments import checked_count, kept_error
from hydracache_sync.outbox.claimed_row import ClaimedRows
from hydracache_sync.outbox.database import IDS_PER_STATEMENT, Database, parts_of
from hydracache_sync.outbox.history import RowEventKind, noted
from hydracache_sync.outbox.row import OutboxRow, OutboxState, kept_node
from hydracache_sync.receipts import InvalidationReceipt


class Marks:
    """Changes rows that their claim still holds, and no others. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def mark_published(self, rows: Sequence[OutboxRow]) -> int:
        return self._mark(statements.MARK_PUBLISHED, rows)

    def mark_failed(
        self, rows: Sequence[OutboxRow], error: str, *, backoff: float, dead: bool
    ) -> int:
        delay_ms = duration_ms("backoff", backoff)
        return self._mark(
            statements.MARK_FAILED,
            rows,
            state=OutboxState.DEAD.code if dead else OutboxState.PENDING.code,
            delay_ms=0 if dead else delay_ms,
            error=self._kept(error),
            event=RowEventKind.DEAD if dead else RowEventKind.FAILED,
            said=error,
        )

    def mark_tried_alone(self, rows: Sequence[OutboxRow]) -> int:
        return self._mark(statements.MARK_TRIED_ALONE, rows)

    def release(
        self,
        rows: Sequence[OutboxRow],
        *,
        delay: float = 0.0,
        error: str | None = None,
        waits_for: str | None = None,
    ) -> int:
        delay_ms = duration_ms("delay", delay)
        if error is None:
            if waits_for is not None:
                raise ValueError("waits_for needs an error, which says why")
            return self._mark(statements.RELEASE, rows, delay_ms=delay_ms)
        return self._mark(
            statements.RELEASE_WITH_ERROR,
            rows,
            delay_ms=delay_ms,
            error=self._kept(error),
            waits_for=self._kept_node(waits_for) if waits_for else None,
            event=RowEventKind.WAITS,
            node=waits_for or "",
            said=error,
        )

    def _mark(
        self,
        template: str,
        rows: Sequence[OutboxRow],
        event: RowEventKind | None = None,
        node: str = "",
        said: str = "",
        **params: Any,
    ) -> int:
        """Change the rows that their claim still holds; count them.

        :param event: to be added to their history; None adds nothing.
        :param node: of the event.
        :param said: its error.
        """
        parts = []
        for token, (owner, ids) in _held(rows).items():
            each = {**params, "token": token}
            if event is not None:
                line = noted(event, who=owner or "", node=node, error=said)
                each["noted"] = self._database.dialect.encode(line)
            parts += [(each, part) for part in parts_of(ids, IDS_PER_STATEMENT)]
        return self._database.change_all(template, parts)

    def make_due(
        self, namespace: str, *, waits_for: str, limit: int, from_ms: int = 0
    ) -> int | None:
        database = self._database
        node = self._kept_node(waits_for)
        params = database.params_of(
            namespace,
            from_ms=checked_count("from_ms", from_ms),
            limit=checked_count("limit", limit),
            waits_for=node,
        )
        records = database.read(statements.WAITING, params)
        # In the order of the key, as others lock rows too. Each part commits by itself.
        ids = sorted(record[0] for record in records)
        for part in parts_of(ids, IDS_PER_STATEMENT):
            params = database.params(waits_for=node)
            database.change(statements.MAKE_DUE, params, part)
        return int(records[-1][1]) if records and len(records) == limit else None

    def publish_commit(
        self,
        receipt: InvalidationReceipt,
        *,
        seen: Sequence[OutboxRow] | None = None,
        timeout: float | None = None,
    ) -> int:
        if not isinstance(receipt, InvalidationReceipt):
            raise TypeError(
                f"receipt must be InvalidationReceipt, not {type(receipt).__name__}"
            )
        if receipt.batch is None:
            raise ValueError(
                "the receipt came as text and has no batch: which rows were applied"
                " is not known"
            )
        if seen is None:
            template = statements.PUBLISH_COMMIT
            fixed: dict[str, Any] = {
                "namespace": self._database.dialect.encode(receipt.namespace),
                "position": self._database.dialect.encode(
                    receipt.commit_position.value
                ),
            }
            hashes = [intent.target_hash() for intent in receipt.batch.distinct()]
            parts = [(fixed, part) for part in parts_of(hashes, IDS_PER_STATEMENT)]
        else:
            template = statements.PUBLISH_SEEN
            by_moment: dict[int, list[Any]] = {}
            for row in seen:
                by_moment.setdefault(row.created_at_ms, []).append(row.id)
            parts = [
                ({"created_at_ms": moment}, part)
                for moment, ids in by_moment.items()
                for part in parts_of(ids, IDS_PER_STATEMENT)
            ]

        return self._database.change_all(template, parts, timeout=timeout)

    def _kept(self, error: str) -> Any:
        return self._database.dialect.encode(kept_error(error))

    def _kept_node(self, node: str) -> Any:
        return self._database.dialect.encode(kept_node(node))


def _held(
    rows: Sequence[OutboxRow],
) -> Mapping[int, tuple[str | None, Sequence[int]]]:
    """Return the claims of rows by their token: each its owner, and the rows' ids."""
    if isinstance(rows, ClaimedRows):
        return {rows.token: (rows.owner, rows.ids)}
    held: dict[int, tuple[str | None, list[int]]] = {}
    for row in rows:
        token = row.claim_token
        if token is not None:
            if token not in held:
                held[token] = row.claim_owner, []
            held[token][1].append(row.id)
    return held

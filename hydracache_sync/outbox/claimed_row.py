"""Rows of a claim: what applying needs is read by the claim, the rest when asked for.

A worker that drains a backlog reads the target of a row and nothing else. Each further
column would cost a tenth of what the database does for a row, and with PyMySQL, which
takes each field out of the packet in Python, more.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping, Sequence

from hydracache_sync.errors import OutboxError
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.outbox.row import (
    SHORT,
    TARGET_COLUMNS,
    OutboxRow,
    decoded,
    readable,
)

_new = tuple.__new__


class Claim:
    """What the rows of one claim share. Safe for threads.

    :param common: values of :data:`~hydracache_sync.outbox.row.CLAIM_COLUMNS`.
    :param ids: of its rows.
    :param read: reads rows whole, by their ids.
    :param traceparents: by id, where the claim has read them.
    """

    __slots__ = ("common", "token", "traceparents", "_ids", "_read", "_whole")

    def __init__(
        self,
        common: tuple[Any, ...],
        ids: Sequence[int],
        read: Callable[[Sequence[int]], Iterable[OutboxRow]],
        traceparents: Mapping[int, Any] | None = None,
    ) -> None:
        self.common = common
        self.token: int = common[-1]
        self.traceparents = traceparents
        self._ids = ids
        self._read = read
        self._whole: dict[int, OutboxRow] | None = None

    def whole(self, id: int) -> OutboxRow:
        """Return the row ``id`` as it is in the database; reads all rows at once.

        :raises OutboxError: the database failed, or the row was deleted since.
        """
        if self._whole is None:
            self._whole = {row.id: row for row in self._read(self._ids)}
        row = self._whole.get(id)
        if row is None:
            raise OutboxError(
                f"row {id} is not in the outbox any more: it was published and purged,"
                " or discarded. What its claim did not read of it is not known"
            )
        return row


class ClaimedRow(OutboxRow):
    """A row that nothing had happened to before it was claimed.

    Of a row that had failed, waited or been claimed before, the claim returns a whole
    :class:`~hydracache_sync.OutboxRow`.
    """

    __slots__ = ("id", "intent", "claim_token", "_claim")

    # Attributes in place of properties: a worker asks each row of a drain.
    id: int
    intent: InvalidationIntent | None
    claim_token: int | None
    attempts = 0
    waits_for = None
    was_abandoned = False
    history = None

    def __init__(self, record: tuple[Any, ...], claim: Claim) -> None:
        """Take a record of ``TARGET_COLUMNS``, and what else was selected."""
        self._record = record
        self._common = claim.common
        self._claim = claim
        self.claim_token = claim.token
        self._fault = None
        self.id, kind, value, entity_name, _ = record
        # Mostly like this; written out, since a worker makes one of every row.
        if kind == "entity" and type(value) is str and type(entity_name) is str:
            if len(value) <= SHORT and len(entity_name) <= SHORT:
                self.intent = _new(InvalidationIntent, (kind, value, entity_name))
                return
        try:
            self.intent = decoded(kind, value, entity_name)
        except ValueError as exc:
            self.intent = None
            self._fault = f"malformed row: {exc}"

    @property
    def last_error(self) -> str | None:
        return self._fault

    @property
    def traceparent(self) -> str | None:
        known = self._claim.traceparents
        if known is None:
            return super().traceparent
        context = known[self.id]
        return None if context is None else readable(context)

    @property
    def _details(self) -> tuple[Any, ...]:
        # As it was claimed, but for what is read only now.
        *read, _, _, _, _, traceparent = self._claim.whole(self.id)._details
        return (*read, 0, None, 0, None, traceparent)

    # Immutable; and what it reads with cannot be copied.

    def __copy__(self) -> ClaimedRow:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ClaimedRow:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: whole, since that cannot read the rest."""
        target = self._record[: len(TARGET_COLUMNS)]
        return OutboxRow, ((*target, *self._details), self._common)

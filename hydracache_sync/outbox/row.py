"""What is read out of the outbox: rows, and counts of them.

A row keeps the record as the driver gave it and decodes a field when it is asked for. A
worker that drains a backlog reads three fields of each row. One malformed row must not
make the claim of the other rows fail.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from hydracache_sync.intents import KINDS, InvalidationIntent, hash_parts
from hydracache_sync.keys import MAX_TARGET
from hydracache_sync.outbox.history import RowHistory
from hydracache_sync.receipts import CommitPosition


class OutboxState(enum.Enum):
    """Durable state of a row. Stored as a small integer, see :attr:`code`."""

    PENDING = "pending"
    PUBLISHED = "published"
    DEAD = "dead"

    @property
    def code(self) -> int:
        return _CODES[self]

    @classmethod
    def from_storage(cls, value: object) -> OutboxState | None:
        """Return the state stored as ``value``, a code or a name; None if unknown."""
        return _STORED.get(value) if isinstance(value, (int, str)) else None


_CODES = {OutboxState.PENDING: 0, OutboxState.PUBLISHED: 1, OutboxState.DEAD: 2}
_STORED: dict[int | str, OutboxState] = {
    **{code: state for state, code in _CODES.items()},
    **{state.value: state for state in OutboxState},
}


class PendingPhase(enum.Enum):
    """What a pending row waits for."""

    #: A worker: the row can be claimed now, unless its namespace is paused.
    DUE = "due"
    #: The worker that holds it.
    CLAIMED = "claimed"
    #: A moment: it failed, its cache was away, or it was scheduled.
    BACKOFF = "backoff"


#: Columns that differ from row to row of one claim, as :class:`OutboxRow` takes them:
#: what a worker reads of every row, and what is asked for now and then.
TARGET_COLUMNS = ("id", "kind", "value", "entity_name")
DETAIL_COLUMNS = (
    "commit_position",
    "target_hash",
    "reason",
    "created_at_ms",
    "at_ms",
    "attempts",
    "waits_for",
    "abandoned",
    "last_error",
    "traceparent",
)

ROW_COLUMNS = TARGET_COLUMNS + DETAIL_COLUMNS

#: Columns that all rows of one claim have in common.
CLAIM_COLUMNS = (
    "namespace",
    "state",
    "claimed_at_ms",
    "claim_until_ms",
    "claim_owner",
    "claim_token",
)

COLUMNS = ROW_COLUMNS + CLAIM_COLUMNS

#: All that the table has: one of the others is of statements alone, one is read by ROW.
TABLE_COLUMNS = COLUMNS + ("tried_alone", "history")


#: Error of a row whose claim expired. What a claim looks like in the database is the
#: same whether its worker crashed or hangs.
ABANDONED = "claim expired: the worker crashed or hung"

#: Bytes of a node's name that a row keeps.
MAX_NODE = 255

#: Bytes of a W3C traceparent: version 00 has just as many.
MAX_TRACEPARENT = 55

#: Error of a row that was enqueued again under its position, while it waited or after
#: it was finished.
ENQUEUED_AGAIN = "enqueued again under its commit position"


class OutboxRow:
    """One durable invalidation, as it was when it was read. Immutable.

    Of rows that :meth:`~hydracache_sync.InvalidationOutbox.claim` returns, and so in
    the events of a worker, these are as they were claimed: :attr:`id`, :attr:`intent`,
    :attr:`namespace`, :attr:`attempts`, :attr:`waits_for`, :attr:`was_abandoned`,
    :attr:`last_error`, :attr:`state` and the claim. The others, which are
    :attr:`commit_position`, :attr:`target_hash`, :attr:`row_id`, :attr:`reason`,
    :attr:`created_at_ms`, :attr:`available_at_ms` and :attr:`traceparent`, may be read
    from the database when one of them is asked for first, with one statement for all
    rows of the claim; ``OutboxError`` if that fails, or if the row was deleted
    meanwhile. Where the outbox is traced, a claim reads :attr:`traceparent`.
    :attr:`available_at_ms`, which changes when a row is finished or put off, is then
    that of the moment at which it was read. Comparing such rows, and pickling them,
    reads them too.

    Source: ``OutboxRow`` in ``hydracache-db/src/outbox.rs``. Differs: :attr:`id` is the
    table's integer key and the hash is :attr:`row_id`; a row that cannot be decoded is
    returned with :attr:`intent` None and :attr:`last_error` saying why.
    """

    __slots__ = ("_record", "_common", "_intent", "_fault", "_history")

    def __init__(
        self,
        record: tuple[Any, ...],
        common: tuple[Any, ...] | None = None,
        history: RowHistory | None = None,
    ) -> None:
        """Take a record of :data:`ROW_COLUMNS`, and the values of the others.

        :param common: of :data:`CLAIM_COLUMNS`; None if the record goes on with them.
        :param history: None where it was not read.
        """
        self._record = record
        self._common = record[len(ROW_COLUMNS) :] if common is None else common
        self._intent: InvalidationIntent | None = None
        self._fault: str | None = None
        self._history = history

    @property
    def _details(self) -> tuple[Any, ...]:
        """Values of :data:`DETAIL_COLUMNS`."""
        return self._record[len(TARGET_COLUMNS) : len(ROW_COLUMNS)]

    @property
    def id(self) -> int:
        return self._record[0]  # type: ignore[no-any-return]

    @property
    def namespace(self) -> str:
        return readable(self._common[0])

    @property
    def commit_position(self) -> CommitPosition:
        try:
            return CommitPosition(readable(self._details[0]))
        except ValueError:
            # Written by a foreign hand; the row is found by its id, never by this.
            return CommitPosition("(malformed)")

    @property
    def target_hash(self) -> str:
        """Hex of the 32 bytes."""
        return bytes(self._details[1]).hex()

    @property
    def row_id(self) -> str:
        """Hex SHA-256 of namespace, position and target, the id of the Rust module."""
        return hash_parts(
            "hydracache-outbox-row-id-v1",
            self.namespace,
            self.commit_position.value,
            self.target_hash,
        ).hex()

    @property
    def intent(self) -> InvalidationIntent | None:
        """What to invalidate; None for a malformed row."""
        if self._intent is None and self._fault is None:
            self._decode()
        return self._intent

    @property
    def reason(self) -> str:
        return readable(self._details[2])

    @property
    def created_at_ms(self) -> int:
        return int(self._details[3])

    @property
    def state(self) -> OutboxState | None:
        """None for a state that this version does not know."""
        return OutboxState.from_storage(self._common[1])

    @property
    def available_at_ms(self) -> int:
        """When a pending row may be claimed; for others, when they were finished."""
        return int(self._details[4])

    @property
    def published_at_ms(self) -> int | None:
        return self.available_at_ms if self.is_published else None

    @property
    def attempts(self) -> int:
        """Failed attempts to apply the row; a column that is no number counts 0.

        One that ended without a word is counted when the row is claimed again, if the
        row was tried alone while its cache was there.
        """
        attempts = self._details[5]
        return attempts if isinstance(attempts, int) else 0

    @property
    def claimed_at_ms(self) -> int | None:
        # Of some rows that are finished the column still has it.
        return None if self.claim_token is None else self._common[2]

    @property
    def claim_until_ms(self) -> int | None:
        """When the claim ends, as it was settled when it was made."""
        return self._common[3]  # type: ignore[no-any-return]

    @property
    def claim_owner(self) -> str | None:
        owner = self._common[4]
        return None if owner is None else readable(owner)

    @property
    def claim_token(self) -> int | None:
        """New at each claim: only a mark that carries it finishes the row."""
        return self._common[5]  # type: ignore[no-any-return]

    @property
    def last_error(self) -> str | None:
        if self.intent is None:
            return self._fault
        error = self._details[8]
        return None if error is None else readable(error)

    @property
    def waits_for(self) -> str | None:
        """The node that was away when the row was put off last.

        None once it failed otherwise, or where its applier names no nodes.
        """
        node = self._details[6]
        return None if node is None else readable(node)

    @property
    def was_abandoned(self) -> bool:
        """Whether its last claim expired: the worker crashed or hung."""
        return bool(self._details[7])

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context of its last enqueue; None if that was not traced.

        As it is in the column, be it none. No part of what identifies the row.
        """
        context = self._details[9]
        return None if context is None else readable(context)

    @property
    def history(self) -> RowHistory | None:
        """Failures and operators' actions; of a row that ``outbox.row(id)`` returned.

        None in lists and claims: neither reads it.
        """
        return self._history

    @property
    def is_published(self) -> bool:
        return self.state is OutboxState.PUBLISHED

    @property
    def is_dead_lettered(self) -> bool:
        return self.state is OutboxState.DEAD

    def _decode(self) -> None:
        record = self._record
        try:
            if self._common[1] not in _STORED:
                raise ValueError(f"unknown state {self._common[1]!r}")
            self._intent = decoded(record[1], record[2], record[3])
        except ValueError as exc:
            # The row stays as it is; the worker dead-letters it with this reason.
            self._fault = f"malformed row: {exc}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OutboxRow):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._record[0])

    def _key(self) -> tuple[Any, ...]:
        # A claim knows its text, a record may have it as bytes.
        return (
            *self._record[: len(TARGET_COLUMNS)],
            *self._details,
            self.namespace,
            self.claim_owner,
            *(self._common[i] for i in (1, 2, 3, 5)),
        )

    def __repr__(self) -> str:
        state = self.state.value if self.state else "unknown"
        what = self.intent if self.intent is not None else self.last_error
        return f"<OutboxRow {self.id} {state} {what} attempts={self.attempts}>"


#: Kinds as bytes, where a database gives them so.
_KINDS = {kind.encode(): kind for kind in KINDS}

#: Characters that are within the limit whatever their bytes.
SHORT = MAX_TARGET // 4


def decoded(kind: Any, value: Any, entity_name: Any) -> InvalidationIntent:
    """Make an intent of the columns of a row.

    :raises ValueError: they do not form one; the message says why.
    """
    if type(kind) is not str:
        kind = _KINDS.get(kind) or _text("kind", kind)
    if value is not None and (type(value) is not str or len(value) > SHORT):
        value = _text("value", value)
    if entity_name is not None:
        if type(entity_name) is not str or len(entity_name) > SHORT:
            entity_name = _text("entity_name", entity_name)
    return InvalidationIntent.from_storage(kind, value, entity_name)


def _text(column: str, raw: object) -> str:
    if type(raw) is bytes:
        data = raw
    elif isinstance(raw, str):
        data = raw.encode("utf-8", "surrogatepass")
    else:
        raise ValueError(f"column {column} holds {type(raw).__name__}")
    if len(data) > MAX_TARGET:
        raise ValueError(f"column {column} has {len(data)} bytes, limit {MAX_TARGET}")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise ValueError(f"column {column} is not UTF-8: {exc.reason}") from exc


def kept_node(node: str) -> str:
    """Return the name of a node as a row keeps it: storable, and cut."""
    name = node.encode("utf-8", "backslashreplace")[:MAX_NODE]
    return name.decode("utf-8", "ignore")


def readable(raw: object) -> str:
    """Text for people, whatever a foreign hand wrote into the column."""
    if isinstance(raw, (bytes, bytearray)):
        return raw.decode("utf-8", "backslashreplace")
    return str(raw)


def whole(found: object, otherwise: int) -> int:
    """The number in a column, unless a foreign hand wrote something else there."""
    try:
        return int(found)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError, OverflowError):
        return int(otherwise)


class OutboxStatus(NamedTuple):
    """Backlog of one namespace at one moment.

    :ivar pending: rows to be applied, due or not, claimed or not.
    :ivar oldest_pending_age_ms: since the oldest of them was enqueued; of one that is
        dated ahead, since a worker made it due.
    :ivar dead_lettered: rows given up, for an operator to retry or discard.
    :ivar last_published_at_ms: Unix milliseconds, None if no published row is kept.
    :ivar failed_attempts: sum over the pending and the dead rows.
    :ivar capped: a count reached the cap: counts, ages and sums are then lower bounds.
    :ivar paused_since_ms: Unix milliseconds; None while the namespace is not paused.
    :ivar ahead_ms: how far the newest pending row is dated ahead of the outbox's clock;
        0 if none is. A producer's clock was wrong.
    :ivar claimed: of the pending rows, those that a worker holds.
    :ivar backoff: of the pending rows, those that wait for a moment: they failed, their
        cache was away, or they were scheduled. The rest is due.

    Source: ``OutboxStatus`` in ``hydracache-db/src/outbox.rs``. Differs: attempts of
    published rows are not summed and counts are capped, so that asking stays cheap.
    """

    pending: int = 0
    oldest_pending_age_ms: int = 0
    dead_lettered: int = 0
    last_published_at_ms: int | None = None
    failed_attempts: int = 0
    capped: bool = False
    paused_since_ms: int | None = None
    ahead_ms: int = 0
    claimed: int = 0
    backoff: int = 0

    @property
    def due(self) -> int:
        """Pending rows that a worker could claim now, were they not paused."""
        return max(0, self.pending - self.claimed - self.backoff)


class Pause(NamedTuple):
    """Why the rows of a namespace are not claimed.

    :ivar since_ms: Unix milliseconds, by the outbox's clock.
    :ivar reason: as it was given last, for operators.
    """

    since_ms: int
    reason: str


class RowPlace(NamedTuple):
    """Where a row stands among those of its state: its moment, its age, its id."""

    at_ms: int
    created_at_ms: int
    id: int


class FoundRows(NamedTuple):
    """Rows that a bounded look has found.

    :ivar ids: of those that match, in the order of the look.
    :ivar after: where the next look goes on; None if there is no further row to look
        at. With it there may be further matches, also if ``ids`` is empty.
    """

    ids: list[int]
    after: RowPlace | None


class PublishedPart(NamedTuple):
    """What was published in a part of the time that was asked for.

    :ivar from_ms: Unix milliseconds, included.
    :ivar until_ms: the same, not included.
    :ivar rows: counted up to a cap.
    :ivar capped: there are more, and ``rows`` and the lags are of the first ones.
    :ivar estimate: rows, by the time in which the first ones were published; ``rows``
        where all are counted.
    :ivar mean_lag_ms: from a row's enqueue to its publish; 0 without rows.
    :ivar max_lag_ms: the longest of these.
    """

    from_ms: int
    until_ms: int
    rows: int = 0
    capped: bool = False
    estimate: int = 0
    mean_lag_ms: int = 0
    max_lag_ms: int = 0


class CommitStatus(NamedTuple):
    """Rows of one commit by state; all 0 if none is visible.

    :ivar now_ms: the outbox's clock at that moment, in Unix milliseconds.
    """

    pending: int = 0
    published: int = 0
    dead_lettered: int = 0
    now_ms: int = 0

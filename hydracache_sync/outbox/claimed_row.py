"""Rows of a claim: what applying needs is read by the claim, the rest when asked for.

A worker that drains a backlog reads the target of a row and nothing else. Each further
column would cost a tenth of what the database does for a row, and with PyMySQL, which
takes each field out of the packet in Python, more.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence, overload

from hydracache_sync.errors import OutboxError
from hydracache_sync.intents import EntityIntents, InvalidationIntent
from hydracache_sync.outbox.row import (
    SHORT,
    TARGET_COLUMNS,
    OutboxRow,
    decoded,
    readable,
)

#: The kinds of a claim, if there is this one alone, as text or bytes.
_ENTITIES = ({"entity"}, {b"entity"})


class Claim:
    """What the rows of one claim share. Safe for threads.

    :param common: values of :data:`~hydracache_sync.outbox.row.CLAIM_COLUMNS`.
    :param ids: of its rows.
    :param read: reads rows whole, by their ids.
    :param traceparents: by id, where the claim has read them.
    """

    __slots__ = ("common", "ids", "token", "traceparents", "_read", "_whole")

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
        self.ids = ids
        self._read = read
        self._whole: dict[int, OutboxRow] | None = None

    def whole(self, id: int) -> OutboxRow:
        """Return the row ``id`` as it is in the database; reads all rows at once.

        :raises OutboxError: the database failed, or the row was deleted since.
        """
        if self._whole is None:
            self._whole = {row.id: row for row in self._read(self.ids)}
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


class ClaimedRows(Sequence[OutboxRow]):
    """The rows of one claim, if nothing had happened to any of them. Immutable.

    A worker that publishes them all asks for their intents, and makes no row.
    """

    __slots__ = ("ids", "token", "_records", "_claim", "_made")

    def __init__(self, records: Sequence[tuple[Any, ...]], claim: Claim) -> None:
        self.ids = claim.ids
        self.token = claim.token
        self._records = records
        self._claim = claim
        self._made: list[OutboxRow] | None = None

    @property
    def owner(self) -> str:
        """Of the claim, for people."""
        return readable(self._claim.common[4])

    def intents(self) -> Sequence[InvalidationIntent | None]:
        """Return what each row invalidates; None for a malformed one."""
        _, kinds, values, names, _ = zip(*self._records)
        if set(kinds) in _ENTITIES:
            # Mostly like this: together, since a worker needs one of every row.
            texts, entities = _short_texts(values), _short_texts(names)
            if texts is not None and entities is not None:
                return EntityIntents(entities, texts)
        try:
            return list(map(decoded, kinds, values, names))
        except ValueError:
            return [row.intent for row in self]

    def _rows(self) -> list[OutboxRow]:
        if self._made is None:
            # Two threads may both make them; theirs are equal.
            self._made = [ClaimedRow(record, self._claim) for record in self._records]
        return self._made

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> OutboxRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[OutboxRow]: ...

    def __getitem__(self, index: int | slice) -> OutboxRow | list[OutboxRow]:
        return self._rows()[index]

    def __iter__(self) -> Iterator[OutboxRow]:
        return iter(self._rows())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (ClaimedRows, list)):
            return NotImplemented
        return self._rows() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._rows())

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: the rows, whole."""
        return list, (self._rows(),)


def _short_texts(column: Sequence[Any]) -> Sequence[str] | None:
    """Return the texts of a column if all are there and short enough, else None."""
    kinds = set(map(type, column))
    texts = column
    if kinds == {bytes}:
        try:
            texts = b"\n".join(column).decode().split("\n")
        except UnicodeDecodeError:
            return None
        if len(texts) > len(column):
            return None  # one has the end of a line in it
    elif kinds != {str}:
        return None
    return texts if max(map(len, texts)) <= SHORT else None

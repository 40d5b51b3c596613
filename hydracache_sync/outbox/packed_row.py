"""Rows of a claim whose details come in one field, taken apart when one is asked for.

PyMySQL takes each field of each record out of the packet in Python, which is the
larger part of a worker's own time. A worker that drains a backlog reads the target of a
row and nothing else.
"""

from __future__ import annotations

from typing import Any

from hydracache_sync.outbox.row import TARGET_COLUMNS, OutboxRow, readable

#: The clock and :data:`~hydracache_sync.outbox.row.DETAIL_COLUMNS`, as text. In hex,
#: because anything may be in them. What is asked of every row is at the end, the others
#: in their order; an error that is null is told from an empty one.
PACKED_DETAILS = (
    "concat_ws(',', {now}, hex(commit_position), hex(target_hash), hex(reason),"
    " created_at_ms, at_ms, {attempts}, ifnull(hex({last_error}), '-'),"
    " ifnull(hex({waits_for}), ''), {abandoned})"
)

#: How the details end of a row that waits for nothing and was not abandoned.
_PLAIN = ",,0"


class PackedRow(OutboxRow):
    """A claimed row, from a record of the target's columns and PACKED_DETAILS."""

    __slots__ = ("_unpacked",)

    def __init__(self, record: tuple[Any, ...], common: tuple[Any, ...]) -> None:
        super().__init__(record, common)
        self._unpacked: tuple[Any, ...] | None = None

    @staticmethod
    def clock(record: tuple[Any, ...]) -> int:
        packed: str = record[len(TARGET_COLUMNS)]
        return int(packed[: packed.index(",")])

    @property
    def waits_for(self) -> str | None:
        if self._record[len(TARGET_COLUMNS)].endswith(_PLAIN):
            return None
        node = self._details[6]
        return None if node is None else readable(node)

    @property
    def was_abandoned(self) -> bool:
        packed: str = self._record[len(TARGET_COLUMNS)]
        return packed[-1] != "0"

    @property
    def _details(self) -> tuple[Any, ...]:
        if self._unpacked is None:
            packed: str = self._record[len(TARGET_COLUMNS)]
            (
                _,
                position,
                target_hash,
                reason,
                created,
                at,
                attempts,
                error,
                node,
                abandoned,
            ) = packed.split(",")
            self._unpacked = (
                bytes.fromhex(position),
                bytes.fromhex(target_hash),
                bytes.fromhex(reason),
                int(created),
                int(at),
                int(attempts),
                bytes.fromhex(node) if node else None,
                int(abandoned),
                None if error == "-" else bytes.fromhex(error),
            )
        return self._unpacked

"""Rows of a claim whose details come in one field, taken apart when one is asked for.

PyMySQL takes each field of each record out of the packet in Python, which is the
larger part of a worker's own time. A worker that drains a backlog reads the target of a
row and nothing else.
"""

from __future__ import annotations

from typing import Any

from hydracache_sync.outbox.row import (
    ABANDONED,
    DETAIL_COLUMNS,
    TARGET_COLUMNS,
    OutboxRow,
)

#: The clock and :data:`~hydracache_sync.outbox.row.DETAIL_COLUMNS`, as text. In hex,
#: because anything may be in them; ``concat_ws`` leaves out an error that is null.
PACKED_DETAILS = (
    "concat_ws(',', {now}, hex(commit_position), hex(target_hash), hex(reason),"
    " created_at_ms, at_ms, {attempts}, hex({last_error}))"
)

#: How the details of a row end whose last attempt ended without a word.
_ABANDONED = f",{ABANDONED.encode().hex().upper()}"


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
    def has_error(self) -> bool:
        packed: str = self._record[len(TARGET_COLUMNS)]
        return packed.count(",") == len(DETAIL_COLUMNS)

    @property
    def was_abandoned(self) -> bool:
        packed: str = self._record[len(TARGET_COLUMNS)]
        return packed.endswith(_ABANDONED)

    @property
    def _details(self) -> tuple[Any, ...]:
        if self._unpacked is None:
            _, position, target_hash, reason, created, at, attempts, *error = (
                self._record[len(TARGET_COLUMNS)].split(",")
            )
            self._unpacked = (
                bytes.fromhex(position),
                bytes.fromhex(target_hash),
                bytes.fromhex(reason),
                int(created),
                int(at),
                int(attempts),
                bytes.fromhex(error[0]) if error else None,
            )
        return self._unpacked

"""Rows of results as values of a cache."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Row
from sqlalchemy.engine.result import result_tuple

from hydracache_sync.cache.codecs.value_types import register


def cacheable_rows() -> None:
    """Have the default codec keep ``Row``, as ``cacheable`` does classes of an app.

    A row comes back with its values and names, of no statement: by column or model it
    can no longer be asked. An object of a model within it is refused.
    """
    register(Row, _taken, _made)


def _taken(row: Any) -> list[list[Any]]:
    return [list(row._fields), list(row)]


def _made(taken: list[list[Any]]) -> Any:
    names, values = taken
    if len(names) != len(values):
        raise ValueError("a row has as many values as names")
    return result_tuple(names)(values)

"""Whether the keys of a model's objects have one text each, as a tag is of one.

A value that has several makes an invalidation that misses what is read: ``Decimal``,
with the column's scale where it was loaded and without it where it was assigned.
"""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import inspect

#: What has one text.
_PLAIN = (str, int, uuid.UUID)


def require_plain_keys(model: type) -> None:
    """Refuse a model, or one of its subclasses, whose primary key needs a ``key=``.

    Columns whose type does not say what its values are in Python are let pass, those of
    a ``TypeDecorator`` for instance.

    :raises TypeError: names the column and its type.
    """
    whole: Any = inspect(model)
    for mapper in whole.self_and_descendants:
        for column in mapper.primary_key:
            kind = _python_type(column)
            if kind is None or (issubclass(kind, _PLAIN) and kind is not bool):
                continue
            raise TypeError(
                f"{mapper.class_.__name__} has {column.key} in its primary key, of type"
                f" {column.type!r}: a {kind.__name__} may be written in several ways,"
                " and a tag is one text. Pass key=, a function that makes a str of the"
                " key's columns, and use it in reads too; or leave out entity="
            )


def _python_type(column: Any) -> type | None:
    try:
        found: type = column.type.python_type
    except NotImplementedError:
        return None
    # From 2.1 on some say so in this way.
    return None if found is object else found

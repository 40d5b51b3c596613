"""What a change of a mapped object, or of its table, invalidates.

Values only: which objects changed, and how, is told by who watches them.
"""

from __future__ import annotations

import re
import uuid
from typing import Any, Callable, Iterable, Sequence

from sqlalchemy import inspect

from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.keys import Identity, kind_tag


class ModelIntents:
    """The intents of one model.

    :param entity: name of its entities; None if only collections are cached.
    :param collections: names of the collections that any change touches.
    :param key: makes an entity's key of the columns of the primary key.
    :param more: further intents, of the object as it is after the change.
    :ivar entity: as given.
    :ivar of_table: what any change of a row invalidates.
    """

    def __init__(
        self,
        entity: str | None,
        collections: Sequence[str],
        *,
        key: Callable[..., Identity],
        more: Callable[[Any], Iterable[InvalidationIntent]] | None,
    ) -> None:
        if isinstance(collections, str):
            raise TypeError(f"collections must be several names: [{collections!r}]")
        if entity is not None:
            InvalidationIntent.entity(entity, "")
        self.of_table = [InvalidationIntent.collection(name) for name in collections]
        self.entity = entity
        #: What replaces all entities at once.
        self.kind = None if entity is None else InvalidationIntent.tag(kind_tag(entity))
        self._key = key
        self._more = more

    def of_entity(self, primary_key: Sequence[Any]) -> InvalidationIntent | None:
        """What names the entity of this primary key; None if they have no name."""
        if self.entity is None:
            return None
        return InvalidationIntent.entity(self.entity, self._key(*primary_key))

    def of_object(
        self, changed: Any, primary_keys: Iterable[Sequence[Any]]
    ) -> list[InvalidationIntent]:
        """What the change of one object invalidates.

        :param primary_keys: those it has and had.
        """
        found = list(self.of_table)
        found += [
            intent for intent in map(self.of_entity, primary_keys) if intent is not None
        ]
        if self._more is not None:
            found += self._more(changed)
        return found


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
            kind = python_type(column)
            if kind is None or (issubclass(kind, _PLAIN) and kind is not bool):
                continue
            raise TypeError(
                f"{mapper.class_.__name__} has {column.key} in its primary key, of type"
                f" {column.type!r}: a {kind.__name__} may be written in several ways,"
                " and a tag is one text. Pass key=, a function that makes a str of the"
                " key's columns, and use it in reads too; or leave out entity="
            )


def python_type(column: Any) -> type | None:
    """What the values of a column are in Python; None if its type does not say."""
    try:
        found: type = column.type.python_type
    except NotImplementedError:
        return None
    # From 2.1 on some say so in this way.
    return None if found is object else found


def have_other_texts(columns: Iterable[Any], values: Iterable[Any]) -> bool:
    """Whether a database may keep one of ``values`` under another text.

    A program may give ``"07"``, or one with a blank, for an integer: it is 7 there.
    """
    return any(
        isinstance(value, str)
        and not re.fullmatch("0|-?[1-9][0-9]*", value)
        and python_type(column) is int
        for column, value in zip(columns, values)
    )

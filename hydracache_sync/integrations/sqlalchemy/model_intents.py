"""What a change of a mapped object, or of its table, invalidates.

Values only: which objects changed, and how, is told by who watches them.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Sequence

from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.keys import Identity


class ModelIntents:
    """The intents of one model.

    :param entity: name of its entities; None if only collections are cached.
    :param collections: names of the collections that any change touches.
    :param key: makes an entity's key of the columns of the primary key.
    :param more: further intents, of the object as it is after the change.
    :ivar entity: as given.
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

"""The kinds of entities whose reads rest on a token of the kind as well.

A statement that changes rows and does not say which replaces that one token, and with
it every entry that shows an entity of the kind.
"""

from __future__ import annotations

import threading
from typing import FrozenSet, Iterable

from hydracache_sync.keys import (
    KIND_ENDING,
    Identity,
    escape_segment,
    identity_texts,
)


class EntityKinds:
    """Names of kinds; a cache that is given them adds the tag of the kind to its reads.

    All that read a namespace should name the same kinds. An entry with other tags is a
    miss, and one that was read without its kind outlives a change of the whole kind.
    Thread-safe; may grow while it is in use.

    :param entities: as in ``entity_tag(entity, key)``.
    :ivar names: escaped, as tags begin; another object after each change.
    """

    def __init__(self, *entities: Identity) -> None:
        self._lock = threading.Lock()
        self.names: FrozenSet[str] = frozenset(map(escape_segment, entities))

    def add(self, entity: Identity) -> None:
        """Have reads of ``entity`` rest on the token of the kind from now on."""
        with self._lock:
            name = escape_segment(entity)
            if name not in self.names:
                self.names |= {name}

    def completed(self, tags: Iterable[Identity]) -> tuple[str, ...]:
        """Return ``tags`` as texts, and those of the kinds of the entities in them."""
        given = identity_texts("tag", tags)
        names = self.names
        if not names:
            return given
        kinds = {tag.partition(":")[0] for tag in given if ":" in tag} & names
        return given + tuple(sorted(name + KIND_ENDING for name in kinds))

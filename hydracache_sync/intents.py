"""What a write invalidates: intents, their fixed hashes, and ordered batches of them.

Values only; nothing here knows a database, a cache or a clock.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import Iterator, NamedTuple, Sequence, overload

from hydracache_sync.keys import (
    MAX_TARGET,
    Identity,
    checked_identity,
    checked_text,
    collection_tag,
    entity_tag,
)

#: Bytes of a batch's reason.
MAX_REASON = 255

KINDS = ("key", "tag", "entity", "collection", "flush")


def _part(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


def hash_parts(*parts: str) -> bytes:
    """SHA-256 over length-prefixed parts, so that no delimiter can be forged."""
    return sha256(b"".join([_part(part.encode("utf-8")) for part in parts])).digest()


#: What a hash begins with, and what comes before its text. Nothing of these, and of
#: most intents, is more than ASCII: as text they are put together at once.
_DOMAIN = "hydracache-invalidation-intent-v1"
_HASH_PREFIX = {
    kind: (_part(_DOMAIN.encode()) + _part(kind.encode())).decode("ascii")
    for kind in KINDS
}

#: Characters of a short text, and the lengths that come before those.
_SHORT = 128
_LENGTHS = ["\0" * 7 + chr(length) for length in range(_SHORT)]

#: Intents whose hashes are kept: tags and collections, of which an app has few. Keys
#: and entities are most often new, so that there would be none to find.
_KEPT_HASHES = 256
_KEPT_KINDS = ("tag", "collection")


#: Of each kind, whether it has a value and an entity name.
_SHAPES = {
    "key": (True, False),
    "tag": (True, False),
    "entity": (True, True),
    "collection": (True, False),
    "flush": (False, False),
}

#: Of each kind with a value, whether it has an entity name as well.
_HAS_NAME = {kind: named for kind, (valued, named) in _SHAPES.items() if valued}


#: Makes a named tuple without its Python ``__new__``: a producer makes them in its
#: transaction, a worker one for every row.
_new = tuple.__new__


def _missing(wanted: bool) -> str:
    return "without a" if wanted else "with a"


class CacheInvalidation(NamedTuple):
    """What an intent means to a cache: drop one key, one tag, or everything."""

    kind: str  # "key" | "tag" | "flush"
    value: str | None


class InvalidationIntent(NamedTuple):
    """One thing to invalidate; immutable, hashable, safe to share between threads.

    Build it with :meth:`key`, :meth:`tag`, :meth:`entity`, :meth:`collection` or
    :meth:`flush`, which check their arguments: ``str``, ``int`` or ``UUID``, whose text
    has at most 4096 bytes of UTF-8, ``ValueError`` or ``TypeError`` otherwise. An
    intent holds the text: ``entity("user", 42)`` equals ``entity("user", "42")``.

    Source: ``InvalidationIntent`` in ``hydracache-db/src/outbox.rs``. A named tuple
    because a worker builds one for every row it claims.
    """

    kind: str
    value: str | None = None
    entity_name: str | None = None

    @classmethod
    def key(cls, key: Identity) -> InvalidationIntent:
        """Invalidate the one cached entry ``key``."""
        return _new(cls, ("key", checked_identity("key", key), None))

    @classmethod
    def tag(cls, tag: Identity) -> InvalidationIntent:
        """Invalidate every entry that has ``tag``."""
        return _new(cls, ("tag", checked_identity("tag", tag), None))

    @classmethod
    def entity(cls, entity: Identity, key: Identity) -> InvalidationIntent:
        """Invalidate every entry that shows the entity ``entity`` with id ``key``."""
        value = checked_identity("entity key", key)
        return _new(cls, ("entity", value, checked_identity("entity", entity)))

    @classmethod
    def collection(cls, name: Identity) -> InvalidationIntent:
        """Invalidate every entry that lists the collection ``name``."""
        return cls("collection", checked_identity("collection", name))

    @classmethod
    def flush(cls) -> InvalidationIntent:
        """Invalidate the whole namespace."""
        return cls("flush")

    @classmethod
    def from_storage(
        cls, kind: str, value: str | None, entity_name: str | None
    ) -> InvalidationIntent:
        """Rebuild an intent out of a row's columns.

        :raises ValueError: the columns do not form an intent; the message says why.
        """
        shape = _SHAPES.get(kind)
        if shape == (value is not None, entity_name is not None):
            return _new(cls, (kind, value, entity_name))
        if shape is None:
            raise ValueError(f"unknown kind {kind!r}")
        if shape[0] != (value is not None):
            raise ValueError(f"kind {kind} {_missing(shape[0])} value")
        raise ValueError(f"kind {kind} {_missing(shape[1])}n entity name")

    def checked(self) -> InvalidationIntent:
        """Return the intent if one of the constructors could have built it.

        :raises TypeError, ValueError: it was put together by hand and is none.
        """
        kind, value, entity_name = self
        if (
            # Mostly; a request's intents are checked once more when it writes them.
            type(value) is str
            and len(value) <= MAX_TARGET
            and value.isascii()
            and _HAS_NAME.get(kind) is (entity_name is not None)
            and (
                entity_name is None
                or type(entity_name) is str
                and len(entity_name) <= MAX_TARGET
                and entity_name.isascii()
            )
        ):
            return self
        for field, text in (("value", value), ("entity", entity_name)):
            if text is not None:
                checked_text(f"{kind} {field}", text, maximum=MAX_TARGET)
        return self.from_storage(kind, value, entity_name)

    def target_hash(self) -> bytes:
        """32 bytes that identify the target; the same in every version and language."""
        return target_hash(self)

    def target_hash_hex(self) -> str:
        return self.target_hash().hex()

    def to_cache_invalidation(self) -> CacheInvalidation:
        """Map entities and collections to the tags that reads of them have."""
        kind, value, entity_name = self
        if value is not None:
            if entity_name is not None:
                kind, value = "tag", entity_tag(entity_name, value)
            elif kind == "collection":
                kind, value = "tag", collection_tag(value)
        return _new(CacheInvalidation, (kind, value))


def target_hash(intent: InvalidationIntent) -> bytes:
    """As its method, for a producer's transaction, where each call counts."""
    return _kept_hash(intent) if intent[0] in _KEPT_KINDS else _hash(intent)


def _hash(intent: InvalidationIntent) -> bytes:
    kind, value, entity_name = intent
    if value is not None and len(value) < _SHORT and value.isascii():
        if entity_name is None:
            text = f"{_HASH_PREFIX[kind]}{_LENGTHS[len(value)]}{value}"
            return sha256(text.encode()).digest()
        if len(entity_name) < _SHORT and entity_name.isascii():
            text = (
                f"{_HASH_PREFIX[kind]}{_LENGTHS[len(entity_name)]}{entity_name}"
                f"{_LENGTHS[len(value)]}{value}"
            )
            return sha256(text.encode()).digest()
    parts = [part.encode() for part in (entity_name, value) if part is not None]
    return sha256(_HASH_PREFIX[kind].encode() + b"".join(map(_part, parts))).digest()


_kept_hash = lru_cache(_KEPT_HASHES)(_hash)


class EntityIntents(Sequence[InvalidationIntent]):
    """Intents of entities, kept as two columns; they are made when they are asked for.

    Most rows of a worker are such, and memcached's keys are made of the columns.
    Immutable.

    :param names: of the entities.
    :param values: their keys.
    """

    __slots__ = ("names", "values", "_made")

    def __init__(self, names: Sequence[str], values: Sequence[str]) -> None:
        self.names = names
        self.values = values
        self._made: list[InvalidationIntent] | None = None

    def are_distinct(self) -> bool:
        count = len(self.values)
        return (
            len(set(self.values)) == count
            or len(set(zip(self.names, self.values))) == count
        )

    def _intents(self) -> list[InvalidationIntent]:
        if self._made is None:
            # Two threads may both make them; theirs are equal.
            self._made = [
                _new(InvalidationIntent, ("entity", value, name))
                for name, value in zip(self.names, self.values)
            ]
        return self._made

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> InvalidationIntent: ...

    @overload
    def __getitem__(self, index: slice) -> list[InvalidationIntent]: ...

    def __getitem__(
        self, index: int | slice
    ) -> InvalidationIntent | list[InvalidationIntent]:
        return self._intents()[index]

    def __iter__(self) -> Iterator[InvalidationIntent]:
        return iter(self._intents())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (EntityIntents, list)):
            return NotImplemented
        return self._intents() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._intents())


class InvalidationIntentBatch:
    """What one transaction invalidates, in order, and why.

    Methods add to the batch and return it. Not thread-safe: a batch belongs to the
    transaction that is being built.

    :param reason: for operators, at most 255 bytes of UTF-8.

    Source: ``InvalidationIntentBatch`` in ``hydracache-db/src/outbox.rs``.
    """

    def __init__(self, reason: str = "") -> None:
        self._reason = checked_text("reason", reason, maximum=MAX_REASON)
        self._intents: list[InvalidationIntent] = []

    @property
    def reason(self) -> str:
        return self._reason

    @property
    def intents(self) -> tuple[InvalidationIntent, ...]:
        return tuple(self._intents)

    def intent(self, intent: InvalidationIntent) -> InvalidationIntentBatch:
        if not isinstance(intent, InvalidationIntent):
            raise TypeError(
                f"intent must be InvalidationIntent, not {type(intent).__name__}"
            )
        self._intents.append(intent.checked())
        return self

    def invalidate_key(self, key: Identity) -> InvalidationIntentBatch:
        text = checked_identity("key", key)
        self._intents.append(_new(InvalidationIntent, ("key", text, None)))
        return self

    def invalidate_tag(self, tag: Identity) -> InvalidationIntentBatch:
        text = checked_identity("tag", tag)
        self._intents.append(_new(InvalidationIntent, ("tag", text, None)))
        return self

    def invalidate_entity(
        self, entity: Identity, key: Identity
    ) -> InvalidationIntentBatch:
        value = checked_identity("entity key", key)
        name = checked_identity("entity", entity)
        self._intents.append(_new(InvalidationIntent, ("entity", value, name)))
        return self

    def invalidate_collection(self, name: Identity) -> InvalidationIntentBatch:
        self._intents.append(InvalidationIntent.collection(name))
        return self

    def flush(self) -> InvalidationIntentBatch:
        self._intents.append(InvalidationIntent.flush())
        return self

    def from_index(self, index: int) -> list[InvalidationIntent]:
        """Intents from ``index`` on, without a copy of those before."""
        return self._intents[index:]

    def distinct(self) -> list[InvalidationIntent]:
        """Intents without repetitions, in order of first appearance."""
        return list(dict.fromkeys(self._intents))

    def copy(self) -> InvalidationIntentBatch:
        """Return a batch of its own, so that later changes to this one do not show."""
        copied = InvalidationIntentBatch.__new__(InvalidationIntentBatch)
        copied._reason = self._reason
        copied._intents = self._intents.copy()
        return copied

    def __len__(self) -> int:
        return len(self._intents)

    def __iter__(self) -> Iterator[InvalidationIntent]:
        return iter(self.intents)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, InvalidationIntentBatch):
            return NotImplemented
        return self._reason == other._reason and self._intents == other._intents

    __hash__ = None  # type: ignore[assignment]  # changes while it is being built

    def __repr__(self) -> str:
        return f"InvalidationIntentBatch({self._reason!r}, {len(self)} intents)"

"""How identities become text: escaped segments, entity and collection tags, limits.

What the outbox stores and what the cache looks up are both named here, so that a
write and a read of the same thing can never disagree.
"""

from __future__ import annotations

from typing import Iterable, Union
from uuid import UUID

#: What an entity's id, a key or a tag may be given as; stored is its text, always.
Identity = Union[str, int, UUID]

#: Bytes of a namespace; it is part of every index of the outbox.
MAX_NAMESPACE = 64
#: Bytes of a key, tag, entity or collection.
MAX_TARGET = 4096
#: Bytes of a tag: that of an entity is two escaped names and the separator.
MAX_TAG = 2 * 3 * MAX_TARGET + 1

#: How the tag of a kind of entities ends.
KIND_ENDING = ":%"

#: Bits of an integer beyond which its decimal text is longer than any target. Python
#: itself refuses to write out those of more than 4300 digits.
MAX_BITS = 13607


def identity_text(field: str, value: object) -> str:
    """Return the text of an id: an integer's decimals, a UUID's canonical form.

    The id of a row is then the same in a tag, whether it comes from a route, from the
    database or from a form: ``42`` and ``"42"``.

    :param field: name used in the error.
    :raises TypeError: neither ``str`` nor ``int`` nor ``UUID``. Also for a ``bool``,
        which would be the row 1 or 0, and for a ``float``, whose text is not that of
        the number it equals.
    :raises ValueError: an integer with more digits than a target may have.
    """
    if isinstance(value, str):
        # Of a subclass, an enum's member say, what it holds and not how it is shown.
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > MAX_BITS:
            raise ValueError(
                f"{field} is an integer of {value.bit_length()} bits, allowed are"
                f" {MAX_TARGET} digits"
            )
        return int.__repr__(value)
    if isinstance(value, UUID):
        return UUID.__str__(value)
    raise TypeError(f"{field} must be str, int or UUID, not {type(value).__name__}")


def identity_texts(field: str, values: Iterable[object]) -> tuple[str, ...]:
    """Return the text of each of ``values``, as :func:`identity_text` of one."""
    # Of each cached call: out of a generator it takes twice as long.
    return tuple(
        [each if type(each) is str else identity_text(field, each) for each in values]
    )


def checked_text(field: str, value: object, *, maximum: int, minimum: int = 0) -> str:
    """Return ``value`` if it is text that can be stored whole.

    :param field: name used in the error.
    :param minimum, maximum: UTF-8 bytes, inclusive. Beyond the maximum a database
        that is not strict would cut in silence.
    :raises TypeError: not a ``str``.
    :raises ValueError: too short, too long, or with a lone surrogate, which no
        UTF-8 column can keep.
    """
    if not isinstance(value, str):
        raise TypeError(f"{field} must be str, not {type(value).__name__}")
    if value.isascii():
        length = len(value)
    else:
        try:
            length = len(value.encode("utf-8"))
        except UnicodeEncodeError as exc:
            raise ValueError(
                f"{field} of {len(value)} characters has a lone surrogate at index"
                f" {exc.start} and cannot be stored as UTF-8"
            ) from exc
    if not minimum <= length <= maximum:
        raise ValueError(
            f"{field} is {length} bytes of UTF-8, allowed are {minimum} to {maximum}"
        )
    return value


def checked_identity(field: str, value: object, *, maximum: int = MAX_TARGET) -> str:
    """Return the text of ``value`` if it can be stored whole, else raise.

    :raises TypeError, ValueError: as :func:`identity_text` and :func:`checked_text`.
    """
    if type(value) is not str:
        value = identity_text(field, value)
    elif len(value) <= maximum and value.isascii():
        return value  # mostly; a producer checks four texts for three intents
    return checked_text(field, value, maximum=maximum)


def checked_namespace(namespace: object) -> str:
    """Return ``namespace`` if it is 1 to 64 bytes of UTF-8, else raise."""
    if type(namespace) is str and namespace.isascii():
        if 0 < len(namespace) <= MAX_NAMESPACE:
            return namespace  # mostly; each enqueue checks it
    return checked_text("namespace", namespace, minimum=1, maximum=MAX_NAMESPACE)


def escape_segment(segment: Identity) -> str:
    """Make the text of ``segment`` free of the separator ``:``, reversibly.

    :raises TypeError: neither ``str`` nor ``int`` nor ``UUID``. A row of a query,
        ``(42,)``, would else make a tag that no invalidation has.
    """
    text = segment if type(segment) is str else identity_text("a segment", segment)
    if "%" not in text and ":" not in text:
        return text
    return text.replace("%", "%25").replace(":", "%3A")


def entity_tag(entity: Identity, key: Identity) -> str:
    """Tag of one entity, for the intent that invalidates it and the read of it.

    ``entity_tag("user", 42)`` is ``entity_tag("user", "42")``.

    :raises TypeError: one of them is neither ``str`` nor ``int`` nor ``UUID``.
    """
    return f"{escape_segment(entity)}:{escape_segment(key)}"


def collection_tag(collection: Identity) -> str:
    """Tag of a collection, for the intent that invalidates it and the reads of it."""
    return escape_segment(collection)


def kind_tag(entity: Identity) -> str:
    """Tag of all entities of one kind, which a change of unknown rows replaces.

    No entity and no collection has it: their escaped texts hold no ``%`` of this sort.
    """
    return f"{escape_segment(entity)}{KIND_ENDING}"


class CacheKeyBuilder:
    """Build keys and tags out of segments that may hold any character.

    >>> CacheKeyBuilder("report").entity("user", 42).segment("a:b").build_string()
    'report:user:42:a%3Ab'

    Methods change the builder and return it. Two different lists of one or more
    segments never build the same text. The texts of segments are those of ids.

    :raises TypeError: a segment is neither ``str`` nor ``int`` nor ``UUID``. The text
        of None, of a float or of an object would name something else, or nothing.
    :raises ValueError: an integer has more digits than a target may have.

    Source: ``CacheKeyBuilder`` of the Rust crate ``hydracache``.
    """

    def __init__(self, *segments: Identity) -> None:
        self._segments: list[str] = []
        for segment in segments:
            self.segment(segment)

    def segment(self, segment: Identity) -> CacheKeyBuilder:
        """Append one segment."""
        self._segments.append(escape_segment(segment))
        return self

    def entity(self, kind: Identity, id: Identity) -> CacheKeyBuilder:
        """Append the two segments that name an entity."""
        return self.segment(kind).segment(id)

    def tenant(self, id: Identity) -> CacheKeyBuilder:
        """Append the two segments ``tenant`` and ``id``."""
        return self.segment("tenant").segment(id)

    def build_string(self) -> str:
        """Return the segments, escaped and joined by ``:``."""
        return ":".join(self._segments)

    __str__ = build_string

    def __repr__(self) -> str:
        return f"CacheKeyBuilder({self.build_string()!r})"


def entity_key(*primary_key: Identity) -> str:
    """Key of an entity whose primary key has these columns.

    ``entity_key(42)`` is ``"42"``; several columns are escaped and joined by ``:``, so
    that ``entity_key("shelf", 7)`` is ``"shelf:7"``.

    :raises TypeError: a column is neither ``str`` nor ``int`` nor ``UUID``, or none is
        given.
    """
    if not primary_key:
        raise TypeError("entity_key() was given no column of a primary key")
    if len(primary_key) == 1:
        return identity_text("entity key", primary_key[0])
    return ":".join(map(escape_segment, primary_key))

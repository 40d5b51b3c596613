"""How identities become text: escaped segments, entity and collection tags, limits.

What the outbox stores and what the cache looks up are both named here, so that a
write and a read of the same thing can never disagree.
"""

from __future__ import annotations

#: Bytes of a namespace; it is part of every index of the outbox.
MAX_NAMESPACE = 64
#: Bytes of a key, tag, entity or collection.
MAX_TARGET = 4096
#: Bytes of a tag: that of an entity is two escaped names and the separator.
MAX_TAG = 2 * 3 * MAX_TARGET + 1


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


def checked_namespace(namespace: object) -> str:
    """Return ``namespace`` if it is 1 to 64 bytes of UTF-8, else raise."""
    return checked_text("namespace", namespace, minimum=1, maximum=MAX_NAMESPACE)


def escape_segment(segment: str) -> str:
    """Make ``segment`` free of the separator ``:``, reversibly.

    :raises TypeError: not a ``str``. A row of a query, ``(42,)``, would else make a tag
        that no invalidation has.
    """
    if not isinstance(segment, str):
        raise TypeError(
            f"a part of a tag must be str, not {type(segment).__name__}: write str(id)"
        )
    if "%" not in segment and ":" not in segment:
        return segment
    return segment.replace("%", "%25").replace(":", "%3A")


def unescape_segment(escaped: str) -> str:
    """Undo :func:`escape_segment`."""
    return escaped.replace("%3A", ":").replace("%25", "%")


def entity_tag(entity: str, key: str) -> str:
    """Tag of one entity, for the intent that invalidates it and the read of it.

    :raises TypeError: one of them is no ``str``.
    """
    return f"{escape_segment(entity)}:{escape_segment(key)}"


def collection_tag(collection: str) -> str:
    """Tag of a collection, for the intent that invalidates it and the reads of it."""
    return escape_segment(collection)


class CacheKeyBuilder:
    """Build keys and tags out of segments that may hold any character.

    >>> CacheKeyBuilder("report").entity("user", 42).segment("a:b").build_string()
    'report:user:42:a%3Ab'

    Methods change the builder and return it. Two different lists of one or more
    segments never build the same text.

    Source: ``CacheKeyBuilder`` of the Rust crate ``hydracache``.
    """

    def __init__(self, *segments: object) -> None:
        self._segments: list[str] = []
        for segment in segments:
            self.segment(segment)

    def segment(self, segment: object) -> CacheKeyBuilder:
        """Append ``str(segment)``, so that an integer id needs no conversion."""
        self._segments.append(escape_segment(str(segment)))
        return self

    def entity(self, kind: str, id: object) -> CacheKeyBuilder:
        """Append the two segments that name an entity."""
        return self.segment(kind).segment(id)

    def tenant(self, id: object) -> CacheKeyBuilder:
        """Append the two segments ``tenant`` and ``id``."""
        return self.segment("tenant").segment(id)

    def build_string(self) -> str:
        """Return the segments, escaped and joined by ``:``."""
        return ":".join(self._segments)

    __str__ = build_string

    def __repr__(self) -> str:
        return f"CacheKeyBuilder({self.build_string()!r})"

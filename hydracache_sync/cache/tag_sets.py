"""Sets of tags as given by callers, checked, in order, with their addresses.

The same few sets are asked for again and again, so what they come to is remembered.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Iterable, NamedTuple, Tuple
from uuid import UUID

from hydracache_sync.cache.entity_kinds import EntityKinds
from hydracache_sync.cache.entry_format import tag_digest
from hydracache_sync.cache.keyspace import Address, Keyspace
from hydracache_sync.keys import Identity, identity_texts
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Tags of one entry. Each is a token to be read and compared at every hit: with so many
#: that takes about 3 ms, and ten times as long with ten times as many.
MAX_TAGS = 1000

#: Tags of one entry beyond which a cache warns, once: a hit takes about 0.3 ms by then.
MANY_TAGS = 100

#: Sets remembered. When full all are forgotten: finding out again costs microseconds.
MAX_REMEMBERED = 1024

#: Characters in all tags of a set that is remembered, so that long tags cannot hold on
#: to megabytes.
MAX_REMEMBERED_TEXT = 512


def several(tags: Iterable[Identity]) -> tuple[Identity, ...]:
    """Return ``tags`` in a tuple.

    :raises TypeError: a single one; the letters of a text would be the tags. Or None.
    """
    if tags is None:
        raise TypeError("tags is None: give () for none")
    if isinstance(tags, (str, bytes, int, UUID)):
        raise TypeError(
            f"tags must be several texts, as in ({tags!r},), not one {tags!r}"
        )
    return tuple(tags)


class TagSet(NamedTuple):
    """Some tags and where their tokens are, in the order of the digest."""

    addresses: Tuple[Address, ...]
    digest: bytes
    names: Tuple[str, ...]


class TagSets:
    """The tag sets of one keyspace. Safe for threads.

    :param kinds: of whose entities the reads have the tag of the kind as well.
    :param strict: whether the entries are those of a strict namespace. They have other
        digests, so that neither kind of reader takes an entry of the other.
    """

    def __init__(
        self, keyspace: Keyspace, kinds: EntityKinds, *, strict: bool = False
    ) -> None:
        self._keyspace = keyspace
        self._kinds = kinds
        self._kind_names = kinds.names
        self._strict = strict
        self._remembered: dict[tuple[str, ...], TagSet] = {}
        self._has_warned = False

    def of(self, tags: Iterable[Identity]) -> TagSet:
        """Check ``tags``; their order and repetitions do not matter.

        :raises TypeError: a single text (its letters would be the tags), or a tag that
            is neither text nor ``int`` nor ``UUID``.
        :raises ValueError: over :data:`MAX_TAGS` tags, or a tag that is not 0 to 24577
            bytes of UTF-8.
        """
        if type(tags) is not tuple:
            tags = several(tags)
        if self._kinds.names is not self._kind_names:
            self._forget()
        try:
            known = self._remembered.get(tags)  # type: ignore[arg-type]
        except TypeError:
            # Something in it has no hash, so it is no text. Named below.
            known = None
        return known or self._learn(tags)

    def _forget(self) -> None:
        # In this order: who still learns by the old names has the old dict.
        names = self._kinds.names
        self._remembered = {}
        self._kind_names = names

    def _learn(self, tags: tuple[Identity, ...]) -> TagSet:
        remembered = self._remembered
        # Remembered by texts alone: to a dict 1, 1.0 and True are one.
        given = identity_texts("tag", tags)
        known = remembered.get(given)
        if known is not None:
            return known
        if len(given) > MAX_TAGS and len(set(given)) > MAX_TAGS:
            raise ValueError(
                f"tags are {len(set(given))}, and an entry has {MAX_TAGS} at most: each"
                " is read at every hit. Give what many of them have in common one tag"
            )
        whole = self._kinds.completed(given)
        addresses = {tag: self._keyspace.tag_token(tag) for tag in whole}
        names = sorted(addresses)
        if len(names) > MANY_TAGS and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "an entry of namespace %s has %d tags, and each is read at every hit:"
                " more than %d are slow, more than %d are refused. Give what many of"
                " them have in common one tag. Said once",
                self._keyspace.namespace,
                len(names),
                MANY_TAGS,
                MAX_TAGS,
            )
        digest = tag_digest(names)
        if self._strict:
            digest = blake2b(digest, digest_size=16, person=b"strict").digest()
        tag_set = TagSet(tuple(map(addresses.__getitem__, names)), digest, tuple(names))
        if sum(map(len, given)) + len(given) <= MAX_REMEMBERED_TEXT:
            if len(remembered) >= MAX_REMEMBERED:
                remembered.clear()
            remembered[given] = tag_set
        return tag_set

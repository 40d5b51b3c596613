"""What things are called in memcached, for the reader and for the applier alike.

Two different (ring, namespace, role, name) never share a physical key, whatever text
they hold. Otherwise a write could stamp another token than the one that its readers
compare, and would invalidate nothing. Knows no store and no value.

A physical key reads ``hc1:<ring>:<namespace>:<role><name>``. The role is one letter:
``e`` an entry, ``k`` a key's token, ``t`` a tag's token, ``n`` the namespace's token
(no name), ``w`` its watermark (no name), ``l`` the lock under which an entry is loaded;
upper case where the name is a hash.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Optional, Sequence, Tuple

from hydracache_sync.errors import ConfigurationError
from hydracache_sync.intents import EntityIntents, InvalidationIntent
from hydracache_sync.keys import (
    MAX_TAG,
    MAX_TARGET,
    Identity,
    checked_namespace,
    checked_text,
    escape_segment,
    identity_text,
)

#: Where something is kept: what chooses the node, and the physical key on that node.
#: A store with one node looks at the second only. The first is None for "on every
#: node", which makes sense in a write alone. A plain tuple: five are made per read.
Address = Tuple[Optional[bytes], bytes]

#: Changes when keys, tokens or entries change so that old and new must not meet.
SCHEME = "hc1"

#: Where a memcached keeps the random name that tells it from any other. No ring is
#: empty, so no keyspace has it.
NODE_IDENTITY = f"{SCHEME}::node".encode("ascii")

#: Bytes of a name that stays readable. With the longest ring and namespace before it
#: a key still fits memcached's 250.
MAX_PLAIN_NAME = 180

#: Bytes of an escaped namespace that stays readable.
MAX_PLAIN_NAMESPACE = 44

#: The tag of an entity whose two names stand in it as they are. Longer ones are plain,
#: too, and take the ordinary way.
_plain_entity = re.compile(r"[!-$&-9;-~]{0,89}:[!-$&-9;-~]{0,90}").fullmatch
#: What such a tag consists of.
_ENTITY_BYTES = bytes({*range(0x21, 0x7F)} - {*b"%"})
_plain_namespace = re.compile(r"[!-~]{1,%d}" % MAX_PLAIN_NAMESPACE).fullmatch
_ring = re.compile(r"[A-Za-z0-9._-]{1,16}").fullmatch

#: What memcached takes in a key. Anything else ends the command early, or adds one.
_APP_KEY_BYTES = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))
MAX_APP_KEY = 250


def checked_ring(ring: object) -> str:
    """Return ``ring`` if it can be part of every key, else raise.

    :raises ConfigurationError: not 1 to 16 of ``A-Z a-z 0-9 . _ -``.
    """
    if not isinstance(ring, str) or not _ring(ring):
        raise ConfigurationError(
            f"ring {ring!r} must be 1 to 16 characters out of A-Z a-z 0-9 . _ -"
        )
    return ring


def checked_app_key(key: str | bytes) -> bytes:
    """Return an application's own memcached key as it goes over the wire.

    :raises ValueError: memcached could not take it: empty, over 250 bytes, or with a
        blank or a control character, which would let a key carry commands.
    """
    raw = key.encode("utf-8") if isinstance(key, str) else key
    if not are_valid_keys([raw]):
        raise ValueError(
            f"{key!r} is no memcached key: 1 to {MAX_APP_KEY} bytes without blanks and"
            " control characters"
        )
    return raw


def are_valid_keys(keys: Sequence[bytes]) -> bool:
    """Tell whether memcached takes every one of these as a key."""
    lengths = set(map(len, keys))
    if lengths and not 1 <= min(lengths) <= max(lengths) <= MAX_APP_KEY:
        return False
    return not b"".join(keys).translate(None, _APP_KEY_BYTES)


def app_address(key: str | bytes) -> Address:
    """Address of a key that the application itself writes, outside every keyspace.

    :raises ValueError: as :func:`checked_app_key`.
    """
    raw = checked_app_key(key)
    return raw, raw


class Keyspace:
    """Addresses of one namespace on one ring. Immutable, safe to share.

    A key is text of 0 to 4096 bytes of UTF-8, a tag of 0 to 24577: that of an entity is
    made of two names. An ``int`` or a ``UUID`` stands for its text. A name outside
    ``[!-~]{1,180}`` is replaced by its SHA-256.

    :param ring: the store's ring id; a new one makes every entry and token new.
    :raises TypeError, ValueError: in all methods, for a key or tag that is none of
        these.
    """

    def __init__(self, ring: str, namespace: str) -> None:
        self.ring = checked_ring(ring)
        self.namespace = checked_namespace(namespace)
        segment = escape_segment(namespace)
        if not _plain_namespace(segment):
            # No escaped text holds "%%", so a hash is never taken for a name.
            digest = sha256(namespace.encode("utf-8")).digest()
            segment = "%%" + urlsafe_b64encode(digest).decode("ascii").rstrip("=")
        prefix = f"{SCHEME}:{ring}:{segment}:".encode("ascii")
        self._namespace_token = prefix + b"n"
        self._watermark = prefix + b"w"
        self._entry = prefix + b"e", prefix + b"E"
        self._load_lock = prefix + b"l", prefix + b"L"
        self._key_token = prefix + b"k", prefix + b"K"
        self._tag_token = prefix + b"t", prefix + b"T"

    def entry(self, key: Identity) -> Address:
        """Where the entry of ``key`` is."""
        return self.of_key(key)[0]

    def key_token(self, key: Identity) -> Address:
        """Where the token of ``key`` is: on the node of its entry."""
        return self.of_key(key)[2]

    def of_key(self, key: Identity) -> tuple[Address, Address, Address]:
        """Entry, the namespace's token on the entry's node, and the key's token.

        The order in which an entry's tokens are compared begins so; tags follow.
        """
        hashed, name = _name("key", key, MAX_TARGET)
        entry = self._entry[hashed] + name
        return (
            (entry, entry),
            (entry, self._namespace_token),
            (entry, self._key_token[hashed] + name),
        )

    def load_lock(self, key: Identity) -> Address:
        """Where the lock of a load of ``key`` is: on the node of its entry."""
        hashed, name = _name("key", key, MAX_TARGET)
        return self._entry[hashed] + name, self._load_lock[hashed] + name

    def tag_token(self, tag: Identity) -> Address:
        """Where the token of ``tag`` is."""
        hashed, name = _name("tag", tag, MAX_TAG)
        token = self._tag_token[hashed] + name
        return token, token

    def namespace_token(self) -> Address:
        """All copies of the namespace's token, one on each node: for writes."""
        return None, self._namespace_token

    def watermark(self, beside: Address = (None, b"")) -> Address:
        """The copy of the watermark on the node of ``beside``, or all, for writes."""
        return beside[0], self._watermark

    def targets(self, intents: Sequence[InvalidationIntent]) -> list[Address]:
        """As :meth:`target`, of each: a worker has one for every row it carries."""
        if isinstance(intents, EntityIntents):
            names, values = intents.names, intents.values
        else:
            entities = [each for each in intents if each[2] is not None]
            names = [name for _, _, name in entities]  # type: ignore[misc]
            values = [value for _, value, _ in entities]  # type: ignore[misc]
        tokens = _plain_tokens(self._tag_token[0], names, values)
        if len(tokens) == len(intents) and all(tokens):
            return list(zip(tokens, tokens))  # type: ignore[arg-type]
        left = iter(tokens)
        addresses: list[Address] = []
        for intent in intents:
            token = None if intent[2] is None else next(left)
            if token is None:
                addresses.append(self.target(*intent.to_cache_invalidation()))
            else:
                addresses.append((token, token))
        return addresses

    def target(self, kind: str, value: str | None) -> Address:
        """Where the token is that an invalidation concerns, by its kind and value."""
        if value is None:
            return self.namespace_token()
        return self.key_token(value) if kind == "key" else self.tag_token(value)

    def __repr__(self) -> str:
        return f"Keyspace(ring={self.ring!r}, namespace={self.namespace!r})"


def _plain_tokens(
    prefix: bytes, names: Sequence[str], values: Sequence[str]
) -> Sequence[bytes | None]:
    """Return the keys of the tokens of entities' tags, each made of two names.

    :return: None for one whose names cannot stand there as they are.
    """
    # All at once, which takes a third of the time: most rows of a worker are such.
    count = len(names)
    woven = [":"] * (4 * count)
    woven[0::4], woven[2::4], woven[3::4] = names, values, ["\n"] * count
    text = "".join(woven[:-1]).encode("utf-8", "surrogatepass")
    if (
        count
        and text.translate(None, _ENTITY_BYTES) == b"\n" * (count - 1)
        and text.count(b":") == count
    ):
        tokens = (prefix + text.replace(b"\n", b"\n" + prefix)).split(b"\n")
        if max(map(len, tokens)) <= len(prefix) + MAX_PLAIN_NAME:
            return tokens
    tags = [f"{name}:{value}" for name, value in zip(names, values)]
    return [
        prefix + tag.encode("ascii") if _plain_entity(tag) else None for tag in tags
    ]


def _name(field: str, name: Identity, maximum: int) -> tuple[bool, bytes]:
    """Tell whether ``name`` must be hashed, and its bytes in a physical key."""
    # Text is checked below where it is not plain.
    text = name if type(name) is str else identity_text(field, name)
    if (
        0 < len(text) <= MAX_PLAIN_NAME
        and text.isascii()
        and text.isprintable()
        and " " not in text
    ):
        return False, text.encode("ascii")
    text = checked_text(field, text, maximum=maximum)
    return True, sha256(text.encode("utf-8")).hexdigest().encode("ascii")

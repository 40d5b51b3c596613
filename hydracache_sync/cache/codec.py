"""From values to entries and back, for values that need no code to be read.

A value comes back equal and of the same types, or it is refused when it is stored.
Whatever is found in place of an entry is a miss and never an exception. What a cache
needs of a codec is the two methods of :class:`Codec`; others, which sign, are in
:mod:`hydracache_sync.cache.signed` and :mod:`hydracache_sync.cache.signed_pickle`.
"""

from __future__ import annotations

from typing import Any, Sequence

from hydracache_sync.cache.entry_format import pack, unpack
from hydracache_sync.cache.json_text import JsonText

#: How to read a payload. A number is never given a second meaning: older entries and
#: processes of another version are around.
#: 6 was a signed pickle that did not know its place. A PICKLE is found in nothing but
#: a SIGNED one.
BYTES, TEXT, JSON, NONE, WIDE_JSON, _, SIGNED, PICKLE = range(1, 9)

#: Given back by ``decode``, since None is a value.
MISS: Any = object()


class Codec:
    """Keeps ``bytes``, ``str``, None, and what JSON keeps, under the tokens given.

    JSON keeps ``bool``, ``int``, finite ``float``, and ``list`` and ``dict`` of these
    with ``str`` keys. Uses orjson where it is installed (extra ``orjson``); processes
    with and without it read each other's entries. Immutable, safe to share.

    :param use_orjson: for tests; None for "if it is installed".
    """

    def __init__(self, *, use_orjson: bool | None = None) -> None:
        self._json = JsonText(use_orjson=use_orjson)

    def encode(
        self, value: object, token_prefix: bytes, soft_ms: int = 0, name: bytes = b""
    ) -> bytes:
        """Pack ``value`` so that :meth:`decode` gives back its equal, types included.

        :param token_prefix: of the tokens that it was loaded under, see
            ``entry_format.token_prefix_of``.
        :param soft_ms: as ``entry.pack`` has it.
        :param name: the entry's name in the store, for codecs that sign it.
        :raises TypeError: the value, or something in it, is of another type or of a
            subclass, which would come back as something else; the message names it.
        :raises ValueError: a number is not finite, or the value holds itself, is nested
            too deeply, or has an integer too long for text.
        """
        kind = type(value)
        if kind is bytes:
            assert isinstance(value, bytes)
            return pack(token_prefix, BYTES, value, soft_ms)
        if kind is str:
            assert isinstance(value, str)
            return pack(
                token_prefix, TEXT, value.encode("utf-8", "surrogatepass"), soft_ms
            )
        if value is None:
            return pack(token_prefix, NONE, b"", soft_ms)
        text, wide = self._json.dump(value)
        return pack(token_prefix, WIDE_JSON if wide else JSON, text, soft_ms)

    def decode(
        self,
        entry: bytes | None,
        digest: bytes,
        tokens: Sequence[bytes | None],
        name: bytes = b"",
    ) -> Any:
        """Return the value of ``entry`` if it rests on these, else :data:`MISS`.

        :param digest: of the tags, see ``entry.tag_digest``.
        :param tokens: as they are in the store now, None where there is none.
        :param name: as :meth:`encode` was given it.
        """
        found = unpack(entry, digest, tokens)
        if found is None:
            return MISS
        form, _, payload = found
        if form == BYTES:
            return payload
        try:
            if form == JSON:
                return self._json.load(payload, False)
            if form == TEXT:
                return payload.decode("utf-8", "surrogatepass")
            if form == WIDE_JSON:
                return self._json.load(payload, True)
        except (ValueError, RecursionError):
            # Deeper or longer than this process's limits, or not written by us.
            return MISS
        if form == NONE and not payload:
            return None
        return MISS

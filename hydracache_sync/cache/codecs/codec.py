"""From values to entries and back, for values that need no code to be read.

A value comes back equal and of the same types, or it is refused when it is stored. What
JSON keeps is JSON, and what it would change is ``typed``.
Whatever is found in place of an entry is a miss and never an exception. What a cache
needs of a codec is the two methods of :class:`Codec`; others, which sign, are in
:mod:`hydracache_sync.cache.codecs.signed`.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any, Sequence

from hydracache_sync.cache.codecs.compression import (
    AUTO,
    COMPRESSED,
    COMPRESSED_ZSTD,
    Compression,
)
from hydracache_sync.cache.codecs.json_text import JsonText
from hydracache_sync.cache.entry_format import unpack

#: How to read a payload. A number is never given a second meaning: older entries and
#: processes of another version are around.
#: 6 was a signed pickle that did not know its place. A PICKLE is found in nothing but
#: a SIGNED one. 10 and 11 are COMPRESSED and COMPRESSED_ZSTD.
BYTES, TEXT, JSON, NONE, WIDE_JSON, _, SIGNED, PICKLE, TYPED = range(1, 10)

_COMPRESSED = frozenset((COMPRESSED, COMPRESSED_ZSTD))

#: Given back by ``decode``, since None is a value.
MISS: Any = object()


@lru_cache(maxsize=None)
def _typed() -> ModuleType:
    # Here and not above: a program whose values are all JSON's need not have it loaded.
    from hydracache_sync.cache.codecs import typed

    return typed


class Codec:
    """Keeps the values that apps have, under the tokens given.

    These are None, ``bool``, ``int``, ``float`` but NaN, ``str``, ``bytes``,
    ``Decimal`` but NaN, ``datetime``, ``date``, ``time``, ``timedelta``, ``UUID``,
    objects of classes given to :func:`~hydracache_sync.cacheable`, and ``tuple``,
    ``list``, ``dict``, ``set`` and ``frozenset`` of these. What JSON keeps is written
    as JSON, by orjson where it is installed (extra ``orjson``); processes with and
    without it read each other's entries. Immutable, safe to share.

    :param json_only: keep ``bytes``, ``str``, None, and what JSON keeps: ``bool``,
        ``int``, finite ``float``, and ``list`` and ``dict`` of these with ``str`` keys.
        Entries with anything else are a miss.
    :param compress_over: bytes of a payload over which it is compressed, where that
        makes it smaller; None for never. Either is read, whatever this says.
    :param compression: ``zlib``; ``zstd``, which needs the extra ``zstd``; or ``auto``,
        zstandard where it is installed and else zlib. Both are read, whatever this
        says. An entry by zstandard is a miss where it is not installed.
    :param use_orjson: for tests; None for "if it is installed".
    :ivar unreadable: counts those misses, of all caches that have this codec.
    :raises ConfigurationError: ``compress_over`` is no number of bytes,
        ``compression`` none of the three, or zstandard missing.
    """

    def __init__(
        self,
        *,
        json_only: bool = False,
        compress_over: int | None = None,
        compression: str = AUTO,
        use_orjson: bool | None = None,
    ) -> None:
        self._json_only = json_only
        self._compression = Compression(compress_over, compression)
        self.unreadable = self._compression.unreadable
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
        :raises ValueError: a number is NaN, or not finite in JSON alone; or the value
            holds itself, is nested too deeply, or has an integer too long for text.
        """
        form, payload = self._payload(value)
        return self._compression.pack(token_prefix, form, payload, soft_ms)

    def _payload(self, value: object) -> tuple[int, bytes]:
        kind = type(value)
        if kind is bytes:
            assert isinstance(value, bytes)
            return BYTES, value
        if kind is str:
            assert isinstance(value, str)
            return TEXT, value.encode("utf-8", "surrogatepass")
        if value is None:
            return NONE, b""
        try:
            text, wide = self._json.dump(value)
        except (TypeError, ValueError):
            if self._json_only:
                raise
            return TYPED, _typed().dump(value)
        return WIDE_JSON if wide else JSON, text

    def decode(
        self,
        entry: bytes | None,
        digest: bytes,
        tokens: Sequence[bytes | None],
        name: bytes = b"",
    ) -> Any:
        """Return the value of ``entry`` if it rests on these, else ``MISS``.

        :param digest: of the tags, see ``entry.tag_digest``.
        :param tokens: as they are in the store now, None where there is none.
        :param name: as :meth:`encode` was given it.
        """
        found = unpack(entry, digest, tokens)
        if found is None:
            return MISS
        form, _, payload = found
        try:
            if form in _COMPRESSED:
                form, payload = self._compression.expanded(form, payload)
            if form == JSON:
                return self._json.load(payload, False)
            if form == BYTES:
                return payload
            if form == TEXT:
                return payload.decode("utf-8", "surrogatepass")
            if form == WIDE_JSON:
                return self._json.load(payload, True)
            if form == TYPED and not self._json_only:
                return _typed().load(payload)
        except (ValueError, RecursionError):
            # Deeper or longer than this process's limits, compressed by a library that
            # it has not got, or not written by us.
            return MISS
        if form == NONE and not payload:
            return None
        return MISS

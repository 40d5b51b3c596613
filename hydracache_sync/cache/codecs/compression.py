"""Payloads made smaller, and what is found in their place kept from becoming huge.

By zstandard where it is installed, else by zlib. The form of an entry names which, so
that a process reads both whatever it writes.
"""

from __future__ import annotations

import zlib
from types import ModuleType

from hydracache_sync.cache.diagnostics import Counter
from hydracache_sync.cache.entry_format import pack
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: How an entry names what made it smaller; two of the forms that ``codec`` lists.
COMPRESSED, COMPRESSED_ZSTD = 10, 11

AUTO, ZLIB, ZSTD = "auto", "zlib", "zstd"

#: Bytes that a payload may have unpacked. A store's item of 1 MiB could be made to
#: unpack to a gigabyte; what is larger than this is stored as it is.
LARGEST = 64 * 1024 * 1024

#: The fastest: texts become a third to a fifth, whatever the level.
_ZLIB_LEVEL = 1

#: The library's default: half of zlib's size for a page, in about the same time.
_ZSTD_LEVEL = 3

INSTALL = "zstandard is missing: install hydracache_sync with its extra 'zstd'"


def zstandard_or_none() -> ModuleType | None:
    """Return the library, imported when it is first needed; None if it is missing."""
    try:
        import zstandard
    except ImportError:
        # An extra that this process has not got; the caller says so where it matters.
        return None
    library: ModuleType = zstandard  # of no type where it is not installed
    return library


class Compression:
    """How one codec makes payloads smaller, and expands what it finds.

    Safe for threads and forks.

    :param over: bytes of a payload over which it is made smaller; None for never.
    :param method: ``auto``, zstandard where it is installed and else zlib; ``zlib``; or
        ``zstd``.
    :ivar unreadable: counts payloads that this process has no library for.
    :raises ConfigurationError: ``over`` is no number of bytes, ``method`` is none of
        the three, or zstandard is not installed and asked for.
    """

    def __init__(self, over: int | None = None, method: str = AUTO) -> None:
        if over is not None and (type(over) is not int or not 0 <= over <= LARGEST):
            raise ConfigurationError(
                f"compress_over must be None or bytes from 0 to {LARGEST}, not {over!r}"
            )
        if method not in (AUTO, ZLIB, ZSTD):
            raise ConfigurationError(
                f"compression must be {AUTO!r}, {ZLIB!r} or {ZSTD!r}, not {method!r}"
            )
        self._limit = LARGEST if over is None else over
        self._by_zstd = False
        if method == ZSTD or (method == AUTO and over is not None):
            self._by_zstd = zstandard_or_none() is not None
        if method == ZSTD and not self._by_zstd:
            raise ConfigurationError(INSTALL)
        self.unreadable = Counter()
        self._is_told = False

    def pack(
        self, token_prefix: bytes, form: int, payload: bytes, soft_ms: int
    ) -> bytes:
        """Make an entry as ``entry_format.pack``, of a smaller payload if it can be."""
        if self._limit < len(payload) < LARGEST:
            # The inner form is the first byte, and is not compressed.
            smaller = bytes([form])
            if self._by_zstd:
                outer = COMPRESSED_ZSTD
                smaller += _packed_by_zstd(payload)
            else:
                outer = COMPRESSED
                smaller += zlib.compress(payload, _ZLIB_LEVEL)
            if len(smaller) < len(payload):
                form, payload = outer, smaller
        return pack(token_prefix, form, payload, soft_ms)

    def expanded(self, form: int, payload: bytes) -> tuple[int, bytes]:
        """Return the form and the payload that :meth:`pack` was given.

        :param form: of an entry; one that is not compressed stays as it is.
        :raises ValueError: it is no result of :meth:`pack`, would have more than
            ``LARGEST`` bytes, or needs a library that is not installed here.
        """
        inner, packed = payload[:1], payload[1:]
        if form == COMPRESSED:
            payload = _expanded_by_zlib(packed)
            return inner[0], payload
        if form != COMPRESSED_ZSTD:
            return form, payload
        library = zstandard_or_none()
        if library is not None:
            payload = _expanded_by_zstd(library, packed)
            return inner[0], payload
        self.unreadable.add()
        if not self._is_told:
            self._is_told = True
            logger.warning(
                "other processes compress cached values by zstandard, and each of these"
                " values is a miss here; %s, or have all of them write by zlib, with"
                " HYDRACACHE_COMPRESSION=zlib",
                INSTALL,
            )
        raise ValueError(INSTALL)


def _expanded_by_zlib(packed: bytes) -> bytes:
    reader = zlib.decompressobj()
    try:
        payload = reader.decompress(packed, LARGEST)
    except zlib.error as exc:
        raise ValueError(str(exc)) from exc
    if not reader.eof or reader.unused_data:
        raise ValueError("cut short, too large, or with something behind it")
    return payload


def _packed_by_zstd(payload: bytes) -> bytes:
    import zstandard

    # One for each call: they are not safe for threads, and cost some 10 us.
    packed: bytes = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(payload)
    return packed


def _expanded_by_zstd(library: ModuleType, packed: bytes) -> bytes:
    try:
        # What a frame says of its size is only a claim. The reader makes room for that
        # many bytes and writes no further, so the claim is what has to be small. One
        # without a claim is none of ours: it would be expanded without an end.
        claimed = library.get_frame_parameters(packed).content_size
        if not 0 < claimed <= LARGEST:
            raise ValueError(f"{claimed} bytes, of {LARGEST} at most")
        reader = library.ZstdDecompressor(max_window_size=LARGEST)
        payload: bytes = reader.decompress(packed, allow_extra_data=False)
    except library.ZstdError as exc:
        raise ValueError(str(exc)) from exc
    return payload

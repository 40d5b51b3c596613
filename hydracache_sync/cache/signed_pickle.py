"""Any value that pickle takes, signed, because to unpickle is to run what is found.

Nothing is unpickled whose signature was not made with a key of ours, see ``signed``.
"""

from __future__ import annotations

import pickle
from typing import Any, Sequence, Union

from hydracache_sync.cache.codec import MISS, PICKLE
from hydracache_sync.cache.compression import AUTO, Compression
from hydracache_sync.cache.entry_format import unpack
from hydracache_sync.cache.signed import SignedCodec

#: What every Python that runs this library knows.
_PROTOCOL = 5


class PickleCodec(SignedCodec):
    """Keeps whatever ``pickle`` keeps, under an HMAC-SHA256. In place of ``Codec``.

    As ``SignedCodec``: its signature keeps out code.

    The caller has to keep track of changes of a class. If it is gone, or raises while
    it is unpickled, the entry is a miss. If its meaning has changed, the entry is still
    a hit.

    :param key: as ``SignedCodec`` has it.
    :param compress_over: as ``Codec`` has it.
    :param compression: as ``Codec`` has it.
    :raises ConfigurationError: no key, or one that is too short or no ``bytes``; or
        as ``Codec`` for the other two.
    """

    def __init__(
        self,
        *,
        key: Union[bytes, Sequence[bytes]],
        compress_over: int | None = None,
        compression: str = AUTO,
    ) -> None:
        pickles = _Pickles(Compression(compress_over, compression))
        super().__init__(key=key, codec=pickles)

    def __repr__(self) -> str:
        return f"PickleCodec(key=<{len(self._keys)}>)"


class _Pickles:
    """Pickles without a signature: never to be read from a store as they are."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression
        self.unreadable = compression.unreadable

    def encode(
        self, value: object, token_prefix: bytes, soft_ms: int = 0, name: bytes = b""
    ) -> bytes:
        """Pack ``value``.

        :raises TypeError: it cannot be pickled.
        :raises ValueError: it is nested too deeply.
        """
        kind = type(value).__name__
        try:
            data = pickle.dumps(value, _PROTOCOL)
        except RecursionError as exc:
            raise ValueError(
                f"cannot cache this {kind}: it is nested too deeply"
            ) from exc
        except (pickle.PicklingError, AttributeError, TypeError) as exc:
            raise TypeError(f"cannot cache this {kind}: {exc}") from exc
        return self._compression.pack(token_prefix, PICKLE, data, soft_ms)

    def decode(
        self,
        entry: bytes | None,
        digest: bytes,
        tokens: Sequence[bytes | None],
        name: bytes = b"",
    ) -> Any:
        found = unpack(entry, digest, tokens)
        if found is None:
            return MISS
        form, _, payload = found
        try:
            form, payload = self._compression.expanded(form, payload)
            return pickle.loads(payload) if form == PICKLE else MISS
        except Exception:
            # It is ours, but of a class that this process has not, or has otherwise:
            # anything can come out of its code. Loaded again.
            return MISS

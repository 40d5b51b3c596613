"""Any value that pickle takes, signed, because to unpickle is to run what is found.

Nothing is unpickled whose signature was not made with a key of ours, see ``signed``.
"""

from __future__ import annotations

import pickle
from typing import Any, Sequence, Union

from hydracache_sync.cache.codec import MISS, PICKLE
from hydracache_sync.cache.entry_format import pack, unpack
from hydracache_sync.cache.signed import SignedCodec

#: What every Python that runs this library knows.
_PROTOCOL = 5


class PickleCodec(SignedCodec):
    """Keeps whatever ``pickle`` keeps, under an HMAC-SHA256. In place of ``Codec``.

    As ``SignedCodec``: its signature keeps out code.

    What a class was when its object was stored is the caller's to keep track of: one
    that is gone or raises while it is unpickled is a miss, one that has changed its
    meaning is not.

    :param key: as ``SignedCodec`` has it.
    :raises ConfigurationError: no key, or one that is too short or no ``bytes``.
    """

    def __init__(self, *, key: Union[bytes, Sequence[bytes]]) -> None:
        super().__init__(key=key, codec=_Pickles())

    def __repr__(self) -> str:
        return f"PickleCodec(key=<{len(self._keys)}>)"


class _Pickles:
    """Pickles without a signature: never to be read from a store as they are."""

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
        return pack(token_prefix, PICKLE, data, soft_ms)

    def decode(
        self,
        entry: bytes | None,
        digest: bytes,
        tokens: Sequence[bytes | None],
        name: bytes = b"",
    ) -> Any:
        found = unpack(entry, digest, tokens)
        if found is None or found.form != PICKLE:
            return MISS
        try:
            return pickle.loads(found.payload)
        except Exception:
            # It is ours, but of a class that this process has not, or has otherwise:
            # anything can come out of its code. Loaded anew.
            return MISS

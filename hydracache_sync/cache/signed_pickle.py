"""Any value that pickle takes, signed, because to unpickle is to run what is found.

memcached has no users and mostly no password: whoever reaches it can write there. So
nothing is unpickled whose signature was not made with a key of ours.
"""

from __future__ import annotations

import hmac
import pickle
from typing import Any, Sequence, Union

from hydracache_sync.cache.codec import MISS, SIGNED_PICKLE
from hydracache_sync.cache.entry import basis_of, pack, unpack
from hydracache_sync.errors import ConfigurationError

#: Bytes of a key below which guessing it is thinkable.
MIN_KEY_SIZE = 16

#: What every Python that runs this library knows.
_PROTOCOL = 5

_HASH = "sha256"
_SIGNATURE_SIZE = 32

#: Keeps a signature made with the same key for another purpose from being one here.
_PURPOSE = b"hydracache-signed-pickle-v1"


class PickleCodec:
    """Keeps whatever ``pickle`` keeps, under an HMAC-SHA256. In place of ``Codec``.

    The signature covers the tokens, the soft expiry and the pickle. It keeps out code;
    who can write to memcached can still remove entries, or put back an old one
    together with its tokens. An entry without a good signature is a miss, and so are
    entries of the other codec: a namespace changes its codec at the price of its cache.

    What a class was when its object was stored is the caller's to keep track of: one
    that is gone or raises while it is unpickled is a miss, one that has changed its
    meaning is not.

    :param key: secret of 16 bytes or more, or several of them: the first signs, all
        are accepted. To change keys, first add the new one last everywhere, then move
        it to the front, then take the old one away.
    :raises ConfigurationError: no key, or one that is too short or no ``bytes``.
    """

    def __init__(self, *, key: Union[bytes, Sequence[bytes]]) -> None:
        keys = [key] if isinstance(key, (bytes, str)) else list(key)
        if not keys:
            raise ConfigurationError("key holds no key to sign pickles with")
        for each in keys:
            if not isinstance(each, bytes):
                raise ConfigurationError(
                    f"key must be bytes, or several, not {type(each).__name__}"
                )
            if len(each) < MIN_KEY_SIZE:
                raise ConfigurationError(
                    f"key has {len(each)} bytes, and must have {MIN_KEY_SIZE} or more"
                )
        self._keys = keys

    def encode(self, value: object, basis: bytes, soft_ms: int = 0) -> bytes:
        """Pack ``value``, signed; see ``Codec.encode``.

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
        signature = _sign(self._keys[0], basis, soft_ms, data)
        return pack(basis, SIGNED_PICKLE, signature + data, soft_ms)

    def decode(
        self, entry: bytes | None, digest: bytes, tokens: Sequence[bytes | None]
    ) -> Any:
        """Return the value of ``entry`` if it is ours and rests on these, else MISS."""
        found = unpack(entry, digest, tokens)
        if found is None or found.form != SIGNED_PICKLE:
            return MISS
        signature = found.payload[:_SIGNATURE_SIZE]
        data = found.payload[_SIGNATURE_SIZE:]
        basis = basis_of(digest, tokens)  # type: ignore[arg-type]
        for key in self._keys:
            if hmac.compare_digest(signature, _sign(key, basis, found.soft_ms, data)):
                break
        else:
            return MISS
        try:
            return pickle.loads(data)
        except Exception:
            # It is ours, but of a class that this process has not, or has otherwise:
            # anything can come out of its code. Loaded anew.
            return MISS

    def __repr__(self) -> str:
        return f"PickleCodec(key=<{len(self._keys)}>)"


def _sign(key: bytes, basis: bytes, soft_ms: int, data: bytes) -> bytes:
    # Of known lengths up to the basis, whose own is said: nothing can be moved from
    # one part to the next.
    lengths = len(basis).to_bytes(8, "big") + soft_ms.to_bytes(8, "big")
    return hmac.digest(key, b"".join([_PURPOSE, lengths, basis, data]), _HASH)

"""Entries under a signature: what memcached gives back is what one of us stored there.

memcached has no users and mostly no password: each client that finds it can write. If a
signature covered the value alone, a writer could still move an entry to another key,
namespace or ring. So it covers the entry's name in the store as well.

To unpickle is to run what is found. So of pickles, which keep any value, nothing is
unpickled whose signature was not made with a key of ours.
"""

from __future__ import annotations

import hmac
import pickle
from typing import Any, Protocol, Sequence, Union

from hydracache_sync.cache.codecs.codec import MISS, PICKLE, SIGNED, Codec
from hydracache_sync.cache.codecs.compression import AUTO, Compression
from hydracache_sync.cache.diagnostics import Counter
from hydracache_sync.cache.entry_format import pack, token_prefix_of, unpack
from hydracache_sync.errors import ConfigurationError

#: Bytes of a key below which guessing it is thinkable.
MIN_KEY_SIZE = 16

_HASH = "sha256"
_SIGNATURE_SIZE = 32

#: Keeps a signature made with the same key for another purpose from being one here.
_PURPOSE = b"hydracache-signed-v2"


class InnerCodec(Protocol):
    """What is signed: entries of a codec that signs nothing."""

    def encode(
        self, value: object, token_prefix: bytes, soft_ms: int = 0, name: bytes = b""
    ) -> bytes: ...

    def decode(
        self,
        entry: bytes | None,
        digest: bytes,
        tokens: Sequence[bytes | None],
        name: bytes = b"",
    ) -> Any: ...


def unreadable_of(codec: InnerCodec) -> Counter:
    """Return what counts the entries that ``codec`` lacks a library for."""
    # A codec of a user's own may count none.
    found = getattr(codec, "unreadable", None)
    return found if isinstance(found, Counter) else Counter()


class SignedCodec:
    """Keeps what ``Codec`` keeps, under an HMAC-SHA256. In place of ``Codec``.

    The signature covers the entry's key, namespace and ring, its tags and tokens, its
    soft expiry and the value. Who can write to memcached can still remove entries, or
    put back an old one together with its tokens. An entry without a good signature is a
    miss, and so are entries of another codec: a namespace changes its codec at the
    price of its cache. Costs some microseconds a read. Immutable, safe to share.

    :param key: secret of 16 bytes or more, or several of them: the first signs, all
        are accepted. To change keys, first add the new one last everywhere, then move
        it to the front, then take the old one away.
    :param codec: makes the entries that are signed; ``Codec()`` by default.
    :ivar unreadable: as ``codec`` counts them.
    :raises ConfigurationError: no key, or one that is too short or no ``bytes``.
    """

    def __init__(
        self,
        *,
        key: Union[bytes, Sequence[bytes]],
        codec: InnerCodec | None = None,
    ) -> None:
        keys = [key] if isinstance(key, (bytes, str)) else list(key)
        if not keys:
            raise ConfigurationError("key holds no key to sign with")
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
        self._codec: InnerCodec = Codec() if codec is None else codec
        self.unreadable = unreadable_of(self._codec)

    def encode(
        self, value: object, token_prefix: bytes, soft_ms: int = 0, name: bytes = b""
    ) -> bytes:
        """Pack ``value``, signed; see ``Codec.encode``."""
        data = self._codec.encode(value, token_prefix)[len(token_prefix) :]
        signature = _sign(self._keys[0], name, token_prefix, soft_ms, data)
        return pack(token_prefix, SIGNED, signature + data, soft_ms)

    def decode(
        self,
        entry: bytes | None,
        digest: bytes,
        tokens: Sequence[bytes | None],
        name: bytes = b"",
    ) -> Any:
        """Return the value of ``entry`` if it is ours and rests on these, else MISS."""
        found = unpack(entry, digest, tokens)
        if found is None:
            return MISS
        form, soft_ms, payload = found
        if form != SIGNED:
            return MISS
        signature, data = payload[:_SIGNATURE_SIZE], payload[_SIGNATURE_SIZE:]
        token_prefix = token_prefix_of(digest, tokens)  # type: ignore[arg-type]
        for key in self._keys:
            wanted = _sign(key, name, token_prefix, soft_ms, data)
            if hmac.compare_digest(signature, wanted):
                return self._codec.decode(token_prefix + data, digest, tokens)
        return MISS

    def __repr__(self) -> str:
        return f"SignedCodec(key=<{len(self._keys)}>)"


def _sign(
    key: bytes, name: bytes, token_prefix: bytes, soft_ms: int, data: bytes
) -> bytes:
    # Of known lengths up to the name, whose own is said: nothing can be moved from one
    # part to the next.
    lengths = b"".join(
        number.to_bytes(8, "big") for number in (len(name), len(token_prefix), soft_ms)
    )
    return hmac.digest(
        key, b"".join([_PURPOSE, lengths, name, token_prefix, data]), _HASH
    )


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

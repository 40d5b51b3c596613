"""The store interface: what ``TaggedCache`` and the appliers ask of a memory for bytes.

The docstrings are the contract; ``tests/support/store_contract.py`` runs it against
every store. A store keeps bytes under addresses and may lose them at any time. It
never gives back bytes older than a write it has acknowledged, and it never claims an
acknowledgement that it has not got.
"""

from __future__ import annotations

import math
from math import ceil
from typing import (
    Any,
    Callable,
    Dict,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

from hydracache_sync.cache.keyspace import Address, checked_ring
from hydracache_sync.durations import checked_seconds
from hydracache_sync.errors import ApplyError, ApplyPermanent, ApplyUnavailable

#: One thing to store: where, what, and for how many seconds (see ``whole_seconds``).
Write = Tuple[Address, bytes, Optional[float]]

#: In place of the seconds of a ``set``: gone at once. So a write and the removal of
#: something else on the same node are one round trip.
GONE = -math.inf

#: Address of what every node keeps a copy of, for :meth:`CacheStore.nodes_of`.
EVERY_NODE: Address = (None, b"")

#: What was *not* acknowledged, and why. Empty: everything was.
Failures = Dict[Address, ApplyError]

S = TypeVar("S", bound="CacheStore")


#: One place where the value of an address is kept: the address, and where, as the store
#: knows it. An address on every node has many copies. A plain tuple: a worker has one
#: for every row that it carries.
Copy = Tuple[Address, Any]

#: Makes the values to be stored, and takes their stamps. Gets copies and what they
#: hold; None in place of a value leaves a copy as it is. Asks nothing of the store.
Maker = Callable[[Sequence[Copy], Sequence[bytes]], Sequence[Optional[bytes]]]


class CacheStore:
    """Bytes under addresses, on one node or on several. Safe for threads.

    Reads raise when they do not know; writes return what was not acknowledged, so that
    one bad address does not hide what happened to the others.

    No call takes longer than the store's stated time limits. Constructors do not
    connect.

    :param ring: id of this arrangement of nodes, part of every key. It must be new at
        each change of the nodes, also when going back to an earlier arrangement, since
        nodes that come back hold what they held.
    :raises TypeError, ValueError: in all methods, for a value that is not ``bytes``, a
        TTL that :func:`whole_seconds` refuses; nothing was sent.
    """

    def __init__(self, ring: str) -> None:
        self.ring = checked_ring(ring)

    def get_many(self, addresses: Sequence[Address]) -> list[bytes | None]:
        """Return what is stored at each address, None where nothing is.

        One round trip time, whatever the number of nodes (up to 100 addresses a node).

        :raises ApplyUnavailable: a node did not answer properly; nothing is known.
        """
        raise NotImplementedError

    def add_many(self, writes: Sequence[Write]) -> list[bytes | None]:
        """Store where nothing is stored yet, and return what is there afterwards.

        Storing and reading back take one round trip together. The own value comes back
        where it was stored, another's where that was first, None where the answer is
        already gone again.

        :param writes: with values that differ from every other caller's, if the caller
            wants to know whether it was its own.
        :raises ApplyUnavailable: some node did not answer properly. Any of the values
            may have been stored, also in the next case.
        :raises ApplyPermanent: a value is over the item limit, or a key is none.
        """
        raise NotImplementedError

    def set_many(self, writes: Sequence[Write]) -> Failures:
        """Store, replacing what is there, and return what was not acknowledged.

        An address that failed may hold the new value, the old one, or none. A write
        with ``GONE`` for its seconds removes.

        :return: ``ApplyUnavailable`` where trying again can help, ``ApplyPermanent``
            where it cannot: the value is over the item limit, or the key is none.
        """
        raise NotImplementedError

    #: Seconds for which a write goes on that others keep getting ahead of.
    patience: float = 1.0

    def copies(self, addresses: Sequence[Address]) -> list[Copy]:
        """Return every copy of what is kept at ``addresses``, in their order."""
        raise NotImplementedError

    def replace_many(
        self, copies: Sequence[Copy], placeholders: Sequence[bytes], make: Maker
    ) -> list[bool | ApplyError]:
        """Replace what each copy holds, unless another is faster: two round trips.

        The first reads every copy, and adds its placeholder where nothing is. Then
        ``make`` makes the new values. The second stores them on condition that each
        copy still is the version that was read. Each goes to all nodes at once, and is
        repeated for each 64 KiB that a node is sent.

        A write that is carried out late, also after this call has failed, changes
        nothing, unless nothing has changed since its reading.

        :param placeholders: a value for each copy, never used before: it may be stored
            long after this call has failed. All have one length.
        :param make: may be called several times, each time for some of the copies. All
            that it makes at once has one length.
        :return: in the order of ``copies``: True, as ``make`` said; False, another
            write was faster, or what was read is gone; an error, not acknowledged.
        """
        raise NotImplementedError

    def delete_many(self, addresses: Sequence[Address]) -> Failures:
        """Remove, and return what was not acknowledged. Removing nothing is success.

        Takes an application's own keys too (``app_address``).

        :return: as :meth:`set_many`.
        """
        raise NotImplementedError

    def nodes_of(self, address: Address) -> list[str]:
        """Return the names of the nodes that keep ``address``: one, or all of them.

        The same names are in errors and in :meth:`ping`. Empty: there is no telling.
        """
        return []

    def circuits(self) -> dict[str, bool | None]:
        """Return the nodes whose failures open a circuit breaker, and if it is open.

        As this process has it; asks no node. None for one that it has not asked yet.
        """
        return {}

    def ping(self) -> dict[str, str | ApplyUnavailable]:
        """Ask every node for its version; a node that fails has its error instead."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up connections. The store stays usable and connects again if used."""
        raise NotImplementedError

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def note(failures: Failures, address: Address, error: ApplyError) -> None:
    """Add a failure; of two for one address, keep the one that trying again can help.

    A flush fails once for each node that lacks it. While one of them is away nothing
    about it is final.
    """
    before = failures.get(address)
    if before is None or isinstance(before, ApplyPermanent):
        failures[address] = error


def whole_seconds(ttl: Union[float, None]) -> int:
    """Return a TTL in the whole seconds that stores keep, 0 for no expiry.

    :param ttl: seconds, rounded up; None and 0 mean no expiry.
    :raises TypeError: not a number.
    :raises ValueError: negative or not finite.
    """
    if ttl is None:
        return 0
    return ceil(checked_seconds("ttl", ttl))


def checked_value(value: object) -> bytes:
    """Return ``value`` if it is ``bytes``, else raise ``TypeError``."""
    if not isinstance(value, bytes):
        raise TypeError(f"a store keeps bytes, not {type(value).__name__}")
    return value

"""Which node of several keeps a key: the same in every process and version.

Keys fall into slots by a checksum, and each slot belongs to the node that wins a
weighted rendezvous for it. So the place of a key follows from the names and the weights
of the nodes alone. It does not depend on their order in the list, the Python, the
machine or which nodes answer now. There is no failover: a key whose node is away has no
other place, because the node would come back with what it held.

pymemcache's own ``RendezvousHash`` knows no weights and takes a key as ``str`` and the
same key as ``bytes`` for two; its hash is computed in Python, once for each node.
"""

from __future__ import annotations

from hashlib import sha256
from math import isfinite, log
from typing import Dict, Generic, Mapping, TypeVar
from zlib import crc32

from hydracache_sync.errors import ConfigurationError

T = TypeVar("T")

#: Slots, a power of two. Three equal nodes get within some 2 % of a third each, and a
#: key costs one checksum however many nodes there are.
SLOTS = 1 << 14

#: What a checksum is cut to; for callers that cannot afford a method call.
SLOT_MASK = SLOTS - 1

#: Bits of the hash that become the number drawn for a node: what a float holds, less
#: one for the half step.
_DRAW_BITS = 52


class Ring(Generic[T]):
    """Members by name, and the one that a key belongs to. Immutable, safe to share.

    :param members: at least one, by the name that places it.
    :param weights: by name, as :func:`checked_weights` returns them.

    :ivar slots: the member of each slot; that of a key is
        ``slots[crc32(key) & SLOT_MASK]``.
    """

    def __init__(self, members: Mapping[str, T], weights: Mapping[str, float]) -> None:
        self.slots: Dict[int, T] = _Slots(members, weights)

    def member(self, key: bytes) -> T:
        """Return the member that ``key`` belongs to."""
        return self.slots[crc32(key) & SLOT_MASK]


class _Slots(Dict[int, T]):
    """Works a slot's owner out when it is first asked for.

    Two threads that ask at once write down the same.
    """

    def __init__(self, members: Mapping[str, T], weights: Mapping[str, float]) -> None:
        super().__init__()
        # The order decides only between equal draws.
        self._members = sorted(members.items())
        self._weights = weights

    def __missing__(self, slot: int) -> T:
        name, owner = min(
            self._members, key=lambda each: _draw(slot, each[0], self._weights[each[0]])
        )
        self[slot] = owner
        return owner


def _draw(slot: int, name: str, weight: float) -> float:
    """What ``name`` draws for ``slot``: an exponential number, the smallest wins.

    The smallest of exponential numbers with rates w1, w2, ... is the first with
    probability w1 / (w1 + w2 + ...), so each member gets what its weight says; and one
    that is added takes slots from the others only, in proportion.

    Source: "Weighted Distributed Hash Tables", Schindelhauer and Schomaker, 2005, the
    logarithmic method.
    """
    digest = sha256(b"%d %b" % (slot, name.encode("utf-8"))).digest()
    bits = int.from_bytes(digest[:8], "big") >> (64 - _DRAW_BITS)
    # In the middle of its step, so never 0 and never 1.
    return -log((bits + 0.5) / (1 << _DRAW_BITS)) / weight


def checked_weight(name: str, weight: object) -> float:
    """Return the weight of the node ``name`` as a float.

    :raises ConfigurationError: not a finite number over 0.
    """
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise ConfigurationError(f"the weight of {name} must be a number: {weight!r}")
    if not isfinite(weight) or weight <= 0:
        raise ConfigurationError(
            f"the weight of {name} must be over 0 and finite, not {weight!r}"
        )
    return float(weight)

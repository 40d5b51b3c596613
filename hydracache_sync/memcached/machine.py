"""Which machine is behind a node's name, by the identity that the machine itself holds.

A name may stand for several memcacheds: a balanced address, a headless service, a name
that moves. What one of them has acknowledged the others still serve. So each memcached
holds a random identity (``keyspace.NODE_IDENTITY``, without expiry), which every new
connection reads with its first answer. What this process knows of a name is kept here.

One machine may change its identity: a restart, ``flush_all`` and an eviction each lead
to a new one. It never takes back an earlier one, since each is random. So an identity
that was there before another belongs to another machine, or to one that has come back
with what it held. Then the name is refused, until its machine has an identity that was
never seen: after ``flush_all`` or a restart, when nothing is left of what it missed.

Knows no connection. What other processes know of the name is not compared.
"""

from __future__ import annotations

import enum
import weakref
from typing import Mapping, NamedTuple

from hydracache_sync.memcached.transport import SeveralMachines

#: Earlier identities that are remembered of a name. A machine that is short of memory
#: has a new one after each eviction, every few minutes at most.
REMEMBERED = 1000


class Met(enum.Enum):
    """What an identity is to what was known before."""

    KNOWN = enum.auto()
    NEW = enum.auto()
    #: Another has come up while the question was under way: it says nothing any more.
    OUTDATED = enum.auto()


class _Known(NamedTuple):
    """What is known. Replaced as a whole, without a lock that could be left locked.

    Of two threads that replace it at once one may win: the other's identity is seen
    again later, and nothing is refused for it.

    :ivar current: the identity; None before the first contact, and while refused.
    :ivar changes: how often it was replaced.
    :ivar earlier: identities that were replaced, oldest first, and by which change.
    """

    current: bytes | None
    changes: int
    earlier: Mapping[bytes, int]

    def replaced_by(self, identity: bytes | None) -> _Known:
        if self.current is None and identity is None:
            return self
        # The first identity counts as well: an answer of a connection that was begun
        # before it is of no use any more.
        changes = self.changes + 1
        earlier = self.earlier
        if self.current is not None:
            earlier = {**earlier, self.current: changes}
            if len(earlier) > REMEMBERED:
                del earlier[next(iter(earlier))]
        return _Known(identity, changes, earlier)


class Machine:
    """What this process knows of the machine behind one name. Safe for threads, forks.

    :ivar current: its identity; None before the first contact, and while it is refused.
    """

    def __init__(self, name: str) -> None:
        self.current: bytes | None = None
        self._name = name
        self._known = _Known(None, 0, {})

    @property
    def changes(self) -> int:
        """How often the identity was replaced. Read it before connecting."""
        return self._known.changes

    def met(self, identity: bytes | None, changes: int) -> Met:
        """Note the identity that a new connection has read.

        :param identity: None if the machine could hold none, which says nothing.
        :param changes: as they were before the connection was begun.
        :raises SeveralMachines: that identity was replaced before.
        """
        known = self._known
        if identity is None or identity == known.current:
            return Met.KNOWN
        replaced_at = known.earlier.get(identity)
        if (known.changes if replaced_at is None else replaced_at) > changes:
            return Met.OUTDATED
        if replaced_at is None:
            self._become(known.replaced_by(identity))
            return Met.NEW
        # No idle connection has no identity, so none is used again.
        self._become(known.replaced_by(None))
        raise SeveralMachines(
            f"connections to {self._name} reach several memcacheds, or one that was"
            " replaced and came back. Name each machine as a node of its own. Empty"
            " (flush_all) one that comes back, since it missed invalidations"
        )

    def _become(self, known: _Known) -> None:
        self._known = known
        self.current = known.current


_machines: weakref.WeakValueDictionary[str, Machine] = weakref.WeakValueDictionary()


def machine_of(name: str) -> Machine:
    """Return what is known of ``name``; the same for all stores of this process."""
    machine = _machines.get(name)
    if machine is None:
        machine = _machines[name] = Machine(name)
    return machine

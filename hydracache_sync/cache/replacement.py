"""A conditional write to several memcached nodes, step by step, with its connections.

Knows nothing of tokens. What it keeps is that a condition is sent on the connection on
which the version was read: a server that is restarted counts its versions from 1 again,
and what the new process calls by the same number is something else.
"""

from __future__ import annotations

from itertools import chain
from time import monotonic
from typing import Callable, Sequence, Tuple

from hydracache_sync.cache import commands
from hydracache_sync.cache.node import Node
from hydracache_sync.cache.store import Copy, Maker
from hydracache_sync.cache.transport import Connection
from hydracache_sync.errors import ApplyError, ApplyUnavailable

#: A node, the connection to it that is in use, and which copies are asked about on it.
_Use = Tuple[Node, Connection, Sequence[int]]


class Replacement:
    """One window of copies on each node. Not for several threads.

    Every step goes to all nodes before it waits for one. A node that fails drops out.

    :param copies: all that are to be replaced, of which windows have the places.
    :param timeout: seconds for the answers to a step once all of it was sent.
    :ivar asked: nodes that were sent a window of ``commands.versions``, in the order of
        the nodes; the caller adds them.
    :ivar outcomes: of each copy; see ``CacheStore.replace_many``.
    """

    def __init__(self, copies: Sequence[Copy], timeout: float) -> None:
        self.asked: list[_Use] = []
        self.outcomes: list[bool | ApplyError] = [False] * len(copies)
        self._copies = copies
        self._timeout = timeout
        # Nodes that have answered, and those that were sent what is to be stored.
        self._ready: list[_Use] = []
        self._told: list[_Use] = []
        # By place: the version that a copy holds, and the command that replaces it.
        self._versions: dict[int, tuple[bytes, int]] = {}
        self._commands: dict[int, bytes] = {}

    def run(self, make: Maker, gave_up: Callable[[Node], None]) -> None:
        """Read, have the values made, store them, and read what became of it.

        Call :meth:`abandon` afterwards, whatever happens.

        :param gave_up: told of each node that does not answer any more.
        """
        self._versions.clear()
        self._commands.clear()
        self._each(self.asked, self._read, gave_up)
        self._make(make)
        self._each(self._ready, self._store, gave_up)
        self._each(self._told, self._settle, gave_up)

    def abandon(self) -> None:
        """Close the connections on which an answer was not read: after an exception."""
        for node, connection, _ in chain(self.asked, self._ready, self._told):
            node.abandon(connection)

    def fail(self, places: Sequence[int], error: ApplyError) -> None:
        """State that ``error`` is what became of these."""
        for place in places:
            self.outcomes[place] = error

    def _each(
        self,
        uses: list[_Use],
        step: Callable[[_Use, "float | None"], bool],
        gave_up: Callable[[Node], None],
    ) -> None:
        due = None
        until = monotonic() + self._timeout
        uses.reverse()
        while uses:
            # First off the list: what was given back must not be closed.
            use = uses.pop()
            try:
                goes_on = step(use, due)
            except ApplyUnavailable as exc:
                self.fail(use[2], exc)
                goes_on = False
            if not goes_on:
                gave_up(use[0])
            due = until

    def _read(self, use: _Use, due: float | None) -> bool:
        node, connection, places = use
        keys = [self._copies[place].address[1] for place in places]
        answers = node.versions(connection, keys, due)
        self._ready.append(use)
        for place, answer in zip(places, answers):
            if isinstance(answer, ApplyError):
                self.outcomes[place] = answer
            elif answer is not None:
                self._versions[place] = answer
        return True

    def _make(self, make: Maker) -> None:
        versions = self._versions
        if not versions:
            return
        copies = [self._copies[place] for place in versions]
        values = make(copies, [value for value, _ in versions.values()])
        for (place, (_, unique)), copy, value in zip(versions.items(), copies, values):
            if value is None:
                self.outcomes[place] = True
            else:
                command = commands.compare_and_set(copy.address[1], unique, value)
                self._commands[place] = command

    def _store(self, use: _Use, _: float | None) -> bool:
        node, connection, places = use
        places = [place for place in places if place in self._commands]
        if places:
            data = b"".join([self._commands[place] for place in places])
            node.tell_more(connection, data, monotonic())
            self._told.append((node, connection, places))
        else:
            node.put_back(connection)
        return True

    def _settle(self, use: _Use, due: float | None) -> bool:
        node, connection, places = use
        failed: dict[int, ApplyError] = {}
        overtaken: dict[int, bytes] = {}
        goes_on = node.acknowledged(
            connection, places, commands.COMPARED, failed, due, overtaken
        )
        for place in places:
            self.outcomes[place] = failed.get(place, place not in overtaken)
        return goes_on

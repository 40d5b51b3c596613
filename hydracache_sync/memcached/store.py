"""The store on one memcached or several. What it promises is in ``CacheStore``.

A call sends to every node that it needs before it reads from the first, so it takes the
time of one round trip however many there are. Which node keeps what is the ring's to
say alone: what a node does not answer is not looked for elsewhere.
"""

from __future__ import annotations

import time
from itertools import repeat
from operator import itemgetter
from time import monotonic
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Sequence,
    Tuple,
    TypeVar,
)
from zlib import crc32

from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.store import (
    CacheStore,
    Copy,
    Failures,
    Maker,
    Write,
    note,
)
from hydracache_sync.durations import checked_seconds
from hydracache_sync.errors import (
    ApplyError,
    ApplyPermanent,
    ApplyUnavailable,
    ConfigurationError,
)
from hydracache_sync.memcached import commands
from hydracache_sync.memcached.commands import KEYS_PER_GET, Window
from hydracache_sync.memcached.handshake import Handshake, login_command
from hydracache_sync.memcached.node import Node
from hydracache_sync.memcached.replacement import Replacement
from hydracache_sync.memcached.replies import MAX_VALUE
from hydracache_sync.memcached.ring import SLOT_MASK, Ring
from hydracache_sync.memcached.server_list import parse_servers, parse_weights
from hydracache_sync.memcached.transport import Connection, Limits, load_client

if TYPE_CHECKING:
    from ssl import SSLContext

T = TypeVar("T")

_physical_key = itemgetter(1)

#: A call may take as many of its timeouts in all, by default.
CALL_TIMEOUTS = 4

#: Seconds for which a node that failed is left alone, at most.
RETRY_AFTER = 2.0

#: Connections of a process to each node.
POOL_SIZE = 16

#: What one node gets of a call: things, and their places in the call.
_Part = Tuple[List[T], List[int]]


class MemcachedStore(CacheStore):
    """Keep bytes in memcached. Safe for threads, and across forks.

    Connects when first used; a process that was forked connects again. Never fails over
    to another node: the node that was left would come back with what it held.

    :param servers: ``"host:port"``, ``"[v6]:port"``, ``"unix:/path"`` or ``"/path"``.
        One or more, in any order. With several, what is stored where follows from their
        names as they stand here: every client of the ring must name them alike
        (``localhost`` is not ``127.0.0.1``).
    :param ring: new at every change of ``servers`` that means other machines or other
        names, and of ``weights``; see ``CacheStore``.
    :param weights: how much a server gets in proportion to the others, 1 where none is
        given: ``{"10.0.0.1:11211": 2}``. The same for every client of the ring.
    :param connect_timeout: seconds to look up a name, and to connect, TLS included.
        Over 0.
    :param timeout: seconds without a byte after which a node counts as away. Over 0.
    :param call_timeout: seconds for one round trip to all nodes, waiting for free
        connections and connecting included, even where bytes keep dripping in; what is
        under way then may take two more ``timeout``. A call makes one round trip for
        each 64 KiB that it writes to a node and each 100 addresses that it reads from
        one. It makes two where it replaces tokens. Default: four times ``timeout``.
    :param retry_after: seconds, at most, for which a node that failed is left alone:
        what needs it fails at once, then one call tries it. It begins with a sixteenth
        and doubles at each failure; 0 for no such pause.
    :param pool_size: connections to each node in each process, 1 or more. With fewer
        than there are threads, threads wait for each other.
    :param max_value: bytes of a value that are read or stored, 1 or more. One that a
        server sends beyond it counts as a failure of the node. The same for all who use
        the servers; over 32 MiB where their ``-I`` is and such values are cached.
    :param tls_context: speak TLS, verified as this context says; for TCP only.
    :param tls_name: what every server's certificate must name, in place of the host
        that ``servers`` names.
    :param auth: user and password, for servers with the option ``-Y``. Both are text
        without blanks and ends of lines, the user without a colon, of 253 bytes of
        UTF-8 together at most. Without TLS every listener on the network reads them.
    :raises ConfigurationError: one of these is not as said. Nothing was connected.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        ring: str = "1",
        weights: Mapping[str, float] | None = None,
        connect_timeout: float = 0.5,
        timeout: float = 0.5,
        call_timeout: float | None = None,
        retry_after: float = RETRY_AFTER,
        pool_size: int = POOL_SIZE,
        max_value: int = MAX_VALUE,
        tls_context: SSLContext | None = None,
        tls_name: str | None = None,
        auth: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(ring)
        # Not in the first call: its time limit would pay for it, and an import that is
        # interrupted, or gets no file descriptor, is no outage that a read survives.
        load_client()
        parsed = parse_servers(servers)
        local = [server.name for server in parsed if server.path is not None]
        if tls_context is not None and local:
            raise ConfigurationError(
                f"tls_context cannot be used with {local[0]}: a unix socket is"
                " not encrypted"
            )
        for name, number in (("pool_size", pool_size), ("max_value", max_value)):
            if isinstance(number, bool) or not isinstance(number, int):
                raise ConfigurationError(f"{name} must be int, not {number!r}")
            if number < 1:
                raise ConfigurationError(f"{name} must be 1 or more, not {number}")
        limits = Limits(
            _seconds("connect_timeout", connect_timeout),
            _seconds("timeout", timeout),
            _seconds(
                "call_timeout",
                CALL_TIMEOUTS * timeout if call_timeout is None else call_timeout,
            ),
            max_value,
        )
        if retry_after != 0:
            retry_after = _seconds("retry_after", retry_after)
        if tls_name is not None and tls_context is None:
            raise ConfigurationError("tls_name has no effect without tls_context")
        login = b"" if auth is None else login_command(auth)
        #: Whether each connection begins with a login.
        self.logs_in = auth is not None
        #: Whether the nodes are spoken to over TLS.
        self.over_tls = tls_context is not None
        self._timeout = limits.timeout
        self._max_value = max_value
        self.patience = limits.call_timeout
        self._nodes = [
            Node(
                server,
                limits,
                index=index,
                pool_size=pool_size,
                retry_after=retry_after,
                handshake=Handshake(tls_context, tls_name, login),
            )
            for index, server in enumerate(parsed)
        ]
        #: The node, if there is one only.
        self._only = self._nodes[0] if len(self._nodes) == 1 else None
        self._ring = Ring(
            {node.name: node for node in self._nodes}, parse_weights(weights, parsed)
        )

    def get_many(self, addresses: Sequence[Address]) -> list[bytes | None]:
        node = self._only
        if node is not None and 0 < len(addresses) <= KEYS_PER_GET:
            keys = list(map(_physical_key, addresses))
            return node.read_values(node.send_get(keys, monotonic()), keys)
        parts = self._keys_by_node(addresses)
        if len(parts) == 1:
            # One node again. What it was asked is in the order of the addresses.
            [(node, (keys, _))] = parts.items()
            if len(keys) <= KEYS_PER_GET:
                return node.read_values(node.send_get(keys, monotonic()), keys)
        return self._read_all(len(addresses), parts, _ask, Node.read_values)

    def add_many(self, writes: Sequence[Write]) -> list[bytes | None]:
        refused: Failures = {}
        # All of them before the first is sent: a bad value must not come after it.
        addresses, adds = commands.each_store(b"add", writes, refused, now=time.time())
        for error in refused.values():
            raise error
        node = self._only
        if node is not None and 0 < len(writes) <= KEYS_PER_GET:
            keys = list(map(_physical_key, addresses))
            data = b"".join(adds) + commands.get(keys)
            return node.read_added(node.send_writes(data, monotonic()), keys)
        parts = self._keys_by_node(addresses)

        def ask(
            node: Node, keys: Sequence[bytes], places: Sequence[int], now: float
        ) -> Connection:
            # In one go: so few answers always fit into the sockets' buffers.
            data = b"".join([adds[place] for place in places])
            return node.send_writes(data + commands.get(keys), now)

        return self._read_all(len(writes), parts, ask, Node.read_added)

    def set_many(self, writes: Sequence[Write]) -> Failures:
        now = time.time()
        failures: Failures = {}
        for address, value, _ in writes:
            if isinstance(value, bytes) and len(value) > self._max_value:
                # No reader would take it.
                failures[address] = ApplyPermanent(
                    f"the value has {len(value)} bytes, over the store's max_value of"
                    f" {self._max_value}; nothing was stored"
                )
        if failures:
            writes = [write for write in writes if write[0] not in failures]
        windows = {
            node: commands.store(b"set", part, failures, now=now)
            for node, part in self._by_node(writes, _address_of_write).items()
        }
        return self._write_all(windows, commands.STORED, failures)

    def delete_many(self, addresses: Sequence[Address]) -> Failures:
        failures: Failures = {}
        windows = {
            node: commands.delete(part, failures)
            for node, part in self._by_node(addresses, _itself).items()
        }
        return self._write_all(windows, commands.DELETED, failures)

    def copies(self, addresses: Sequence[Address]) -> list[Copy]:
        only, slots = self._only, self._ring.slots
        if only is not None:
            return list(zip(addresses, repeat(only)))
        found: list[Copy] = []
        for address in addresses:
            chooser = address[0]
            if chooser is None:
                found += [(address, node) for node in self._nodes]
            else:
                found.append((address, slots[crc32(chooser) & SLOT_MASK]))
        return found

    def replace_many(
        self, copies: Sequence[Copy], placeholders: Sequence[bytes], make: Maker
    ) -> list[bool | ApplyError]:
        keys = [address[1] for address, _ in copies]
        going: dict[Node, Iterator[Window]] = {}
        if self._only is not None:
            places = range(len(copies))
            going[self._only] = commands.versions(places, keys, placeholders)
        else:
            shares: dict[Node, list[int]] = {}
            for place, (_, node) in enumerate(copies):
                shares.setdefault(node, []).append(place)
            for node, share in sorted(shares.items(), key=_index_of_node):
                going[node] = commands.versions(
                    share,
                    [keys[place] for place in share],
                    [placeholders[place] for place in share],
                )
        size = len(placeholders[0]) if placeholders else 0
        replacement = Replacement(copies, keys, size, self._timeout)
        while going:
            try:
                self._send_windows(going, replacement.asked, replacement.fail)
                replacement.run(
                    make, lambda node: self._give_up(node, going, replacement.fail)
                )
            finally:
                replacement.abandon()
        return replacement.outcomes

    def ping(self) -> dict[str, str | ApplyUnavailable]:
        now = monotonic()
        found: dict[str, str | ApplyUnavailable] = {}
        asked: list[tuple[Node, Connection]] = []
        due = None
        try:
            for node in self._nodes:
                try:
                    connection = node.send_writes(
                        commands.VERSION, now, even_if_open=True
                    )
                    asked.append((node, connection))
                except ApplyUnavailable as exc:
                    found[node.name] = exc
            while asked:
                node, connection = asked.pop()
                try:
                    found[node.name] = node.read_version(connection, due)
                except ApplyUnavailable as exc:
                    found[node.name] = exc
                due = now + self._timeout
        except BaseException:
            for node, connection in asked:
                node.abandon(connection)
            raise
        return {node.name: found[node.name] for node in self._nodes}

    def stats(self, group: str = "") -> dict[str, dict[str, str] | ApplyUnavailable]:
        """Ask every node for its ``stats``, one after the other; for operators.

        :param group: such as "settings"; by default the general ones.
        :return: names and values as the server gives them; a node that fails has its
            error instead.
        """
        found: dict[str, dict[str, str] | ApplyUnavailable] = {}
        for node in self._nodes:
            try:
                found[node.name] = node.stats(monotonic(), group.encode("ascii"))
            except ApplyUnavailable as exc:
                found[node.name] = exc
        return found

    def stats_of_each(
        self, connections: int
    ) -> dict[str, list[dict[str, str]] | ApplyUnavailable]:
        """Ask every node for its ``stats`` on several connections; for operators.

        Answers of different processes tell that a name stands for several servers.

        :param connections: to each node, all open at once; ``pool_size`` at most.
        """
        found: dict[str, list[dict[str, str]] | ApplyUnavailable] = {}
        for node in self._nodes:
            asked: list[Connection] = []
            try:
                for _ in range(connections):
                    asked.append(node.send_stats(monotonic()))
                answers: list[dict[str, str]] = []
                while asked:
                    answers.append(node.read_stats(asked.pop()))
                found[node.name] = answers
            except ApplyUnavailable as exc:
                found[node.name] = exc
            finally:
                for connection in asked:
                    node.abandon(connection)
        return found

    def nodes_of(self, address: Address) -> list[str]:
        chooser = address[0]
        if chooser is None:
            return [node.name for node in self._nodes]
        return [self._ring.member(chooser).name]

    def circuits(self) -> dict[str, bool | None]:
        return {
            node.name: node.circuit_is_open if node.was_asked else None
            for node in self._nodes
        }

    def close(self) -> None:
        for node in self._nodes:
            node.close()

    def __repr__(self) -> str:
        names = [node.name for node in self._nodes]
        return f"MemcachedStore({names!r}, ring={self.ring!r})"

    # Who gets what

    def _keys_by_node(self, addresses: Sequence[Address]) -> dict[Node, _Part[bytes]]:
        """Divide the physical keys of a question, which has one place for each."""
        parts: Dict[Node, _Part[bytes]] = {}
        slots = self._ring.slots
        last: object = self
        keys: list[bytes]
        places: list[int]
        for place, (chooser, key) in enumerate(addresses):
            # Neighbours mostly share it: an entry, its token and the namespace's.
            if chooser is not last:
                if chooser is None:
                    raise ValueError("an address on every node cannot be read")
                last = chooser
                node = slots[crc32(chooser) & SLOT_MASK]
                found = parts.get(node)
                if found is None:
                    found = parts[node] = ([], [])
                keys, places = found
            keys.append(key)
            places.append(place)
        return parts

    def _by_node(
        self, things: Sequence[T], address_of: Callable[[T], Address]
    ) -> Mapping[Node, Sequence[T]]:
        """Divide what is to be written; what belongs on every node goes to each."""
        if self._only is not None:
            return {self._only: things}
        shares: dict[Node, list[T]] = {}
        slots = self._ring.slots
        for thing in things:
            chooser = address_of(thing)[0]
            if chooser is None:
                for node in self._nodes:
                    shares.setdefault(node, []).append(thing)
            else:
                node = slots[crc32(chooser) & SLOT_MASK]
                shares.setdefault(node, []).append(thing)
        return shares

    # Send to all, then read from all

    def _read_all(
        self,
        count: int,
        parts: Mapping[Node, _Part[bytes]],
        ask: Callable[[Node, Sequence[bytes], Sequence[int], float], Connection],
        answers: Callable[
            [Node, Connection, Sequence[bytes], "float | None"], "list[bytes | None]"
        ],
    ) -> list[bytes | None]:
        """Ask each node for its part; return ``count`` answers in their places.

        :raises ApplyUnavailable: one node did not answer, so nothing is known.
        """
        found: list[bytes | None] = [None] * count
        ordered = sorted(parts.items(), key=_index_of_node)
        longest = max((len(keys) for keys, _ in parts.values()), default=0)
        for start in range(0, longest, KEYS_PER_GET):
            stop = start + KEYS_PER_GET
            now = monotonic()
            asked: list[tuple[Node, Connection, list[bytes], list[int]]] = []
            due = None
            for node, _ in ordered:
                # Before one of the others is sent to for nothing.
                node.check(now)
            try:
                for node, (keys, places) in ordered:
                    some, where = keys[start:stop], places[start:stop]
                    if some:
                        asked.append((node, ask(node, some, where, now), some, where))
                asked.reverse()
                while asked:
                    # First off the list: what was given back must not be closed.
                    node, connection, some, where = asked.pop()
                    values = answers(node, connection, some, due)
                    for place, value in zip(where, values):
                        found[place] = value
                    due = now + self._timeout
            except BaseException:
                for node, connection, _, _ in asked:
                    node.abandon(connection)
                raise
        return found

    def _write_all(
        self,
        shares: Mapping[Node, Iterator[Window]],
        accepted: Sequence[bytes],
        failures: Failures,
    ) -> Failures:
        """Send each node its writes; return what is not acknowledged.

        :param failures: what was refused before; more is added to it.
        """

        def read(
            node: Node,
            connection: Connection,
            addresses: Sequence[Address],
            due: float | None,
        ) -> bool:
            failed: Failures = {}
            goes_on = node.read_statuses(connection, addresses, accepted, failed, due)
            for address, error in failed.items():
                note(failures, address, error)
            return goes_on

        def fail(addresses: Sequence[Address], error: ApplyError) -> None:
            for address in addresses:
                note(failures, address, error)

        self._write_windows(shares, read, fail)
        return failures

    def _write_windows(
        self,
        shares: Mapping[Node, Iterator[Window]],
        read: Callable[[Node, Connection, Sequence[Any], "float | None"], bool],
        fail: Callable[[Sequence[Any], ApplyError], None],
    ) -> None:
        """Send each node its windows, one at a time, and have the answers read.

        :param read: reads the answers about some things; tells whether the node still
            answers, so that its next window is worth it.
        :param fail: told of things whose window was not sent.
        """
        going = dict(sorted(shares.items(), key=_index_of_node))
        while going:
            now = monotonic()
            sent: list[tuple[Node, Connection, Sequence[Any]]] = []
            due = None
            try:
                self._send_windows(going, lambda *use: sent.append(use), fail)
                sent.reverse()
                while sent:
                    node, connection, things = sent.pop()
                    if not read(node, connection, things, due):
                        self._give_up(node, going, fail)
                    due = now + self._timeout
            except BaseException:
                for node, connection, _ in sent:
                    node.abandon(connection)
                raise

    def _send_windows(
        self,
        going: dict[Node, Iterator[Window]],
        sent: Callable[[Node, Connection, Sequence[Any]], None],
        fail: Callable[[Sequence[Any], ApplyError], None],
    ) -> None:
        """Send the next window of each node. A node that has none leaves ``going``."""
        now = monotonic()
        for node, windows in list(going.items()):
            window = next(windows, None)
            if window is None:
                del going[node]
                continue
            try:
                sent(node, node.send_writes(window.data, now), window.things)
            except ApplyUnavailable as exc:
                fail(window.things, exc)
                self._give_up(node, going, fail)

    @staticmethod
    def _give_up(
        node: Node,
        going: dict[Node, Iterator[Window]],
        fail: Callable[[Sequence[Any], ApplyError], None],
    ) -> None:
        # To wait for a node that is away once for every window could take very long.
        for window in going.pop(node):
            fail(window.things, node.not_sent())


def _ask(
    node: Node, keys: Sequence[bytes], places: Sequence[int], now: float
) -> Connection:
    return node.send_get(keys, now)


def _index_of_node(item: tuple[Node, object]) -> int:
    return item[0].index


def _address_of_write(write: Write) -> Address:
    return write[0]


def _itself(address: Address) -> Address:
    return address


def _seconds(name: str, value: object) -> float:
    try:
        return float(checked_seconds(name, value, above_zero=True))
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(str(exc)) from None

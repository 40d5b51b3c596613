"""One memcached: what is said to it, and what its answers mean.

Every command is acknowledged, and an answer that is missing, late or odd is never taken
for one. Sending and reading are separate (``send_get`` and ``read_values``,
``send_writes`` and ``read_statuses``), so that a store of several nodes can send to all
of them before it waits for the first.
"""

from __future__ import annotations

from os import getpid
from typing import Callable, Dict, NoReturn, Sequence, TypeVar

from hydracache_sync.errors import ApplyError, ApplyPermanent, ApplyUnavailable
from hydracache_sync.lending import NoFreeConnection
from hydracache_sync.memcached import commands
from hydracache_sync.memcached.circuit_breaker import CircuitBreaker, OpenState
from hydracache_sync.memcached.commands import KEYS_PER_GET
from hydracache_sync.memcached.connection_pool import ConnectionPool
from hydracache_sync.memcached.handshake import Handshake
from hydracache_sync.memcached.replies import (
    UNAUTHENTICATED,
    BrokenReply,
    Replies,
    WithoutVersions,
    not_understood,
)
from hydracache_sync.memcached.server_list import Server
from hydracache_sync.memcached.transport import Connection, Limits, SeveralMachines

T = TypeVar("T")


#: Lines of an answer to ``stats``; memcached has some hundreds in its longest group.
MAX_STATS = 10_000


class Node:
    """A memcached server with its connections. Safe for threads and forks.

    Each question is a step that sends and one that reads; between the two others may be
    sent to other nodes. A connection that is not read from goes to :meth:`abandon`.
    ``now`` is ``time.monotonic()``, when the round trip to all nodes began. ``due`` is
    the moment at which an answer has been waited for long enough, by waiting for that
    of another node: it must be there then. None says that nothing was waited for yet.

    After a failure the circuit breaker is open for a while: calls that need the node
    fail at once.

    :ivar name: as in the server list; part of every error.
    :ivar index: its place in the store. Connections are taken in this order, so that
        two callers never wait for what the other one has.
    """

    def __init__(
        self,
        server: Server,
        limits: Limits,
        *,
        index: int = 0,
        pool_size: int,
        retry_after: float = 0.0,
        handshake: Handshake = Handshake(),
    ) -> None:
        self.name = server.name
        self.index = index
        self._call_timeout = limits.call_timeout
        # What a call can take at most: the answer to its last read may be late, too.
        patience = limits.connect_timeout + limits.call_timeout + 2 * limits.timeout
        self._breaker = CircuitBreaker(retry_after, patience)
        self._pool = ConnectionPool(server, limits, size=pool_size, handshake=handshake)

    @property
    def circuit_is_open(self) -> bool:
        """Whether the circuit breaker is not closed: it is open, or half-open."""
        return self._breaker.state is not None

    @property
    def was_asked(self) -> bool:
        """Whether this process has connected to it, or has tried to."""
        return self._pool.connected_in == getpid()

    def close(self) -> None:
        """Close idle connections now, and the others when they are given back."""
        self._pool.close()

    def abandon(self, connection: Connection) -> None:
        """Close a connection whose answer is not read: the next caller would."""
        self._breaker.cancel_probe()
        self._pool.drop(connection)

    def check(self, now: float) -> None:
        """Check before anything is sent that the circuit breaker is not open.

        :raises ApplyUnavailable: it is.
        """
        breaker = self._breaker
        if breaker.state is not None:
            state = breaker.open_at(now)
            if state is not None:
                raise self._circuit_open(state)

    # Reading. A ``get`` is sent again where an idle connection turns out to have ended,
    # so the first read after a restart succeeds.

    def send_get(self, keys: Sequence[bytes], now: float) -> Connection:
        """Send a ``get`` for 1 to ``KEYS_PER_GET`` keys; then call :meth:`read_values`.

        :raises ApplyUnavailable: the node did not take it.
        """
        request = commands.get(keys)
        if self._breaker.state is not None:
            self._acquire(now)
        deadline = now + self._call_timeout
        try:
            connection = self._pool.take(now, deadline)
            try:
                connection.send(request, deadline)
            except BaseException as exc:
                self._ask_again(connection, exc, request)
        except OSError as exc:
            self._give_up(exc, now)
        return connection

    def read_values(
        self, connection: Connection, keys: Sequence[bytes], due: float | None = None
    ) -> list[bytes | None]:
        """Read the answer to :meth:`send_get`: values in the order of the keys.

        :raises ApplyUnavailable: the node did not answer properly.
        """
        try:
            try:
                if due is not None:
                    connection.check_answer(due)
                if connection.question:
                    self._pool.identify(connection)
                values = connection.replies.values(keys)
            except BaseException as exc:
                self._ask_again(connection, exc, commands.get(keys))
                try:
                    if connection.question:
                        self._pool.identify(connection)
                    values = connection.replies.values(keys)
                except BaseException:
                    self._pool.drop(connection)
                    raise
        except OSError as exc:
            self._give_up(exc, connection.used_at)
        if self._breaker.state is None:
            # What it comes to, without the call: each cached read is here.
            self._pool.put(connection)
        else:
            self._answered(connection)
        return values

    def _ask_again(
        self, connection: Connection, failure: BaseException, request: bytes
    ) -> None:
        """Send again, newly connected, what an idle connection did not live to answer.

        :raises BaseException: ``failure``, unless it was of that kind.
        """
        if not isinstance(failure, OSError) or not connection.died_idle(failure):
            self._pool.drop(connection)
            raise failure
        self._pool.drop_idle()
        deadline = connection.replies.deadline
        self._pool.renew(connection, deadline)
        try:
            connection.send(request, deadline)
        except BaseException:
            self._pool.drop(connection)
            raise

    # Writing. Nothing is ever sent twice. A second copy of a token could arrive late,
    # as through a proxy. It would bring the token back after its successor, and the
    # entries loaded under it. Idle connections are looked at before instead.

    def send_writes(
        self, data: bytes, now: float, *, even_if_open: bool = False
    ) -> Connection:
        """Send commands that are answered by a line each, and no more than a window.

        The connection then goes to the step that reads the answers.

        :raises ApplyUnavailable: part of it may have been sent and carried out.
        """
        if self._breaker.state is not None and not even_if_open:
            self._acquire(now)
        deadline = now + self._call_timeout
        try:
            connection = self._pool.take(now, deadline, proven=True)
            try:
                connection.send(data, deadline)
            except BaseException:
                self._pool.drop(connection)
                raise
        except OSError as exc:
            self._give_up(exc, now)
        return connection

    def read_statuses(
        self,
        connection: Connection,
        things: Sequence[T],
        accepted: Sequence[bytes],
        failures: Dict[T, ApplyError],
        due: float | None = None,
        unusual: Dict[T, bytes] | None = None,
    ) -> bool:
        """Read the answers to a window of writes, and note what has a bad one or none.

        :param things: what is written: that which failures are noted of.
        :param unusual: answers that are accepted, and not the first of these.
        :return: whether the node still answers, so that the next window is worth it.
        """
        replies = connection.replies
        answered = 0
        try:
            if due is not None:
                connection.check_answer(due)
            if connection.question:
                self._pool.identify(connection)
            while answered < len(things):
                alike = replies.skip(accepted[0], len(things) - answered)
                answered += alike
                if alike:
                    continue
                answer = replies.line()
                if answer not in accepted:
                    failures[things[answered]] = self._refusal(answer)
                elif unusual is not None and answer != accepted[0]:
                    unusual[things[answered]] = answer
                answered += 1
                if answer.startswith(b"CLIENT_ERROR"):
                    # After one the server may take the value for a command and answer
                    # that as well: from here on each answer could be its neighbour's.
                    raise _Refused("it refused an earlier command of the batch")
            # An answer too many means that one of them was not ours, and not which.
            answered = 0
            replies.finish()
        except OSError as exc:
            self._pool.drop(connection)
            error = self._unavailable(exc, connection.used_at)
            failures.update((thing, error) for thing in things[answered:])
            return False
        except BaseException:
            self._pool.drop(connection)
            raise
        self._answered(connection)
        return True

    def read_added(
        self, connection: Connection, keys: Sequence[bytes], due: float | None = None
    ) -> list[bytes | None]:
        """Read the answers to an ``add`` of each key and a ``get`` of them all.

        :raises ApplyPermanent: a value is over the item limit.
        :raises ApplyUnavailable: the node did not answer properly.
        """

        def read(
            replies: Replies,
        ) -> tuple[dict[int, ApplyError], list[bytes | None]]:
            refused = self._refusals(replies.lines(len(keys)))
            return refused, replies.values(keys)

        refused, values = self._read(connection, read, due)
        self._answered(connection)
        for failure in refused.values():
            raise failure
        return values

    def read_versions(
        self, connection: Connection, keys: Sequence[bytes], due: float | None = None
    ) -> tuple[list[bytes | None], list[bytes]]:
        """Read the answers to a window of ``commands.versions``.

        The connection then goes to :meth:`send_more`, or to :meth:`put_back` if there
        is no more to say.

        :return: values in the order of the keys, None where nothing is in spite of the
            placeholder; and their versions.
        :raises ApplyUnavailable: the node did not answer properly.
        """

        def read(replies: Replies) -> tuple[list[bytes | None], list[bytes]]:
            values: list[bytes | None] = []
            uniques: list[bytes] = []
            for start in range(0, len(keys), KEYS_PER_GET):
                some, theirs = replies.versions(keys[start : start + KEYS_PER_GET])
                values += some
                uniques += theirs
            replies.finish()
            return values, uniques

        return self._read(connection, read, due)

    def read_refusals(
        self, connection: Connection, keys: Sequence[bytes], due: float | None = None
    ) -> dict[int, ApplyError]:
        """Read the answers to ``commands.tries``: refusals by their places in ``keys``.

        The connection then goes on as after :meth:`read_versions`.

        :raises ApplyUnavailable: the node did not answer properly.
        """

        def read(replies: Replies) -> dict[int, ApplyError]:
            refused = self._refusals(replies.lines(len(keys)))
            replies.finish()
            return refused

        return self._read(connection, read, due)

    def send_more(self, connection: Connection, data: bytes, now: float) -> None:
        """As :meth:`send_writes`, on a connection that was held since."""
        try:
            try:
                connection.send(data, now + self._call_timeout)
            except BaseException:
                self._pool.drop(connection)
                raise
        except OSError as exc:
            self._give_up(exc, connection.used_at)

    def put_back(self, connection: Connection) -> None:
        """Give a connection back on which every answer has been read."""
        self._answered(connection)

    def _refusals(self, answers: Sequence[bytes]) -> dict[int, ApplyError]:
        """The errors of the adds of a window that were refused, by their places.

        :raises BrokenReply: one is no answer to an ``add``.
        """
        refused: dict[int, ApplyError] = {}
        if commands.ADDED.issuperset(answers):
            return refused
        for place, answer in enumerate(answers):
            if answer not in commands.ADDED:
                if not answer.startswith(b"SERVER_ERROR"):
                    raise not_understood(answer)
                refused[place] = self._refusal(answer)
        return refused

    def read_version(self, connection: Connection, due: float | None = None) -> str:
        """Read the answer to ``version``.

        :raises ApplyUnavailable: the node did not answer properly.
        """

        def read(replies: Replies) -> str:
            line = replies.line()
            replies.finish()
            if not line.startswith(b"VERSION "):
                raise not_understood(line)
            return line[8:].decode("ascii", "replace")

        version = self._read(connection, read, due, needed=False)
        self._answered(connection)
        return version

    def stats(self, now: float, group: bytes = b"") -> dict[str, str]:
        """Ask the server about itself: its ``stats``, or a group of them.

        :raises ApplyUnavailable: the node did not answer properly.
        """
        return self.read_stats(self.send_stats(now, group))

    def send_stats(self, now: float, group: bytes = b"") -> Connection:
        """Send the question; then call :meth:`read_stats`.

        :raises ApplyUnavailable: the node did not take it.
        """
        return self.send_writes(commands.stats(group), now, even_if_open=True)

    def read_stats(self, connection: Connection) -> dict[str, str]:
        """Read the answer to :meth:`send_stats`.

        :raises ApplyUnavailable: the node did not answer properly.
        """

        def read(replies: Replies) -> dict[str, str]:
            found: dict[str, str] = {}
            for _ in range(MAX_STATS + 1):
                line = replies.line()
                if line == b"END":
                    replies.finish()
                    return found
                word, _, rest = line.partition(b" ")
                if word != b"STAT":
                    raise not_understood(line)
                name, _, value = rest.decode("utf-8", "replace").partition(" ")
                found[name] = value
            raise BrokenReply(f"it sends over {MAX_STATS} lines of stats")

        found = self._read(connection, read, needed=False)
        self._answered(connection)
        return found

    def _read(
        self,
        connection: Connection,
        read: Callable[[Replies], T],
        due: float | None = None,
        *,
        needed: bool = True,
    ) -> T:
        """Read answers by ``read``; the connection is closed unless all went well.

        :param needed: False for a question that no call of a cache needs: a proxy may
            not know it, so a failure is none for the circuit breaker.
        :raises ApplyUnavailable: the node did not answer properly.
        """
        try:
            try:
                if due is not None:
                    connection.check_answer(due)
                if connection.question:
                    self._pool.identify(connection)
                return read(connection.replies)
            except BaseException:
                self._pool.drop(connection)
                raise
        except OSError as exc:
            self._give_up(exc, connection.used_at if needed else None)

    # What came of it.

    def _answered(self, connection: Connection) -> None:
        if self._breaker.state is not None and connection.used_at is not None:
            self._breaker.succeeded(connection.used_at)
        self._pool.put(connection)

    def _acquire(self, now: float) -> None:
        """Go on if this caller is the probe of a node that failed.

        :raises ApplyUnavailable: it is not.
        """
        state = self._breaker.try_acquire(now)
        if state is not None:
            raise self._circuit_open(state)

    # What went wrong, in words.

    def not_sent(self) -> ApplyUnavailable:
        """The error of what is not sent any more, after a failure in the same call."""
        return ApplyUnavailable(
            f"memcached node {self.name}: not sent, since it failed before",
            node=self.name,
        )

    def _refusal(self, answer: bytes) -> ApplyError:
        """The error for a command that the server understood and did not carry out.

        :raises BrokenReply: that is not what it says.
        """
        text = answer.decode("ascii", "replace")[:200]
        if answer.startswith(b"SERVER_ERROR") and b"too large" in answer:
            return ApplyPermanent(
                f"memcached node {self.name} says {text!r}: the value is over its item"
                " limit (its option -I); nothing was stored"
            )
        if answer.startswith(UNAUTHENTICATED):
            raise not_understood(answer)
        if answer.startswith(b"CLIENT_ERROR"):
            return ApplyPermanent(f"memcached node {self.name} says {text!r}")
        if answer.startswith((b"SERVER_ERROR", b"NOT_STORED")):
            return ApplyUnavailable(
                f"memcached node {self.name} says {text!r}: look into its memory, its"
                " log and its options",
                node=self.name,
                answered=True,
            )
        raise not_understood(answer)

    def _give_up(self, failure: OSError, began: float | None) -> NoReturn:
        raise self._unavailable(failure, began) from failure

    def _unavailable(self, failure: OSError, began: float | None) -> ApplyUnavailable:
        text = str(failure) or type(failure).__name__
        if isinstance(failure, _NO_OUTAGE):
            self._breaker.cancel_probe()
        elif began is not None:
            self._breaker.failed(began, text)
        return ApplyUnavailable(
            f"memcached node {self.name}: {text}",
            node=self.name,
            answered=isinstance(failure, (BrokenReply, SeveralMachines)),
        )

    def _circuit_open(self, state: OpenState) -> ApplyUnavailable:
        return ApplyUnavailable(
            f"memcached node {self.name}: left alone for now, since it failed:"
            f" {state.reason}",
            node=self.name,
        )


class _Refused(BrokenReply):
    """The node answers, and what it says leaves the place in the stream unknown."""


#: Failures of a node that works.
_NO_OUTAGE = (NoFreeConnection, WithoutVersions, _Refused)

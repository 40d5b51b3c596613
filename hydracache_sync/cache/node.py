"""One memcached: what is said to it, and what its answers mean.

Every command is acknowledged, and an answer that is missing, late or odd is never taken
for one. Asking and reading are separate (``ask`` and ``answers``, ``tell`` and
``acknowledged``), so that a store of several nodes can send to all of them before it
waits for the first.
"""

from __future__ import annotations

import time
from time import monotonic
from typing import TYPE_CHECKING, Iterator, NoReturn, Sequence

from hydracache_sync.cache import commands
from hydracache_sync.cache.commands import Window
from hydracache_sync.cache.connection_pool import ConnectionPool
from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.replies import BrokenReply
from hydracache_sync.cache.server_list import Server
from hydracache_sync.cache.store import Failures, Write
from hydracache_sync.cache.transport import Connection, Limits, load_client
from hydracache_sync.errors import ApplyError, ApplyPermanent, ApplyUnavailable

if TYPE_CHECKING:
    from ssl import SSLContext

#: Keys in one ``get``. memcached has answered ERROR to lines of thousands (its
#: issue 849), and a line over 2 KB that arrives in pieces takes a slower way in it.
KEYS_PER_GET = 100


class Node:
    """A memcached server with its connections. Safe for threads and forks.

    :ivar name: as in the server list; part of every error.
    """

    def __init__(
        self,
        server: Server,
        limits: Limits,
        *,
        pool_size: int,
        tls_context: SSLContext | None = None,
    ) -> None:
        self.name = server.name
        self._call_timeout = limits.call_timeout
        self._client_is_loaded = False
        self._pool = ConnectionPool(
            server, limits, size=pool_size, tls_context=tls_context
        )

    def set_many(self, writes: Sequence[Write]) -> Failures:
        """Store all; return what was not acknowledged."""
        failures: Failures = {}
        windows = commands.store(b"set", writes, failures, now=time.time())
        self._tell_all(windows, commands.STORED, failures)
        return failures

    def delete_many(self, addresses: Sequence[Address]) -> Failures:
        """Remove all; return what was not acknowledged."""
        failures: Failures = {}
        windows = commands.delete(addresses, failures)
        self._tell_all(windows, commands.DELETED, failures)
        return failures

    def add_many(self, writes: Sequence[Write]) -> list[bytes | None]:
        """Store where nothing is; return what is there then. Up to ``KEYS_PER_GET``.

        :raises ApplyPermanent: a key is none, or a value is over the item limit.
        :raises ApplyUnavailable: the node did not answer properly.
        """
        refused: Failures = {}
        windows = commands.store(b"add", writes, refused, now=time.time())
        for error in refused.values():
            raise error
        keys = [address[1] for address, _, _ in writes]
        # In one go: so few answers always fit into the sockets' buffers.
        request = b"".join([window.data for window in windows]) + commands.get(keys)
        failure: ApplyError | None = None
        try:
            connection = self._send(request)
            try:
                for _ in keys:
                    answer = connection.replies.line()
                    if answer not in commands.ADDED:
                        if not answer.startswith(b"SERVER_ERROR"):
                            raise _not_understood(answer)
                        failure = self._refusal(answer)
                values = connection.replies.values(keys)
            except BaseException:
                self._pool.drop(connection)
                raise
        except OSError as exc:
            self._give_up(exc)
        self._pool.put(connection)
        if failure is not None:
            raise failure
        return values

    def version(self) -> str:
        """What the server calls its version.

        :raises ApplyUnavailable: it did not answer properly.
        """
        try:
            connection = self._send(commands.VERSION)
            try:
                line = connection.replies.line()
                connection.replies.finish()
                if not line.startswith(b"VERSION "):
                    raise BrokenReply("expected its version, got something else")
            except BaseException:
                self._pool.drop(connection)
                raise
        except OSError as exc:
            self._give_up(exc)
        self._pool.put(connection)
        return line[8:].decode("ascii", "replace")

    def close(self) -> None:
        """Close idle connections now, and the others when they are given back."""
        self._pool.close()

    # Reading. A question may be asked twice, so it is, where an idle connection turns
    # out to have ended: the first read after a restart just works.

    def ask(self, keys: Sequence[bytes]) -> Connection:
        """Send a ``get`` for 1 to ``KEYS_PER_GET`` keys; then call :meth:`answers`.

        :raises ApplyUnavailable: the node did not take it.
        """
        request = commands.get(keys)
        now = self._begin()
        deadline = now + self._call_timeout
        try:
            connection = self._pool.take(now, deadline)
            try:
                connection.send(request, deadline)
            except BaseException as exc:
                connection = self._ask_again(connection, exc, request)
        except OSError as exc:
            self._give_up(exc)
        return connection

    def answers(
        self, connection: Connection, keys: Sequence[bytes]
    ) -> list[bytes | None]:
        """Read the answer to :meth:`ask`: values in the order of the keys.

        :raises ApplyUnavailable: the node did not answer properly.
        """
        try:
            try:
                values = connection.replies.values(keys)
            except BaseException as exc:
                connection = self._ask_again(connection, exc, commands.get(keys))
                try:
                    values = connection.replies.values(keys)
                except BaseException:
                    self._pool.drop(connection)
                    raise
        except OSError as exc:
            self._give_up(exc)
        self._pool.put(connection)
        return values

    def _ask_again(
        self, failed: Connection, failure: BaseException, request: bytes
    ) -> Connection:
        """Send to a new connection what an idle one did not live to answer.

        :raises BaseException: ``failure``, unless it was of that kind.
        """
        self._pool.drop(failed)
        if not isinstance(failure, OSError) or not failed.died_idle(failure):
            raise failure
        self._pool.drop_idle()
        deadline = failed.replies.deadline
        connection = self._pool.take(monotonic(), deadline)
        try:
            connection.send(request, deadline)
        except BaseException:
            self._pool.drop(connection)
            raise
        return connection

    # Writing. Nothing is ever sent twice: a second copy of a token that arrived late,
    # through a proxy for one, would bring the token back after its successor, and with
    # it the entries loaded under it. Idle connections are looked at before instead.

    def tell(self, window: Window) -> Connection:
        """Send a window of commands; the connection then goes to :meth:`acknowledged`.

        :raises ApplyUnavailable: part of it may have been sent and carried out.
        """
        try:
            return self._send(window.data)
        except OSError as exc:
            self._give_up(exc)

    def acknowledged(
        self,
        connection: Connection,
        window: Window,
        accepted: Sequence[bytes],
        failures: Failures,
    ) -> bool:
        """Read the answers to :meth:`tell` and note what was not acknowledged.

        :return: whether the node still answers, so that the next window is worth it.
        """
        addresses = window.addresses
        replies = connection.replies
        answered = 0
        try:
            while answered < len(addresses):
                alike = replies.skip(accepted[0], len(addresses) - answered)
                answered += alike
                if alike:
                    continue
                answer = replies.line()
                if answer not in accepted:
                    failures[addresses[answered]] = self._refusal(answer)
                answered += 1
                if answer.startswith(b"CLIENT_ERROR"):
                    # After one the server may take the value for a command and answer
                    # that as well: from here on each answer could be its neighbour's.
                    raise BrokenReply("it refused an earlier command of the batch")
            # An answer too many means that one of them was not ours, and not which.
            answered = 0
            replies.finish()
        except OSError as exc:
            self._pool.drop(connection)
            self._note(failures, addresses[answered:], self._unavailable(exc))
            return False
        except BaseException:
            self._pool.drop(connection)
            raise
        self._pool.put(connection)
        return True

    def _tell_all(
        self, windows: Iterator[Window], accepted: Sequence[bytes], failures: Failures
    ) -> None:
        for window in windows:
            try:
                connection = self.tell(window)
            except ApplyUnavailable as exc:
                self._note(failures, window.addresses, exc)
                break
            if not self.acknowledged(connection, window, accepted, failures):
                break
        # To wait for a node that is away once for every window could take for ever.
        for window in windows:
            unsent = f"memcached node {self.name}: not sent, since it failed before"
            error = ApplyUnavailable(unsent, node=self.name)
            self._note(failures, window.addresses, error)

    def _begin(self) -> float:
        """The moment a call begins: the client is loaded, which no limit pays for."""
        if not self._client_is_loaded:
            load_client()
            self._client_is_loaded = True
        return monotonic()

    def _send(self, data: bytes) -> Connection:
        now = self._begin()
        deadline = now + self._call_timeout
        connection = self._pool.take(now, deadline, proven=True)
        try:
            connection.send(data, deadline)
        except BaseException:
            self._pool.drop(connection)
            raise
        return connection

    # What went wrong, in words.

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
        if answer.startswith(b"CLIENT_ERROR") and b"unauthenticated" not in answer:
            return ApplyPermanent(f"memcached node {self.name} says {text!r}")
        if answer.startswith((b"SERVER_ERROR", b"CLIENT_ERROR", b"NOT_STORED")):
            return ApplyUnavailable(
                f"memcached node {self.name} says {text!r}: look into its memory, its"
                " log and its options",
                node=self.name,
            )
        raise _not_understood(answer)

    @staticmethod
    def _note(
        failures: Failures, addresses: Sequence[Address], error: ApplyError
    ) -> None:
        failures.update((address, error) for address in addresses)

    def _give_up(self, failure: OSError) -> NoReturn:
        raise self._unavailable(failure) from failure

    def _unavailable(self, failure: OSError) -> ApplyUnavailable:
        text = str(failure) or type(failure).__name__
        return ApplyUnavailable(f"memcached node {self.name}: {text}", node=self.name)


def _not_understood(answer: bytes) -> BrokenReply:
    # Anything but an error line may be part of a value, and those are never logged.
    said = repr(answer[:200]) if answer.startswith(b"ERROR") else "something else"
    return BrokenReply(
        f"it answers {said}: is that a memcached, and its text protocol?"
    )

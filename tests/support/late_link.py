"""The link of a host to a server: TCP that delivers late when a test says so.

TCP keeps what was sent before a cut and delivers it when the cut is over, also when the
sender has given up and closed its socket meanwhile. A ``Link`` stands between clients
and a server on this machine and does that on demand: it holds what clients send (or
what the server answers), and delivers it later, in order within each connection and in
any order between connections.

Knows nothing of pytest and nothing of the library.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Callable, Iterable

#: Bytes of one recv.
CHUNK = 1 << 16

#: Seconds until a server that does not take a connection counts as away.
CONNECT_TIMEOUT = 1.0

#: Seconds until a thread that should have ended is reported.
STOP_TIMEOUT = 10.0

#: Seconds for which a test waits for what is bound to happen.
PATIENCE = 20.0

#: The two directions, as ``hold`` names them.
REQUESTS, REPLIES = "requests", "replies"

#: Commands that change something, as they begin.
WRITES = (b"set ", b"cas ", b"add ", b"delete ")


class Link:
    """One way to one server. Like ``Popen``, the constructor starts it.

    All methods may be called from any thread. What a client sends once :meth:`hold` has
    returned is held.

    :param target: ``host:port`` of the server.
    :param port: where to listen on 127.0.0.1; 0 chooses one.
    :param seed: of the order in which connections are delivered.
    :ivar counts: what has happened, by name.
    """

    def __init__(
        self, target: str, *, port: int = 0, seed: int | str | None = None
    ) -> None:
        host, _, number = target.rpartition(":")
        self._target = host, int(number)
        self._random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._pairs: list[_Pair] = []
        self._held: set[str] = set()
        self._hold_after: bytes | None = None
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._hear)
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    # Weather

    def hold(self, *directions: str) -> None:
        """Hold what comes from now on, on open connections and on new ones.

        :param directions: ``REQUESTS`` (the default), ``REPLIES`` or both.
        """
        with self._changed:
            self._hold(directions or (REQUESTS,))

    def hold_after_reply(self, to: bytes = b"gets ") -> None:
        """Hold requests as soon as the next question with ``to`` in it is answered.

        The answer passes: the client goes on, and what it sends next is held.
        """
        with self._changed:
            self._hold_after = to

    def release(self, *, spread: float = 0.0) -> None:
        """Deliver what is held, connection by connection in random order.

        What passed no hold is not delayed, so that it overtakes what was held.

        :param spread: seconds; each connection goes on at a random moment within them.
        """
        with self._changed:
            self._held.clear()
            self._hold_after = None
            pairs = [pair for pair in self._pairs if pair.waits]
            self._random.shuffle(pairs)
            now = time.monotonic()
            for pair in pairs:
                pair.goes_on_at = now + self._random.uniform(0.0, spread)
                if not spread:
                    self._go_on(pair)
            self._changed.notify_all()
        self._ring()

    # What a test waits for

    @property
    def holds(self) -> bool:
        """Whether requests or replies are being held."""
        return bool(self._held)

    def wait_until_holding(self, timeout: float = PATIENCE) -> bool:
        """Wait until a hold has begun, as ``hold_after_reply`` does it by itself."""
        return self._wait(lambda: self.holds, timeout)

    def wait_until_held(self, part: bytes = b"", timeout: float = PATIENCE) -> bool:
        """Wait until something with ``part`` in it is held; False after ``timeout``."""
        return self._wait(
            lambda: any(
                part in bytes(flow.waiting) and flow.waiting
                for pair in self._pairs
                for flow in (pair.requests, pair.replies)
            ),
            timeout,
        )

    def wait_until_given_up(self, timeout: float = PATIENCE) -> bool:
        """Wait until a client has closed a connection with requests held on it."""
        return self._wait(
            lambda: any(
                pair.requests.ended and pair.requests.waiting for pair in self._pairs
            ),
            timeout,
        )

    def wait_until_delivered(self, timeout: float = PATIENCE) -> bool:
        """Wait until the server is done with all that given-up clients had sent."""
        return self._wait(
            lambda: not any(pair.requests.ended for pair in self._pairs), timeout
        )

    # The end

    def stop(self) -> None:
        """Close everything; what is held is lost. Safe to call again."""
        with self._changed:
            self._closing = True
        self._ring()
        self._thread.join(STOP_TIMEOUT)
        if self._thread.is_alive():
            raise RuntimeError(f"the link did not end in {STOP_TIMEOUT:g} s")

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # The thread

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    if self._closing:
                        return
                    timeout = self._seconds_to_next()
                for key, events in self._selector.select(timeout):
                    with self._changed:
                        key.data(events)
                        self._changed.notify_all()
                with self._changed:
                    self._go_on_in_time()
        finally:
            with self._changed:
                for pair in list(self._pairs):
                    self._forget(pair)
                for each in (self._listener, self._bell, self._ringer):
                    each.close()
                self._selector.close()

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def _ring(self) -> None:
        # Full is as good as rung, and a link that has ended needs no bell.
        with contextlib.suppress(OSError):
            self._ringer.send(b".")

    def _hear(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._bell.recv(100):
                pass

    def _accept(self, events: int) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        try:
            server = socket.create_connection(self._target, CONNECT_TIMEOUT)
        except OSError:
            # The server is away: the client sees its connection end.
            client.close()
            return
        pair = _Pair(client, server)
        for flow in (pair.requests, pair.replies):
            flow.held = flow.direction in self._held
        self._pairs.append(pair)
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setblocking(False)
        self._watch(pair)

    # Below, the lock is held.

    def _hold(self, directions: Iterable[str]) -> None:
        for direction in directions:
            self._held.add(direction)
            self.counts[f"holds of {direction}"] += 1
        for pair in self._pairs:
            for flow in (pair.requests, pair.replies):
                if flow.direction in self._held:
                    flow.held = True
                    pair.goes_on_at = None
        self._changed.notify_all()

    def _seconds_to_next(self) -> float | None:
        moments = [
            pair.goes_on_at for pair in self._pairs if pair.goes_on_at is not None
        ]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _go_on_in_time(self) -> None:
        now = time.monotonic()
        for pair in list(self._pairs):
            if pair.goes_on_at is not None and now >= pair.goes_on_at:
                self._go_on(pair)
                self._changed.notify_all()

    def _go_on(self, pair: _Pair) -> None:
        pair.goes_on_at = None
        requests = pair.requests
        if requests.waiting and requests.ended:
            self.counts["connections delivered after their client had gone"] += 1
            for verb in WRITES:
                late = bytes(requests.waiting).count(b"\n" + verb)
                late += requests.waiting.startswith(verb)
                if late:
                    self.counts[f"late {verb.decode('ascii').strip()}"] += late
        for flow in (requests, pair.replies):
            flow.held = False
        self._pass_on(pair)

    def _move(self, pair: _Pair, flow: _Flow) -> None:
        """Read what has come, and pass it on unless it is held."""
        try:
            data = flow.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            flow.ended = True
        elif flow is pair.requests:
            pair.asked = data
        elif self._hold_after is not None and data.endswith(b"END\r\n"):
            if self._hold_after in pair.asked:
                self._hold_after = None
                self._hold([REQUESTS])
                self.counts["holds after the first reply"] += 1
        flow.waiting += data
        self._pass_on(pair)

    def _pass_on(self, pair: _Pair) -> None:
        """Send what is not held, and close what has ended."""
        for flow in (pair.requests, pair.replies):
            if flow.held:
                continue
            try:
                while flow.waiting:
                    sent = flow.sink.send(flow.waiting[:CHUNK])
                    del flow.waiting[:sent]
            except BlockingIOError:
                pass
            except OSError:
                # Nobody reads it any more. A server that has gone ends the pair below.
                flow.waiting.clear()
            if flow.ended and not flow.waiting and not flow.closed:
                flow.closed = True
                with contextlib.suppress(OSError):
                    flow.sink.shutdown(socket.SHUT_WR)
        if pair.replies.ended and not pair.replies.waiting:
            # The server has closed, so it has done what it was sent or never will.
            self._forget(pair)
        else:
            self._watch(pair)

    def _watch(self, pair: _Pair) -> None:
        """Have the selector look for what the pair can do next."""
        requests, replies = pair.requests, pair.replies
        for reads, writes in ((requests, replies), (replies, requests)):
            wanted = 0
            if not reads.ended:
                wanted |= selectors.EVENT_READ
            if writes.waiting and not writes.held:
                wanted |= selectors.EVENT_WRITE
            self._register(reads.source, wanted, pair, reads)

    def _register(
        self, one: socket.socket, wanted: int, pair: _Pair, flow: _Flow
    ) -> None:
        def ready(events: int) -> None:
            if pair not in self._pairs:
                return
            if events & selectors.EVENT_READ:
                self._move(pair, flow)
            else:
                self._pass_on(pair)

        known = self._selector.get_map().get(one)
        if known is None:
            if wanted:
                self._selector.register(one, wanted, ready)
        elif not wanted:
            self._selector.unregister(one)
        elif known.events != wanted:
            self._selector.modify(one, wanted, ready)

    def _forget(self, pair: _Pair) -> None:
        if pair in self._pairs:
            self._pairs.remove(pair)
        for each in (pair.requests.source, pair.requests.sink):
            if each.fileno() >= 0 and self._selector.get_map().get(each) is not None:
                self._selector.unregister(each)
            each.close()


class _Flow:
    """One direction of a connection.

    :ivar waiting: what was read and not yet passed on.
    :ivar held: nothing is passed on.
    :ivar ended: the source has closed, or has gone.
    :ivar closed: the sink was told so.
    """

    def __init__(
        self, direction: str, source: socket.socket, sink: socket.socket
    ) -> None:
        self.direction = direction
        self.source = source
        self.sink = sink
        self.waiting = bytearray()
        self.held = False
        self.ended = False
        self.closed = False


class _Pair:
    """A client's connection and the one to the server that belongs to it.

    :ivar asked: what the client has sent last.
    :ivar goes_on_at: when its hold ends, None while it has none or has no end.
    """

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.requests = _Flow(REQUESTS, client, server)
        self.replies = _Flow(REPLIES, server, client)
        self.asked = b""
        self.goes_on_at: float | None = None

    @property
    def waits(self) -> bool:
        return self.requests.held or self.replies.held

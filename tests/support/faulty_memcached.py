"""A memcached that misbehaves on demand, for tests of what clients do then.

It speaks enough of the text protocol to work normally, from a memory of its own, and in
each other ``Mode`` it breaks in one way that a real server or its network can. It keeps
what it was asked, so a test can count requests and round trips.

Knows nothing of pytest and nothing of the library.
"""

from __future__ import annotations

import contextlib
import enum
import select
import socket
import threading
import time
from types import TracebackType
from typing import Callable, NamedTuple

from support.servers import free_port

#: Bytes of one recv. A burst that fills more than FULL may have more behind it.
CHUNK = 1 << 20
FULL = 16_384

#: Seconds to wait for the rest of a large burst before it is answered, so that one
#: pipelined write of the client counts as one round trip.
LINGER = 0.02

#: Seconds until a thread that should have ended is reported.
STOP_TIMEOUT = 10.0

#: Tries to find a port that nobody takes between our look at it and the bind.
PORT_TRIES = 10

#: As memcached: a larger expiry is a Unix time, not a number of seconds.
LONGEST_RELATIVE_EXPIRY = 60 * 60 * 24 * 30

#: Not a reply in any protocol, and with no line's end.
GARBAGE = b"\x80\xff\x00HTTP/1.1 400 Bad Request \xfe"

#: Where a client asks which server it is, when it connects.
IDENTITY = "hc1::node"

STORAGE_COMMANDS = {"set", "add", "replace", "cas"}


class Mode(enum.Enum):
    """What the server does with a burst of requests."""

    #: Answers rightly.
    WORKING = "working"
    #: Nothing listens on the port, and connections that were open are closed.
    REFUSE = "refuse"
    #: Accepts connections and requests, never answers; changes nothing.
    HANG = "hang"
    #: Answers each command with bytes that are no reply.
    GARBAGE = "garbage"
    #: Answers each command ``SERVER_ERROR out of memory``; changes nothing.
    SERVER_ERROR = "server error"
    #: Carries the commands out, sends half of the reply, closes the connection.
    CLOSE_MID_REPLY = "close in mid-reply"
    #: Answers each hit under another key than the one asked for.
    WRONG_KEY = "wrong key"
    #: Answers rightly, ``delay`` seconds later.
    SLOW = "slow"
    #: Announces each value with its length, sends half of it, goes on with ``END``.
    TRUNCATED_VALUE = "truncated value"


class Item(NamedTuple):
    value: bytes
    flags: str
    expires_at: float | None
    cas: int


class Command(NamedTuple):
    line: str
    words: list[str]
    body: bytes | None


class FaultyMemcached:
    """A scriptable memcached on a free port of 127.0.0.1, one thread a connection.

    Like ``Popen``, the constructor starts it. All attributes may be read, and ``mode``
    and ``delay`` be set, from any thread at any time.

    :param mode: what it does with each burst of requests, until told otherwise.
    :param delay: seconds, for ``Mode.SLOW``.
    """

    def __init__(self, mode: Mode = Mode.WORKING, *, delay: float = 1.0) -> None:
        self.delay = delay
        #: Every command line seen, whatever was answered, without its line's end.
        self.requests: list[str] = []
        #: Connections accepted, without those that only asked which server it is.
        self.connections = 0
        #: How often it was asked which server it is; those are no requests.
        self.questions = 0
        #: Bursts of requests that were answered, with one write each.
        self.round_trips = 0
        #: What is stored, by key. A test may look, and may take items away.
        self.items: dict[str, Item] = {}
        self._mode = mode
        self._once: list[Mode] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._cas = 0
        self._identity: bytes | None = None
        self.port = free_port()
        if mode is not Mode.REFUSE:
            self._listen_on_some_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        if mode is Mode.REFUSE:
            self._stop_listening()
        elif self._listener is None:
            self._listen()

    def once(self, *modes: Mode) -> None:
        """Take these modes for the next bursts, one each; then ``mode`` again."""
        if Mode.REFUSE in modes:
            raise ValueError("REFUSE is no answer to a request: set mode instead")
        with self._changed:
            self._once.extend(modes)

    def forget(self) -> None:
        """Set the counters to zero and the list of requests to empty."""
        with self._changed:
            self.requests.clear()
            self.connections = 0
            self.round_trips = 0
            self.questions = 0

    def restart(self) -> None:
        """Lose all items and close all connections, as a restarted server has."""
        self._stop_listening()
        with self._changed:
            self.items.clear()
            self._identity = None
        if self._mode is not Mode.REFUSE:
            self._listen()

    def wait_for_requests(self, count: int, timeout: float = 10.0) -> bool:
        """Wait until ``count`` requests have been seen; False after ``timeout`` s."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.requests) >= count, timeout)

    def stop(self) -> None:
        """Close everything and join all threads. Safe to call again."""
        self._stop_listening()

    def __enter__(self) -> FaultyMemcached:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _listen_on_some_port(self) -> None:
        for tries_left in reversed(range(PORT_TRIES)):
            try:
                self._listen()
                return
            except OSError:
                if not tries_left:
                    raise
                self.port = free_port()

    def _listen(self) -> None:
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(128)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self._closing = threading.Event()
        self._start_thread("accept", self._accept, listener, self._closing)

    def _start_thread(self, name: str, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(
            target=run, args=args, name=f"faulty-memcached-{name}", daemon=True
        )
        # Before the start: the accepting thread must stand before those it starts.
        self._threads.append(thread)
        thread.start()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with self._changed:
            self._closing.set()
            sockets = [listener, *self._open]
        for each in sockets:
            # Ends a blocked accept, recv or send in its thread; close would not.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        # The accepting thread comes first and adds no other once it has ended.
        for thread in self._threads:
            thread.join(STOP_TIMEOUT)
            if thread.is_alive():
                raise RuntimeError(f"{thread.name} did not end in {STOP_TIMEOUT:g} s")
        self._threads.clear()

    def _accept(self, listener: socket.socket, closing: threading.Event) -> None:
        with listener:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with self._changed:
                    if closing.is_set():
                        connection.close()
                        return
                    self._open.add(connection)
                    self._start_thread("connection", self._serve, connection, closing)

    def _serve(self, connection: socket.socket, closing: threading.Event) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                counted = False
                while True:
                    commands = _receive_burst(connection)
                    asked = [each for each in commands if IDENTITY in each.words]
                    if asked:
                        if self._mode is not Mode.HANG:
                            self._say_who_it_is(connection, asked)
                        commands = [each for each in commands if each not in asked]
                        if not commands:
                            continue
                    if commands and not counted:
                        counted = True
                        with self._changed:
                            self.connections += 1
                    if not commands or not self._answer(connection, commands, closing):
                        return
        finally:
            with self._changed:
                self._open.discard(connection)

    def _say_who_it_is(
        self, connection: socket.socket, commands: list[Command]
    ) -> None:
        """Answer as a part of connecting: rightly, and not counted as a request."""
        with self._changed:
            reply = b""
            self.questions += 1
            for command in commands:
                if command.words[0] == "add":
                    reply += b"NOT_STORED\r\n" if self._identity else b"STORED\r\n"
                    self._identity = self._identity or command.body
                elif self._identity is not None:
                    head = f"VALUE {IDENTITY} 0 {len(self._identity)}\r\n".encode()
                    reply += head + self._identity + b"\r\nEND\r\n"
        connection.sendall(reply)

    def _answer(
        self,
        connection: socket.socket,
        commands: list[Command],
        closing: threading.Event,
    ) -> bool:
        """Treat one burst as the mode says; False if the connection has to end."""
        with self._changed:
            self.requests += [command.line for command in commands]
            mode = self._once.pop(0) if self._once else self._mode
            reply = b"".join(self._reply(command, mode) for command in commands)
            self._changed.notify_all()
        if mode is Mode.SLOW and closing.wait(self.delay):
            return False
        if mode is Mode.CLOSE_MID_REPLY:
            reply = reply[: len(reply) // 2]
        if reply:
            # Counted first: a client that has the reply must see it counted.
            with self._changed:
                self.round_trips += 1
            connection.sendall(reply)
        return mode is not Mode.CLOSE_MID_REPLY and commands[-1].words != ["quit"]

    def _reply(self, command: Command, mode: Mode) -> bytes:
        if mode is Mode.HANG:
            return b""
        if mode is Mode.GARBAGE:
            return GARBAGE
        if mode is Mode.SERVER_ERROR:
            return b"SERVER_ERROR out of memory\r\n"
        try:
            reply = self._carry_out(command, mode)
        except (ValueError, IndexError):
            return b"CLIENT_ERROR bad command line format\r\n"
        return b"" if command.words[-1] == "noreply" else reply

    def _carry_out(self, command: Command, mode: Mode) -> bytes:
        name, *arguments = command.words
        if name in ("get", "gets"):
            return self._get(arguments, mode, with_cas=name == "gets")
        if name in STORAGE_COMMANDS:
            return self._store(name, command)
        if name == "delete":
            found = self._find(arguments[0]) is not None
            self.items.pop(arguments[0], None)
            return b"DELETED\r\n" if found else b"NOT_FOUND\r\n"
        if name == "version":
            return b"VERSION 1.6.18-faulty\r\n"
        if name == "flush_all":
            self.items.clear()
            self._identity = None
            return b"OK\r\n"
        if name == "quit":
            return b""
        return b"ERROR\r\n"

    def _get(self, keys: list[str], mode: Mode, *, with_cas: bool) -> bytes:
        reply = b""
        for key in keys:
            item = self._find(key)
            if item is None:
                continue
            value = item.value
            if mode is Mode.TRUNCATED_VALUE:
                value = value[: len(value) // 2]
            if mode is Mode.WRONG_KEY:
                key = "other:" + key
            cas = f" {item.cas}" if with_cas else ""
            head = f"VALUE {key} {item.flags} {len(item.value)}{cas}\r\n"
            reply += head.encode("latin-1") + value + b"\r\n"
        return reply + b"END\r\n"

    def _store(self, name: str, command: Command) -> bytes:
        _, key, flags, expiry = command.words[:4]
        if command.body is None:
            raise ValueError(command.line)
        present = self._find(key) is not None
        if name == "add" and present or name == "replace" and not present:
            return b"NOT_STORED\r\n"
        if name == "cas":
            if not present:
                return b"NOT_FOUND\r\n"
            if self.items[key].cas != int(command.words[5]):
                return b"EXISTS\r\n"
        self._cas += 1
        expires_at = _expires_at(int(expiry))
        self.items[key] = Item(command.body, flags, expires_at, self._cas)
        return b"STORED\r\n"

    def _find(self, key: str) -> Item | None:
        item = self.items.get(key)
        if item is None or item.expires_at is None or item.expires_at > time.time():
            return item
        del self.items[key]
        return None


def _expires_at(expiry: int) -> float | None:
    if expiry == 0:
        return None
    if expiry < 0:
        return 0.0
    if expiry > LONGEST_RELATIVE_EXPIRY:
        return expiry
    return time.time() + expiry


def _receive_burst(connection: socket.socket) -> list[Command]:
    """All commands of the client's next write; empty when it has closed.

    A burst that ends inside a command is not over, nor is a large one with more behind
    it: the client is still writing, so nothing has been waited for yet.
    """
    received = b""
    while True:
        data = connection.recv(CHUNK)
        if not data:
            return []
        received += data
        if len(data) >= FULL and select.select([connection], [], [], LINGER)[0]:
            continue
        commands = _parse(received)
        if commands:
            return commands


def _parse(received: bytes) -> list[Command]:
    """Split into commands; empty if the last one is incomplete."""
    commands = []
    at = 0
    while at < len(received):
        end = received.find(b"\r\n", at)
        if end < 0:
            return []
        line = received[at:end].decode("latin-1")
        words = line.split() or [""]
        at = end + 2
        body = None
        if words[0] in STORAGE_COMMANDS and len(words) > 4 and words[4].isdigit():
            end = at + int(words[4])
            if len(received) < end + 2:
                return []
            body = received[at:end]
            at = end + 2
        commands.append(Command(line, words, body))
    return commands

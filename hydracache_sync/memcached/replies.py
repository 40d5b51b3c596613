"""Read memcached's answers off a stream, however the stream is cut into pieces.

Takes only what was asked for, in the classic ASCII protocol: anything else is the
answer to another command, or not from memcached. So a key that was not asked for, an
unknown line, a wrong length or a byte too many is refused. After a refusal, and after
any exception from the stream, the place in the stream is unknown and nothing more may
be read from it. Needs no socket, only a function that gives bytes.
"""

from __future__ import annotations

import math
import re
import socket
from time import monotonic
from typing import Callable, Dict, Sequence

#: Bytes per read. pymemcache's 4096 take three reads for a value of 10 KB.
RECEIVE_SIZE = 64 * 1024

#: Bytes of a line without an end. The longest of memcached is a key with its numbers.
MAX_LINE = 2048

#: Bytes of an answer in which looking for each line's end takes less time than skipping
#: from length to length.
SHORT_ANSWER = 4096

#: Bytes of a value, by default. What is announced is read into memory, so a
#: server that is not what it should be must not choose how much.
MAX_VALUE = 32 * 1024 * 1024

#: A timeout of Python's, in the spelling of 3.9 too, and of the kernel's (SO_RCVTIMEO).
TIMEOUTS = (TimeoutError, socket.timeout, BlockingIOError)

_value_head = re.compile(rb"VALUE ([^ \r\n]+) [0-9]+ ([0-9]{1,10})()\r\n").match
_version_head = re.compile(
    rb"VALUE ([^ \r\n]+) [0-9]+ ([0-9]{1,10}) ([0-9]{1,20})\r\n"
).match
#: Bytes of tokens.
_TOKEN_SIZES = {17}
#: Digits of a version.
_UNIQUE_SIZES = frozenset(range(1, 21))


class _AfterKeys(Dict[int, bytes]):
    """What follows a value's key, up to the key of the next one, by the value's size.

    Without the value: what is compared are the lines around values.
    Made when first asked for: numbers take long to write. For short answers alone.
    """

    def __missing__(self, size: int) -> bytes:
        self[size] = text = b" 0 %d\r\nVALUE " % size
        return text


_after_key = _AfterKeys().__getitem__


class BrokenReply(ConnectionError):
    """The peer sent what memcached would not send here."""


class WithoutVersions(BrokenReply):
    """The peer cannot store on condition. What it does else is right."""


class LoginRefused(BrokenReply):
    """The peer wants a login that it was not given, or takes not the one it was."""


class Unanswered(ConnectionError):
    """The connection ended before the first byte of an answer."""


class Replies:
    """The answers of one connection. Not for several threads at once.

    :param receive: returns up to so many bytes, ``b""`` at the end of the stream.
    :param max_value: bytes of a value that are read; a longer one is refused.

    :ivar deadline: moment of ``time.monotonic`` after which no second read is begun,
        so that a peer which sends a byte now and then cannot hold the caller without
        limit.
    :ivar begun: whether anything was read since the last question. The first read of an
        answer that waits in the socket is made at any time: its node is not to blame
        for what others were waited for.
    """

    __slots__ = ("deadline", "begun", "_receive", "_max_value", "_buffer")

    def __init__(
        self, receive: Callable[[int], bytes], max_value: int = MAX_VALUE
    ) -> None:
        self.deadline = math.inf
        self.begun = False
        self._receive = receive
        self._max_value = max_value
        self._buffer = b""

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read the answer to a ``get``, the last one awaited, to its end.

        :return: values in the order of the keys, None where there is none.
        :raises OSError: as the stream does; ``Unanswered`` if it ended without a byte,
            ``BrokenReply`` for a wrong answer, ``TimeoutError`` past the deadline.
        """
        buffer = self._buffer or self._first()
        if len(buffer) <= SHORT_ANSWER:
            # Mostly all was found and is here, in order. To say what the lines must be
            # and compare takes half as long as to take them apart.
            # From the end, so that the first value, the only long one of a cached read,
            # is not searched.
            parts = buffer.rsplit(b"\r\n", 2 * len(keys))
            parts[:1] = parts[0].split(b"\r\n", 1)
            values = parts[1::2]
            lines = parts[::2]
            if (
                len(values) == len(keys) + 1
                and not values.pop()
                and lines[-1] == b"END"
            ):
                # As if one more value came, so that one join makes them all.
                lines[-1] = b"VALUE "
                woven = values * 2
                woven[::2] = keys
                woven[1::2] = map(_after_key, map(len, values))
                if b"\r\n".join(lines) == b"VALUE " + b"".join(woven):
                    self._buffer = b""
                    return values  # type: ignore[return-value]
        found = self._values_one_by_one(buffer, set(keys))
        self.finish()
        return [found.get(key) for key in keys]

    def value(self, key: bytes) -> bytes | None:
        """Read the answer to a ``get`` of one key, which others follow.

        :raises OSError: as :meth:`values`.
        """
        buffer = self._buffer or self._more()
        return self._values_one_by_one(buffer, {key}).get(key)

    def versions(
        self, keys: Sequence[bytes]
    ) -> tuple[Sequence[bytes | None], Sequence[bytes]]:
        """Read the answer to a ``gets``: of each key its value and that one's version.

        :return: in the order of the keys; the value is None where there is nothing.
        :raises OSError: as :meth:`values`.
        """
        buffer = self._buffer or self._more()
        # Mostly all are tokens, were found and are here, in order. To cut the answer at
        # what is the same in each, and to compare the rest, takes less time than to
        # take the lines apart. A token with the end of a line in it goes the other way.
        end = buffer.find(b"END\r\n")
        pieces = buffer[: max(end, 0)].split(b" 0 17 ")
        if len(pieces) == len(keys) + 1:
            # Of each a line "VALUE key\n", one of the version, and one of the value.
            lines = b"\n\r\n".join(pieces).split(b"\r\n")
            heads, uniques, values = lines[0::3], lines[1::3], lines[2::3]
            if (
                len(lines) == 3 * len(keys) + 1
                and not heads.pop()
                and b"".join(heads) == b"VALUE %b\n" % b"\nVALUE ".join(keys)
                and set(map(len, values)) == _TOKEN_SIZES
                and _UNIQUE_SIZES.issuperset(map(len, uniques))
                and b"".join(uniques).isdigit()
                and b"0" not in uniques
            ):
                self._buffer = buffer[end + 5 :]
                return values, uniques
        if buffer.startswith(b"ERROR"):
            raise WithoutVersions(
                "it does not know 'gets' and 'cas', which tokens need: a proxy?"
            )
        versions: dict[bytes, tuple[bytes, bytes]] = {}
        self._values_one_by_one(buffer, set(keys), versions)
        if any(unique == b"0" for _, unique in versions.values()):
            raise WithoutVersions(
                "it keeps no versions of its items, which tokens need; start it without"
                " the option -C (disable cas)"
            )
        nothing: tuple[bytes | None, bytes] = (None, b"")
        found_or_not = [versions.get(key, nothing) for key in keys]
        return [value for value, _ in found_or_not], [each for _, each in found_or_not]

    def _values_one_by_one(
        self,
        buffer: bytes,
        wanted: set[bytes],
        versions: dict[bytes, tuple[bytes, bytes]] | None = None,
    ) -> dict[bytes, bytes]:
        """Read to ``END``. What comes after it stays in the buffer.

        :param versions: filled, if the values have versions.
        """
        found: dict[bytes, bytes] = {}
        position = 0
        match = _value_head if versions is None else _version_head
        while True:
            head = match(buffer, position)
            if head is None:
                end = buffer.find(b"\r\n", position)
                if end < 0:
                    buffer = self._longer_line(buffer[position:])
                    position = 0
                    continue
                if buffer[position:end] != b"END":
                    raise _unexpected(buffer[position:end], "a VALUE or END")
                self._buffer = buffer[end + 2 :]
                return found
            key, digits, unique = head.groups()
            if key not in wanted:
                raise _unexpected(key, "the value of a key that was asked for")
            start = head.end()
            stop = start + int(digits)
            if stop - start > self._max_value:
                raise BrokenReply(
                    f"it sends a value of {stop - start} bytes, over the store's"
                    f" max_value of {self._max_value}"
                )
            if stop + 2 > len(buffer):
                buffer = self._at_least(stop + 2 - start, buffer[start:])
                start, stop = 0, stop - start
            if not buffer.startswith(b"\r\n", stop):
                raise _unexpected(buffer[stop : stop + 2], "the end of a value")
            # A key that was asked for twice is answered twice, and alike.
            if versions is None:
                value = buffer[start:stop]
                if found.setdefault(key, value) != value:
                    raise _unexpected(key, "one value for a key")
            else:
                versions[key] = buffer[start:stop], unique
            position = stop + 2

    def line(self) -> bytes:
        """Read one line, without its end.

        :raises OSError: as :meth:`values`.
        """
        buffer = self._buffer or self._more()
        end = buffer.find(b"\r\n")
        while end < 0:
            buffer = self._longer_line(buffer)
            end = buffer.find(b"\r\n")
        self._buffer = buffer[end + 2 :]
        return buffer[:end]

    def lines(self, count: int) -> list[bytes]:
        """Read ``count`` lines, 1 or more, without their ends.

        :raises OSError: as :meth:`values`.
        """
        lines = (self._buffer or self._more()).split(b"\r\n", count)
        while len(lines) <= count:
            longer = self._longer_line(lines.pop())
            lines += longer.split(b"\r\n", count - len(lines))
        self._buffer = lines.pop()
        return lines

    def skip(self, line: bytes, count: int) -> int:
        """Pass over up to ``count`` lines that are all ``line`` and came in one piece.

        :return: how many; 0 says that the next line is another one, or not whole yet.
        :raises OSError: as :meth:`values`.
        """
        buffer = self._buffer or self._more()
        line += b"\r\n"
        count = min(count, len(buffer) // len(line))
        if not buffer.startswith(line * count):
            count = 0
        self._buffer = buffer[count * len(line) :]
        return count

    def finish(self) -> None:
        """State that every answer has been read.

        :raises BrokenReply: something is left, so one of them was not ours.
        """
        if self._buffer:
            raise _unexpected(self._buffer, "nothing after the last reply")

    def _first(self) -> bytes:
        """The first piece since something was sent; comes before any deadline."""
        self.begun = True
        try:
            data = self._receive(RECEIVE_SIZE)
        except TIMEOUTS as exc:
            raise TimeoutError("no answer in time; is it overloaded, or hung?") from exc
        except OSError as exc:
            raise Unanswered(f"it ended the connection: {exc}") from exc
        if not data:
            raise Unanswered("it ended the connection: a restart?")
        return data

    def _more(self) -> bytes:
        if self.begun and monotonic() >= self.deadline:
            raise TimeoutError("its answer was not complete in time; is it overloaded?")
        try:
            return self._first()
        except Unanswered as exc:
            raise ConnectionResetError(
                "it ended the connection before its answer was complete: a restart?"
            ) from exc

    def _longer_line(self, buffer: bytes) -> bytes:
        if len(buffer) > MAX_LINE:
            raise _unexpected(buffer, "a line")
        return buffer + self._more()

    def _at_least(self, size: int, buffer: bytes) -> bytes:
        """Read until there are ``size`` bytes, in time linear in the size."""
        pieces = [buffer]
        missing = size - len(buffer)
        while missing > 0:
            data = self._more()
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)


def not_understood(answer: bytes) -> BrokenReply:
    """The error for a line that memcached would not answer."""
    # Anything but an error line may be part of a value, and those are never logged.
    if answer.startswith(UNAUTHENTICATED):
        return login_refused(answer)
    said = repr(answer[:200]) if answer.startswith(_errors) else "something else"
    return BrokenReply(
        f"it answers {said}: is that a memcached, and its text protocol?"
    )


def login_refused(answer: bytes) -> LoginRefused:
    """The error for what a server says that wants a login, or another one."""
    return LoginRefused(
        f"it answers {answer[:200]!r}: it needs a login of its file (its option -Y):"
        " set HYDRACACHE_MEMCACHED_USER and HYDRACACHE_MEMCACHED_PASSWORD, or auth= of"
        " the store"
    )


#: What a server with ``-Y`` answers to all that comes before a login. The last two are
#: for a ``set``: it takes the first one for a login.
UNAUTHENTICATED = (
    b"CLIENT_ERROR unauthenticated",
    b"CLIENT_ERROR authentication failure",
    b"CLIENT_ERROR bad authentication token format",
)

_errors = (b"ERROR", b"CLIENT_ERROR ", b"SERVER_ERROR ")


def _unexpected(found: bytes, expected: str) -> BrokenReply:
    # Anything but an error line may be part of a value, and those are never logged.
    if found.startswith(UNAUTHENTICATED):
        return login_refused(found)
    if found.startswith(_errors):
        return BrokenReply(f"expected {expected}, got {found[:200]!r}")
    return BrokenReply(f"expected {expected}, got other bytes")

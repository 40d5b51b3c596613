"""One short question, asked again and again on an own connection for little.

An idle worker asks the same thing fifty times a second, each time on cold caches.
PyMySQL writes the text again and takes the five packets of the answer apart one by one,
which costs more than all the rest of a look. Here the packet is made once and the
answer, which is one number, is read at once.
"""

from __future__ import annotations

import struct
import sys
from typing import Any

_QUERY = 3  # COM_QUERY
_ERROR = b"\xff"

#: Packets of an answer: the number of columns, the column, the end of them, the record,
#: the end of those; and the place of the record.
_PACKETS = 5
_RECORD = 3

#: Bytes of an answer, beyond which it is not the one expected.
_LONGEST = 4096


class UnexpectedReplyError(Exception):
    """The server, or what stands before it, answered in a form that is not known here.

    The connection has been closed.
    """


def encode_query(text: str) -> bytes:
    """Return the packet that asks ``text``, a select of one number."""
    body = text.encode("utf-8")
    return struct.pack("<iB", len(body) + 1, _QUERY) + body


def poll(connection: Any, packet: bytes) -> int:
    """Send ``packet`` on an own connection that is free; return the number.

    :raises pymysql.Error, OSError: as ``connection.query`` would; and when no answer
        has come as a whole in time.
    """
    if connection._sock is None:
        raise _errors().InterfaceError(0, "")
    try:
        connection._write_bytes(packet)
        part = connection.receive()
    except BaseException:
        connection._force_close()
        raise
    return _number_answered(connection, part)


def poll_again(connection: Any, packet: bytes, now: float) -> int:
    """Do what :func:`poll` does, right after it, by fewer lines.

    The connection is at rest: its socket has the limit of time for an answer.

    :param now: of ``time.monotonic()``.
    """
    try:
        sock = connection._sock
        sock.sendall(packet)
        part: bytes = sock.recv(_LONGEST)
        if part == connection.hydracache_empty_reply:
            return 0
        connection.note_question(now)
    except BaseException:
        connection._force_close()
        raise
    return _number_answered(connection, part)


def _number_answered(connection: Any, part: bytes) -> int:
    """Return the number in an answer that begins with ``part``; receive the rest."""
    try:
        empty_reply = connection.hydracache_empty_reply
        answer = b""
        while True:
            if part == empty_reply:
                return 0  # the same bytes say the same; it is what they say mostly
            if not part:
                raise _errors().OperationalError(
                    2013, "Lost connection to MySQL server during query"
                )
            answer += part
            packets = _taken_apart(answer)
            if any(packet[:1] == _ERROR for packet in _that_may_fail(packets)):
                break
            if len(packets) >= _PACKETS:
                number = _number(packets)
                if number == 0:
                    connection.hydracache_empty_reply = answer
                return number
            if len(answer) >= _LONGEST:
                raise UnexpectedReplyError(f"{len(answer)} bytes")
            part = connection.receive()
    except BaseException:
        # What is still on its way would pass for the answer to the next question.
        connection._force_close()
        raise
    _raise(connection, packets[-1])
    raise AssertionError("it always raises")


def _errors() -> Any:
    # The connection has brought it.
    return sys.modules["pymysql.err"]


def _raise(connection: Any, packet: bytes) -> None:
    try:
        _errors().raise_mysql_exception(packet)
    except (struct.error, IndexError) as exc:
        connection._force_close()
        raise UnexpectedReplyError(f"an error of {len(packet)} bytes") from exc


def _taken_apart(answer: bytes) -> list[bytes]:
    """The bodies of the packets that are there as a whole."""
    packets: list[bytes] = []
    start = 0
    while start + 4 <= len(answer):
        end = start + 4 + int.from_bytes(answer[start : start + 3], "little")
        if answer[start + 3] != len(packets) + 1:
            raise UnexpectedReplyError(f"packet {answer[start + 3]} is out of turn")
        if end > len(answer):
            break
        packets.append(answer[start + 4 : end])
        start = end
    return packets


def _that_may_fail(packets: list[bytes]) -> list[bytes]:
    """Those in whose place an error may come: the first, and the record's."""
    return packets[:1] + packets[_RECORD:]


def _number(packets: list[bytes]) -> int:
    record = packets[_RECORD]
    digits = record[1:]
    if packets[0] != b"\x01" or record[:1] != bytes((len(digits),)):
        raise UnexpectedReplyError(f"{len(packets)} packets")
    if len(packets) > _PACKETS or not digits.isdigit():
        raise UnexpectedReplyError("it is not one number")
    return int(digits)

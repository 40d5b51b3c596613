"""One short question, asked again and again on an own connection for little.

An idle worker asks the same thing fifty times a second, each time on cold caches.
PyMySQL writes the text again and takes the packets of the answer apart one by one,
which costs more than all the rest of a look. Here the packet is made once and the
answer, which is a few short texts and mostly none, is read at once.
"""

from __future__ import annotations

import struct
import sys
from typing import Any

_QUERY = 3  # COM_QUERY
_ERROR = b"\xff"
_END = b"\xfe"

#: Packets of an answer before its records: the number of columns, the column, the end
#: of them. Behind the records is another end.
_BEFORE_RECORDS = 3

#: The longest text of a record; the length of a longer one takes more than a byte.
_LONGEST_TEXT = 250

#: Bytes of an answer, beyond which it is not the one expected.
_LONGEST = 4096


class UnexpectedReplyError(Exception):
    """The server, or what stands before it, answered in a form that is not known here.

    The connection has been closed.
    """


def encode_query(text: str) -> bytes:
    """Return the packet that asks ``text``, a select of one short text or number."""
    body = text.encode("utf-8")
    return struct.pack("<iB", len(body) + 1, _QUERY) + body


def poll(connection: Any, packet: bytes) -> list[bytes]:
    """Send ``packet`` on an own connection that is free; return each row's text.

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
    return _texts_answered(connection, part)


def poll_again(connection: Any, packet: bytes, now: float) -> list[bytes]:
    """Do what :func:`poll` does, right after it, by fewer lines.

    The connection is at rest: its socket has the limit of time for an answer.

    :param now: of ``time.monotonic()``.
    """
    try:
        sock = connection._sock
        sock.sendall(packet)
        part: bytes = sock.recv(_LONGEST)
        if part == connection.hydracache_empty_reply:
            return []
        connection.note_question(now)
    except BaseException:
        connection._force_close()
        raise
    return _texts_answered(connection, part)


def _texts_answered(connection: Any, part: bytes) -> list[bytes]:
    """Return the texts in an answer that begins with ``part``; receive the rest."""
    try:
        empty_reply = connection.hydracache_empty_reply
        answer = b""
        while True:
            if part == empty_reply:
                return []  # the same bytes say the same; it is what they say mostly
            if not part:
                raise _errors().OperationalError(
                    2013, "Lost connection to MySQL server during query"
                )
            answer += part
            packets = _taken_apart(answer)
            if any(packet[:1] == _ERROR for packet in _that_may_fail(packets)):
                break
            if any(map(_is_end, packets[_BEFORE_RECORDS:])):
                texts = _texts(packets)
                if not texts:
                    connection.hydracache_empty_reply = answer
                return texts
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
    """Those in whose place an error may come: the first, and the records'."""
    return packets[:1] + packets[_BEFORE_RECORDS:]


def _is_end(packet: bytes) -> bool:
    # A record may begin so too: with the length of a very long text.
    return packet[:1] == _END and len(packet) < 9


def _texts(packets: list[bytes]) -> list[bytes]:
    """Return the texts of an answer that has its end."""
    if packets[0] != b"\x01" or not _is_end(packets[_BEFORE_RECORDS - 1]):
        raise UnexpectedReplyError("it is not one column")
    *records, end = packets[_BEFORE_RECORDS:]
    if not _is_end(end):
        raise UnexpectedReplyError("more has come behind its end")
    texts = [record[1:] for record in records]
    for record, text in zip(records, texts):
        if len(text) > _LONGEST_TEXT or record[:1] != bytes((len(text),)):
            raise UnexpectedReplyError(f"a record of {len(record)} bytes")
    return texts

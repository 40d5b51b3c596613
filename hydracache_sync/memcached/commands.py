"""memcached's classic commands as bytes, and how many may be under way at once.

What changes or removes a value is acknowledged, always: an invalidation that was not
acknowledged may not have happened. ``noreply`` has a placeholder alone, which the
``gets`` right behind it on the same connection reads back. Knows no socket.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Any, Iterator, NamedTuple, Sequence

from hydracache_sync.cache.keyspace import (
    NODE_IDENTITY,
    Address,
    are_valid_keys,
    checked_app_key,
)
from hydracache_sync.cache.store import (
    GONE,
    Failures,
    Write,
    checked_value,
    whole_seconds,
)
from hydracache_sync.errors import ApplyPermanent

#: Bytes sent before answers are read. They fit into the buffers of the two sockets, and
#: so do the answers: a command has 30 bytes or more, its answer mostly 8. So neither
#: side ever waits for the other to read.
WINDOW_SIZE = 64 * 1024

#: What the server answers when it has done as it was told, the usual answer first.
STORED = (b"STORED",)
ADDED = frozenset((b"STORED", b"NOT_STORED"))
DELETED = (b"DELETED", b"NOT_FOUND")
COMPARED = (b"STORED", b"EXISTS", b"NOT_FOUND")

VERSION = b"version\r\n"

#: memcached takes more than this for a date.
_LONGEST_RELATIVE = 30 * 24 * 3600

#: A date in the past. memcached takes any negative number for that as well, but proxies
#: (twemproxy) end the connection at one.
EXPIRED = _LONGEST_RELATIVE + 24 * 3600

#: memcached reads dates as 32 bits with a sign. Later than this is never.
_LAST_DATE = 2**31 - 1


#: Keys in one ``get``. memcached has answered ERROR to lines of thousands (its
#: issue 849), and a line over 2 KB that arrives in pieces takes a slower way in it.
KEYS_PER_GET = 100


#: Bytes of a ``cas`` or ``add`` besides key and value, with the longest numbers.
_LONGEST_REST = len(b"cas  0 0 1048576 18446744073709551615\r\n\r\n ")


class Window(NamedTuple):
    """Commands to be sent at once, and what each one's answer is about."""

    things: Sequence[Any]
    data: bytes


def get(keys: Sequence[bytes], verb: bytes = b"get ") -> bytes:
    """One ``get`` for one or more keys.

    :raises ValueError: a key is empty, has a blank or a line's end in it, or there is
        none.
    """
    names = b" ".join(keys)
    if names.split() != [*keys] or not keys:
        raise ValueError("an address holds no memcached key")
    return verb + names + b"\r\n"


def versions(
    places: Sequence[int], keys: Sequence[bytes], placeholders: Sequence[bytes]
) -> Iterator[Window]:
    """For each place an ``add`` of its placeholder, and after them all ``gets``.

    A window has the answers of a ``gets`` for each ``KEYS_PER_GET`` of its places. The
    adds have none, which would take both sides some time to send and read, and would
    say nothing more. Where nothing is there, :func:`tries` asks for the reason.

    :param placeholders: all of one length.
    """
    # Each key is sent twice, and all of it in one go.
    longest = 2 * max(map(len, keys), default=0) + max(
        map(len, placeholders), default=0
    )
    step = WINDOW_SIZE // (longest + _LONGEST_REST) or 1
    for start in range(0, len(keys), step):
        stop = min(start + step, len(keys))
        gets = [
            get(keys[first : min(first + KEYS_PER_GET, stop)], b"gets ")
            for first in range(start, stop, KEYS_PER_GET)
        ]
        adds = _adds(keys[start:stop], placeholders[start:stop], b"0", b" noreply\r\n")
        yield Window(places[start:stop], b"".join([adds, *gets]))


def compare_and_set(
    keys: Sequence[bytes], uniques: Sequence[bytes], values: Sequence[bytes]
) -> bytes:
    """``cas`` for each key of a window of :func:`versions`, of at most its size.

    :param values: all of one length.
    """
    if not keys:
        return b""
    [size] = set(map(len, values))
    head = b" 0 0 %d " % size
    return _each(len(keys), b"cas ", keys, head, uniques, b"\r\n", values, b"\r\n")


def tries(keys: Sequence[bytes], size: int) -> bytes:
    """``add`` for each key, of ``size`` bytes that no ``get`` returns.

    They expire at once. The answers say what kept a placeholder from being stored.
    """
    return _adds(keys, [bytes(size)] * len(keys), b"%d" % EXPIRED)


def _adds(
    keys: Sequence[bytes],
    values: Sequence[bytes],
    expiry: bytes = b"0",
    end: bytes = b"\r\n",
) -> bytes:
    """``add`` for each key.

    :param values: all of one length.
    """
    [size] = set(map(len, values))
    head = b" 0 %b %d%b" % (expiry, size, end)
    return _each(len(keys), b"add ", keys, head, values, b"\r\n")


def _each(count: int, *parts: bytes | Sequence[bytes]) -> bytes:
    """Return ``count`` commands; of each part all have the same bytes, or one each."""
    # One join for all: each row of a worker takes two commands.
    woven = [b""] * (count * len(parts))
    for place, part in enumerate(parts):
        each = [part] * count if isinstance(part, bytes) else part
        woven[place :: len(parts)] = each
    return b"".join(woven)


def identity(proposed: bytes) -> bytes:
    """Give the server this identity unless it has one, and read the one it has."""
    return _adds([NODE_IDENTITY], [proposed]) + get([NODE_IDENTITY])


def stats(group: bytes) -> bytes:
    """A question about the server itself, or a ``group`` of its answers.

    :raises ValueError: the group is not one word.
    """
    if group and not group.isalnum():
        raise ValueError(f"{group!r} is no group of stats")
    return b"stats " + group + b"\r\n" if group else b"stats\r\n"


def store(
    verb: bytes, writes: Sequence[Write], refused: Failures, *, now: float
) -> Iterator[Window]:
    """``set`` or ``add`` for each write; a key that is none goes into ``refused``.

    :param now: Unix seconds, for a TTL that must be sent as a date.
    :raises TypeError, ValueError: as ``CacheStore`` says, before the first window.
    """
    return _windows(*each_store(verb, writes, refused, now=now))


def each_store(
    verb: bytes, writes: Sequence[Write], refused: Failures, *, now: float
) -> tuple[Sequence[Address], list[bytes]]:
    """As :func:`store`, one command for each write that is not refused."""
    expiries = {ttl: expiry_of(ttl, now) for ttl in {ttl for _, _, ttl in writes}}
    for _, value, _ in writes:
        if type(value) is not bytes:
            checked_value(value)
    addresses = _with_good_keys([address for address, _, _ in writes], refused)
    if refused:
        writes = [write for write in writes if write[0] not in refused]
    # One format for each, since this is most of what an applier's batch costs.
    return addresses, [
        b"%b %b 0 %d %d\r\n%b\r\n" % (verb, key, expiries[ttl], len(value), value)
        for (_, key), value, ttl in writes
    ]


def delete(addresses: Sequence[Address], refused: Failures) -> Iterator[Window]:
    """``delete`` for each address; a key that is none goes into ``refused``."""
    addresses = _with_good_keys(addresses, refused)
    return _windows(addresses, [b"delete %b\r\n" % key for _, key in addresses])


def expiry_of(ttl: float | None, now: float) -> int:
    """How memcached wants to hear of a TTL: seconds, or a date if it is long."""
    if ttl == GONE:
        return EXPIRED
    seconds = whole_seconds(ttl)
    if seconds <= _LONGEST_RELATIVE:
        return seconds
    date = int(now) + seconds
    return date if date <= _LAST_DATE else 0


def _windows(
    addresses: Sequence[Address], commands: Sequence[bytes]
) -> Iterator[Window]:
    """Cut into runs of up to ``WINDOW_SIZE`` bytes; a larger command goes alone."""
    ends = list(accumulate(map(len, commands)))
    start = sent = 0
    while start < len(ends):
        stop = max(start + 1, bisect_right(ends, sent + WINDOW_SIZE))
        yield Window(addresses[start:stop], b"".join(commands[start:stop]))
        start, sent = stop, ends[stop - 1]


def _with_good_keys(
    addresses: Sequence[Address], refused: Failures
) -> Sequence[Address]:
    # The server would answer a bad key in a set with two lines, one for the command and
    # one for the value. Every later answer would then be taken for that of another
    # command.
    if are_valid_keys([key for _, key in addresses]):
        return addresses
    for address in addresses:
        try:
            checked_app_key(address[1])
        except ValueError as exc:
            refused[address] = ApplyPermanent(str(exc))
    return [address for address in addresses if address not in refused]

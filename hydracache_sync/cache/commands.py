"""memcached's classic commands as bytes, and how many may be under way at once.

No ``noreply``, ever: an invalidation that nobody confirmed is a hope. Knows no socket.
"""

from __future__ import annotations

from typing import Iterator, Sequence, Tuple

from hydracache_sync.cache.keyspace import Address, checked_app_key
from hydracache_sync.cache.store import (
    Failures,
    Write,
    checked_value,
    whole_seconds,
)
from hydracache_sync.errors import ApplyPermanent

#: A command, and the address that its one line of answer is about.
Command = Tuple[Address, bytes]

#: Bytes sent before answers are read. They fit into the buffers of the two sockets,
#: and so do the answers to them (a command has 30 bytes or more, its answer mostly 8),
#: so that neither side ever waits for the other to read.
WINDOW_SIZE = 64 * 1024

#: What the server answers when it has done as it was told.
STORED = frozenset([b"STORED"])
ADDED = frozenset([b"STORED", b"NOT_STORED"])
DELETED = frozenset([b"DELETED", b"NOT_FOUND"])

VERSION = b"version\r\n"

#: memcached takes more than this for a date.
_LONGEST_RELATIVE = 30 * 24 * 3600

#: memcached reads dates as 32 bits with a sign. Later than this is never.
_LAST_DATE = 2**31 - 1


def get(keys: Sequence[bytes]) -> bytes:
    """One ``get`` for one or more keys.

    :raises ValueError: a key has a blank or a line's end in it, or there is none.
    """
    names = b" ".join(keys)
    if names.count(b" ") != len(keys) - 1 or b"\n" in names:
        raise ValueError("an address holds no memcached key")
    return b"get " + names + b"\r\n"


def store(
    verb: bytes, writes: Sequence[Write], refused: Failures, *, now: float
) -> list[Command]:
    """``set`` or ``add`` for each write; a key that is none goes into ``refused``.

    :param now: Unix seconds, for a TTL that must be sent as a date.
    :raises TypeError, ValueError: as ``CacheStore`` says.
    """
    commands = []
    for address, value, ttl in writes:
        expiry = 0 if ttl is None else expiry_of(ttl, now)
        size = len(checked_value(value))
        key = _key_of(address, refused)
        if key:
            head = b"%b %b 0 %d %d\r\n" % (verb, key, expiry, size)
            commands.append((address, b"%b%b\r\n" % (head, value)))
    return commands


def delete(addresses: Sequence[Address], refused: Failures) -> list[Command]:
    """``delete`` for each address; a key that is none goes into ``refused``."""
    commands = []
    for address in addresses:
        key = _key_of(address, refused)
        if key:
            commands.append((address, b"delete %b\r\n" % key))
    return commands


def expiry_of(ttl: float, now: float) -> int:
    """How memcached wants to hear of a TTL: seconds, or a date if it is long."""
    seconds = whole_seconds(ttl)
    if seconds <= _LONGEST_RELATIVE:
        return seconds
    date = int(now) + seconds
    return date if date <= _LAST_DATE else 0


def windows(commands: Sequence[Command]) -> Iterator[Sequence[Command]]:
    """Cut into runs of up to ``WINDOW_SIZE`` bytes; a larger command goes alone."""
    start = size = 0
    for index, (_, command) in enumerate(commands):
        size += len(command)
        if size > WINDOW_SIZE and index > start:
            yield commands[start:index]
            start, size = index, len(command)
    if start < len(commands):
        yield commands[start:]


def _key_of(address: Address, refused: Failures) -> bytes | None:
    # The server would answer a bad key in a set with two lines, one for the command
    # and one for the value, and every later answer would be taken for its neighbour's.
    try:
        return checked_app_key(address[1])
    except ValueError as exc:
        refused[address] = ApplyPermanent(str(exc))
        return None

"""How the outbox benchmarks measure, and the part of the hand-written code they share.

Both sides run in turn in one process, one of each: a pause of the disk or of the
machine hits both. The ratio is taken round by round, and its median is told; beside it
the processor time of this thread, which other programs disturb less.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from hashlib import sha256
from typing import Any, Callable, Iterable, Iterator, Sequence

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
)
from hydracache_sync.outbox import InvalidationOutbox

NAMESPACE = "shop"
COLUMNS = (
    "target_hash, kind, value, entity_name, namespace, commit_position, reason,"
    " created_at_ms, at_ms, state"
)

#: Keys in one question to memcached.
KEYS_PER_GET = 100

#: Columns of the table that the comparisons fill.
SIDES = "what", "by hand", "library", "ratio (least to largest)", "goal"

#: A target by hand: hash, kind, value, name of the entity.
Target = tuple[bytes, str, str, "str | None"]


def part(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


DOMAIN = part(b"hydracache-invalidation-intent-v1")
KEY, TAG, ENTITY = (DOMAIN + part(kind) for kind in (b"key", b"tag", b"entity"))


def hand_targets(number: int) -> tuple[Target, Target, Target]:
    """What :func:`library_batch` invalidates, with its hashes."""
    key, id = f"user:{number}", str(number)
    return (
        (sha256(KEY + part(key.encode())).digest(), "key", key, None),
        (
            sha256(ENTITY + part(b"user") + part(id.encode())).digest(),
            "entity",
            id,
            "user",
        ),
        (sha256(TAG + part(b"users")).digest(), "tag", "users", None),
    )


def library_batch(number: int) -> InvalidationIntentBatch:
    return (
        InvalidationIntentBatch("write")
        .invalidate_key(f"user:{number}")
        .invalidate_entity("user", str(number))
        .invalidate_tag("users")
    )


def rows_to_drain(rows: int) -> Iterator[tuple[Any, ...]]:
    """Values of COLUMNS for rows of commits with three entities each."""
    now = int(time.time() * 1000)
    for number in range(rows):
        yield (
            sha256(str(number).encode()).digest(),
            "entity",
            str(number),
            "user",
            NAMESPACE,
            f"position:{number // 3}",
            "write",
            now,
            now,
            0,
        )


class HandTokens:
    """Writes tokens by hand, on a socket, in the two round trips that they take.

    The first adds a placeholder where none is, unanswered, and reads what is there; the
    second stores fresh tokens on condition that it is still there.

    :param address: ``host:port`` of a memcached.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 5.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def replace(self, keys: Sequence[bytes]) -> None:
        """Give each key a fresh token, acknowledged.

        :raises RuntimeError: another writer was faster, or something failed.
        """
        randomness = os.urandom(16 * len(keys))
        adds = b"".join(
            [
                b"add %b 0 0 17 noreply\r\nL%b\xff\xff\xff\xff\xff\xff\xff\xff\r\n"
                % (key, randomness[8 * place : 8 * place + 8])
                for place, key in enumerate(keys)
            ]
        )
        starts = range(0, len(keys), KEYS_PER_GET)
        gets = b"".join(
            [
                b"gets %b\r\n" % b" ".join(keys[start : start + KEYS_PER_GET])
                for start in starts
            ]
        )
        self._socket.sendall(adds + gets)
        uniques = self._uniques(len(keys), len(starts))
        stamp = int(time.time() * 1000).to_bytes(8, "big")
        at = 8 * len(keys)
        self._socket.sendall(
            b"".join(
                [
                    b"cas %b 0 0 17 %b\r\nL%b%b\r\n"
                    % (
                        key,
                        unique,
                        randomness[at + 8 * place : at + 8 * place + 8],
                        stamp,
                    )
                    for place, (key, unique) in enumerate(zip(keys, uniques))
                ]
            )
        )
        wanted = b"STORED\r\n" * len(keys)
        answer = b""
        while len(answer) < len(wanted):
            answer += self._received()
        if answer != wanted:
            raise RuntimeError("memcached refused a token")

    def _uniques(self, keys: int, questions: int) -> list[bytes]:
        """Read the answers to some questions about ``keys`` in all, in their order."""
        answer = b""
        found: list[bytes] = []
        ended = at = 0
        while True:
            # Each value and its head are read once, as they come.
            end = answer.find(b"\r\n", at)
            if end < 0:
                answer, at = answer[at:] + self._received(), 0
                continue
            head = answer[at:end]
            if head == b"END":
                ended += 1
                at = end + 2
                if ended == questions:
                    break
                continue
            _, _, _, size, unique = head.split(b" ")
            stop = end + 2 + int(size) + 2
            if len(answer) < stop:
                answer, at = answer[at:] + self._received(), 0
                continue
            found.append(unique)
            at = stop
        if len(found) != keys:
            raise RuntimeError(f"{len(found)} tokens of {keys} are there")
        return found

    def _received(self) -> bytes:
        data = self._socket.recv(1 << 17)
        if not data:
            raise RuntimeError("memcached has closed the connection")
        return data


def hand_apply(client: HandTokens, ids: Iterable[str]) -> None:
    """Give each entity a fresh token: what the library's applier does."""
    client.replace([f"hc1:1:shop:tuser:{id}".encode() for id in ids])


def library_worker(
    outbox: InvalidationOutbox, store: MemcachedStore, batch: int
) -> OutboxWorker:
    return OutboxWorker(outbox, MemcachedApplier(store, NAMESPACE), batch_size=batch)


def compare_transactions(
    sides: Sequence[Callable[[int], None]],
    rounds: int,
    transactions: int,
    saved: list[list[str]],
) -> None:
    """Run one transaction of each side in turn; print medians and the ratio.

    :param saved: takes them as well, as rows of a table of :data:`SIDES`.
    """
    times: list[list[float]] = []
    worked: list[list[float]] = []
    for round_ in range(rounds + 1):
        took, work = [0.0] * len(sides), [0.0] * len(sides)
        for number in range(transactions):
            for side in _in_turn(len(sides), number):
                started, before = time.perf_counter(), time.thread_time()
                sides[side](number)
                work[side] += time.thread_time() - before
                took[side] += time.perf_counter() - started
        if round_:
            times.append([seconds / transactions for seconds in took])
            worked.append([seconds / transactions for seconds in work])
    hand, library = (statistics.median(side) * 1e6 for side in zip(*times))
    ratios = [b / a for a, b in times]
    ratio = statistics.median(ratios)
    print(
        f"enqueue: transaction of an update and 3 intents, by hand {hand:.0f} us,"
        f" library {library:.0f} us, ratio {ratio:.3f} (goal <= 1.10),"
        f" {rounds} rounds of {transactions}",
        flush=True,
    )
    saved.append(
        [
            "transaction of one UPDATE and 3 intents, hashes included",
            f"{hand:,.0f} us",
            f"{library:,.0f} us",
            _spread(ratios),
            f"<= 1.10, {'met' if ratio <= 1.10 else 'missed'}",
        ]
    )
    saved.append(_work(worked, "a transaction"))


def compare_drains(
    fill: Callable[[], None],
    sides: Sequence[Callable[[], int]],
    rounds: int,
    rows: int,
    batch: int,
    saved: list[list[str]],
) -> None:
    """Drain the same rows by each side in turn; print medians and the ratio.

    :param fill: makes the rows again.
    :param sides: by hand and by the library; each returns how many it has published.
    :param saved: takes what is printed, as rows of a table of :data:`SIDES`.
    """
    rates = []
    worked: list[list[float]] = []
    for round_ in range(rounds):
        rate, work = [0.0] * len(sides), [0.0] * len(sides)
        for side in _in_turn(len(sides), round_):
            fill()
            started, before = time.perf_counter(), time.thread_time()
            done = sides[side]()
            work[side] = (time.thread_time() - before) / done
            rate[side] = done / (time.perf_counter() - started)
            if done != rows:
                raise RuntimeError(f"{done} of {rows} rows were published")
        rates.append(rate)
        worked.append(work)
    hand, library = (statistics.median(side) for side in zip(*rates))
    ratios = [b / a for a, b in rates]
    ratio = statistics.median(ratios)
    print(
        f"drain: {rows} rows in batches of {batch}, by hand {hand:.0f} rows/s, library"
        f" {library:.0f} rows/s, ratio {ratio:.3f} (goal >= 0.90), {rounds} rounds",
        flush=True,
    )
    saved.append(
        [
            f"drain of {rows:,} rows in batches of {batch}",
            f"{hand:,.0f} rows/s",
            f"{library:,.0f} rows/s",
            _spread(ratios),
            f">= 0.90, {'met' if ratio >= 0.90 else 'missed'}",
        ]
    )
    saved.append(_work(worked, "a row"))


def _spread(ratios: Sequence[float]) -> str:
    median = statistics.median(ratios)
    return f"{median:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def _work(worked: Sequence[Sequence[float]], what: str) -> list[str]:
    """Print the processor time of both sides, and return it as a row."""
    hand, library = (statistics.median(side) * 1e6 for side in zip(*worked))
    difference = statistics.median(b - a for a, b in worked) * 1e6
    print(
        f"  processor time of {what}, by hand {hand:.2f} us, library {library:.2f} us,"
        f" difference {difference:.2f} us",
        flush=True,
    )
    ratios = [b / a for a, b in worked]
    name = f"processor time of {what}"
    return [name, f"{hand:.2f} us", f"{library:.2f} us", _spread(ratios), ""]


def _in_turn(sides: int, round_: int) -> Iterable[int]:
    return range(sides) if round_ % 2 else reversed(range(sides))

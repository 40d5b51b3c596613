"""How the outbox benchmarks measure, and the part of the hand-written code they share.

Both sides run in turn in one process, one of each: a pause of the disk or of the
machine hits both. The ratio is taken round by round, and its median is told.
"""

from __future__ import annotations

import os
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


def hand_apply(client: Any, ids: Iterable[str]) -> None:
    """Give each entity a fresh token, acknowledged: what the library's applier does."""
    stamp = int(time.time() * 1000).to_bytes(8, "big")
    tokens = {f"hc1:1:shop:tuser:{id}": b"L" + os.urandom(8) + stamp for id in ids}
    if client.set_many(tokens, noreply=False):
        raise RuntimeError("memcached refused a token")


def library_worker(
    outbox: InvalidationOutbox, store: MemcachedStore, batch: int
) -> OutboxWorker:
    return OutboxWorker(outbox, MemcachedApplier(store, NAMESPACE), batch_size=batch)


def compare_transactions(
    sides: Sequence[Callable[[int], None]], rounds: int, transactions: int
) -> None:
    """Run one transaction of each side in turn; print medians and the ratio."""
    times: list[list[float]] = []
    for round_ in range(rounds + 1):
        took = [0.0] * len(sides)
        for number in range(transactions):
            for side in _in_turn(len(sides), number):
                started = time.perf_counter()
                sides[side](number)
                took[side] += time.perf_counter() - started
        if round_:
            times.append([seconds / transactions for seconds in took])
    hand, library = (statistics.median(side) * 1e6 for side in zip(*times))
    ratio = statistics.median(b / a for a, b in times)
    print(
        f"enqueue: transaction of an update and 3 intents, by hand {hand:.0f} us,"
        f" library {library:.0f} us, ratio {ratio:.3f} (goal <= 1.10),"
        f" {rounds} rounds of {transactions}",
        flush=True,
    )


def compare_drains(
    fill: Callable[[], None],
    sides: Sequence[Callable[[], int]],
    rounds: int,
    rows: int,
    batch: int,
) -> None:
    """Drain the same rows by each side in turn; print medians and the ratio.

    :param fill: makes the rows anew.
    :param sides: by hand and by the library; each returns how many it has published.
    """
    rates = []
    for round_ in range(rounds):
        rate = [0.0] * len(sides)
        for side in _in_turn(len(sides), round_):
            fill()
            started = time.perf_counter()
            done = sides[side]()
            rate[side] = done / (time.perf_counter() - started)
            if done != rows:
                raise RuntimeError(f"{done} of {rows} rows were published")
        rates.append(rate)
    hand, library = (statistics.median(side) for side in zip(*rates))
    ratio = statistics.median(b / a for a, b in rates)
    print(
        f"drain: {rows} rows in batches of {batch}, by hand {hand:.0f} rows/s, library"
        f" {library:.0f} rows/s, ratio {ratio:.3f} (goal >= 0.90), {rounds} rounds",
        flush=True,
    )


def _in_turn(sides: int, round_: int) -> Iterable[int]:
    return range(sides) if round_ % 2 else reversed(range(sides))

"""What transactions change and what reads depend on.

Each item can be invalidated in four ways, and a read of it depends on all four: its
key, a tag, its entity, and the collection of its shelf, which has neighbours. So any
one intent of a transaction must be enough. Half of the names are odd text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hydracache_sync import InvalidationIntent, collection_tag, entity_tag

#: Items on one shelf.
SHELF_SIZE = 5

#: Intents of one transaction at most.
MAX_INTENTS = 4

#: Shares of transactions: rolled back on purpose; with a tag that no other one uses.
ROLLED_BACK = 0.10
WITH_OWN_TAG = 0.30

#: Tags that belong to one transaction only. The first kind is never to be seen outside
#: a transaction that was rolled back.
NEVER = "never:"
ONLY = "only:"


def key_of(item: int) -> str:
    return f"Stück {item}\n☃" if item % 2 else f"item:{item}"


def tag_of(item: int) -> str:
    return f"all of {item}\t%" if item % 2 else f"item-{item}"


def shelf_of(item: int) -> str:
    return f"shelf:{item // SHELF_SIZE}"


def tags_of(item: int) -> tuple[str, ...]:
    """Tags of the cached read of ``item``."""
    return (
        tag_of(item),
        entity_tag("item", str(item)),
        collection_tag(shelf_of(item)),
    )


def intents_of(item: int) -> list[InvalidationIntent]:
    """All that invalidate ``item``; each of them alone does."""
    return [
        InvalidationIntent.key(key_of(item)),
        InvalidationIntent.tag(tag_of(item)),
        InvalidationIntent.entity("item", str(item)),
        InvalidationIntent.collection(shelf_of(item)),
    ]


def target(intent: InvalidationIntent) -> list[str | None]:
    """An intent as a ledger and the table of commits keep it."""
    return list(intent)


@dataclass(frozen=True)
class Transaction:
    """One transaction as it is going to be.

    :ivar id: unique in the storm; written to every row that it changes.
    :ivar enqueue_first: the intents before the data, or after it.
    :ivar enqueue_twice: under the same position, which must not make a difference.
    :ivar given_position: the writer names the commit position, or the library does.
    """

    id: str
    items: tuple[int, ...]
    intents: tuple[InvalidationIntent, ...]
    roll_back: bool
    enqueue_first: bool
    enqueue_twice: bool
    given_position: bool


def pick(rng: random.Random, items: int) -> int:
    """Choose an item; some are far more popular than others, with all."""
    return int(items * rng.random() ** 2)


def draw(rng: random.Random, id: str, items: int) -> Transaction:
    """Draw a transaction on ``items`` items."""
    count = min(items, rng.choices((1, 2, 3), (75, 20, 5))[0])
    picked: set[int] = set()
    while len(picked) < count:
        picked.add(pick(rng, items))
    chosen = sorted(picked)
    roll_back = rng.random() < ROLLED_BACK
    intents = [rng.choice(intents_of(item)) for item in chosen]
    own_tag = rng.random() < WITH_OWN_TAG
    if roll_back:
        intents.append(InvalidationIntent.tag(NEVER + id))
    elif own_tag:
        intents.append(InvalidationIntent.tag(ONLY + id))
    more = [intent for item in chosen for intent in intents_of(item)]
    while len(intents) < MAX_INTENTS and rng.random() < 0.3:
        # Now and then one that is there already.
        intents.append(rng.choice(more))
    rng.shuffle(intents)
    given_position = rng.random() < 0.5
    return Transaction(
        id=id,
        items=tuple(chosen),
        intents=tuple(intents),
        roll_back=roll_back,
        enqueue_first=rng.random() < 0.3,
        enqueue_twice=given_position and rng.random() < 0.2,
        given_position=given_position,
    )

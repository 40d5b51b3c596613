"""The ring: every process places every key alike, and each node gets its share."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import pytest

from hydracache_sync.cache import Keyspace, app_address
from hydracache_sync.memcached import MemcachedStore
from hydracache_sync.memcached.ring import SLOTS, Ring

SERVERS = ["10.0.0.1:11211", "10.0.0.2:11211", "unix:/run/memcached.sock"]
SPACE = Keyspace("1", "shop")

#: Where these are, for ever: another place is a lost cache, and during a roll-out of
#: the library a lost invalidation.
PLACES = {
    "entry user:1": SERVERS[2],
    "entry user:2": SERVERS[1],
    "entry user:3": SERVERS[2],
    "entry user:4": SERVERS[1],
    "tag users": SERVERS[0],
    "tag user:42": SERVERS[0],
    "tag größe": SERVERS[1],
}


def ring(weights: dict[str, float]) -> Ring[str]:
    return Ring({name: name for name in weights}, weights)


def place_of(store: MemcachedStore, what: str) -> str:
    kind, _, name = what.partition(" ")
    of = SPACE.entry if kind == "entry" else SPACE.tag_token
    [place] = store.nodes_of(of(name))
    return place


def keys_like_those_of_an_app() -> list[bytes]:
    space = Keyspace("1", "shop")
    names = [f"user:{number}" for number in range(20_000)]
    names += [f"page {number}" for number in range(10_000)]  # these are hashed
    return [space.entry(name)[0] or b"" for name in names]


@pytest.mark.parametrize("servers", list(itertools.permutations(SERVERS)))
def test_the_order_of_the_list_does_not_matter_and_places_never_change(
    servers: tuple[str, ...],
) -> None:
    store = MemcachedStore(servers)

    assert {what: place_of(store, what) for what in PLACES} == PLACES


def test_another_process_with_another_seed_of_hashes_places_alike() -> None:
    program = (
        "import sys; from hydracache_sync import MemcachedStore;"
        "from hydracache_sync.cache import *;"
        "s = MemcachedStore(sys.argv[1:]); k = Keyspace('1', 'shop');"
        "print([s.nodes_of(k.entry(str(n)))[0] for n in range(500)])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, *SERVERS],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }

    assert len(found) == 1


def test_text_and_bytes_of_an_applications_key_are_one_place() -> None:
    store = MemcachedStore(SERVERS)

    for number in range(200):
        text = f"größe:{number}"
        assert app_address(text) == app_address(text.encode())
        assert store.nodes_of(app_address(text)) == store.nodes_of(
            app_address(text.encode())
        )


def test_an_entry_and_its_tokens_are_on_one_node() -> None:
    store = MemcachedStore(SERVERS)

    for number in range(200):
        entry, namespace_token, key_token = SPACE.of_key(f"user:{number}")
        assert store.nodes_of(entry) == store.nodes_of(namespace_token)
        assert store.nodes_of(entry) == store.nodes_of(key_token)
        assert SPACE.key_token(f"user:{number}") == key_token


def test_the_namespaces_token_is_on_every_node() -> None:
    assert MemcachedStore(SERVERS).nodes_of(SPACE.namespace_token()) == SERVERS


@pytest.mark.parametrize(
    "weights", [[1, 1, 1], [1, 2, 3], [0.5, 0.25, 0.25], [1, 1, 20], [1] * 12]
)
def test_each_node_gets_the_share_that_its_weight_says(weights: list[float]) -> None:
    named = {f"10.0.0.{number}:11211": w for number, w in enumerate(weights)}
    placed = ring(named)
    keys = keys_like_those_of_an_app()

    found = Counter(map(placed.member, keys))

    for name, weight in named.items():
        expected = len(keys) * weight / sum(weights)
        assert abs(found[name] - expected) < 5 * expected**0.5 + 0.05 * expected


def test_only_proportions_of_weights_count() -> None:
    small = ring({name: 1 + 0.5 * n for n, name in enumerate(SERVERS)})
    large = ring({name: 8 + 4.0 * n for n, name in enumerate(SERVERS)})

    assert [small.slots[slot] for slot in range(SLOTS)] == [
        large.slots[slot] for slot in range(SLOTS)
    ]


def test_a_node_that_is_added_takes_its_share_and_moves_nothing_else() -> None:
    before = ring(dict.fromkeys(SERVERS, 1.0))
    after = ring({**dict.fromkeys(SERVERS, 1.0), "new": 1.0})

    moved = [s for s in range(SLOTS) if before.slots[s] != after.slots[s]]

    assert {after.slots[slot] for slot in moved} == {"new"}
    assert abs(len(moved) / SLOTS - 1 / 4) < 0.02

"""What an older snapshot may store without a look at a clock: under tokens that this
process has found before it began, and that are there still."""

from __future__ import annotations

from itertools import product
from time import monotonic, sleep
from typing import Any

import pytest

from hydracache_sync import (
    InvalidationIntent,
    MemcachedApplier,
    MemoryStore,
    TaggedCache,
)
from hydracache_sync.cache.tokens import seen as seen_tokens
from hydracache_sync.snapshots import NEVER, LocalMoment

TAGS = ["users", "user:1"]


class World:
    """A cache whose tag was invalidated a moment ago."""

    def __init__(self, **options: Any) -> None:
        self.store = MemoryStore()
        self.strict = "strict" in options
        self.cache = TaggedCache(self.store, "shop", **options)
        self.invalidate("users")

    def invalidate(self, tag: str) -> None:
        applier = MemcachedApplier(self.store, "shop", strict=self.strict)
        assert applier.apply_batch([InvalidationIntent.tag(tag)]) == [None]

    def load(self, value: str, since: float | None) -> Any:
        """Load at a miss; return what is stored then."""
        self.cache.get_or_load("user:1", lambda: value, tags=TAGS, since=since)
        return self.cache.get("user:1", tags=TAGS)


def test_a_snapshot_that_began_after_the_tokens_were_found_is_stored() -> None:
    world = World()
    assert world.load("a", LocalMoment.now()) is None

    assert world.load("b", LocalMoment.now()) == "b"


def test_of_many_as_of_one() -> None:
    world = World()

    def load(value: str) -> Any:
        world.cache.get_many_or_load(
            ["user:1"],
            lambda keys: dict.fromkeys(keys, value),
            tags=lambda key: TAGS,
            since=LocalMoment.now(),
        )
        return world.cache.get("user:1", tags=TAGS)

    assert load("a") is None
    assert load("b") == "b"


def test_one_that_began_before_is_not() -> None:
    world = World()
    began = LocalMoment.now()

    for _ in range(3):
        assert world.load("old", began) is None


@pytest.mark.parametrize("tag", TAGS)
def test_nor_one_that_began_before_a_token_was_replaced(tag: str) -> None:
    world = World()
    assert world.load("a", LocalMoment.now()) is None
    began = LocalMoment.now()
    world.invalidate(tag)

    assert world.load("old", began) is None
    assert world.load("old", began) is None
    assert world.load("new", LocalMoment.now()) == "new"


@pytest.mark.parametrize("options", [{}, {"read_lag": 0.001}])
@pytest.mark.parametrize("moment", [float, lambda at: at - 0.5, lambda at: NEVER])
def test_nor_one_whose_begin_this_process_has_not_seen(
    options: Any, moment: Any
) -> None:
    world = World(**options)

    for _ in range(3):
        assert world.load("old", moment(LocalMoment.now())) is None


def test_nor_one_that_began_within_the_same_tick_of_a_coarse_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    began = LocalMoment.now()
    monkeypatch.setattr(seen_tokens, "monotonic", lambda: began.steady)
    assert world.load("a", began) is None

    assert world.load("old", began) is None


def test_in_no_order_of_steps_is_less_served_than_was_published() -> None:
    """Whatever comes before the load of an older snapshot."""
    stored = 0
    for steps in product(
        ("commit", "publish", "find", "begin", "load", "evict"), repeat=5
    ):
        if "begin" in steps and "find" in steps:
            stored += Walk(MemoryStore()).take(*steps, "load")

    assert stored > 0


class Walk:
    """A row of the database as its versions, and one page that shows it."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.cache = TaggedCache(store, "shop")
        self.applier = MemcachedApplier(store, "shop")
        self.committed = self.published = 0
        self.began = LocalMoment.now(), 0

    def take(self, *steps: str) -> bool:
        """Return whether the last of them has stored something."""
        fills = 0
        for step in steps:
            fills = self.cache.diagnostics().fills
            getattr(self, step)()
            shown = self.cache.get("page", tags=["row"], default=self.published)
            assert shown >= self.published, steps
        return self.cache.diagnostics().fills > fills

    def commit(self) -> None:
        self.committed += 1

    def publish(self) -> None:
        self.applier.apply_batch([InvalidationIntent.tag("row")])
        self.published = self.committed

    def begin(self) -> None:
        self.began = LocalMoment.now(), self.committed

    def find(self) -> None:
        self._load(LocalMoment.now(), self.committed)

    def load(self) -> None:
        self._load(*self.began)

    def evict(self) -> None:
        self.store.delete_many([self.cache._keyspace.tag_token("row")])

    def _load(self, since: float, version: int) -> None:
        self.cache.get_or_load("page", lambda: version, tags=["row"], since=since)


def test_in_a_strict_namespace_tokens_are_older_than_the_commit() -> None:
    world = World(strict=True, hold_off=0.01, clock_skew=0.0)
    world.load("old", LocalMoment.now() - 100)
    # After the token was found; by its stamp, before.
    began = LocalMoment(LocalMoment.now() - 100)
    began.steady = monotonic()

    for _ in range(3):
        assert world.load("old", began) is None
        sleep(0.02)


def test_what_is_remembered_is_bounded() -> None:
    world = World()
    assert world.load("a", LocalMoment.now()) is None

    for number in range(seen_tokens.LIMIT // 900 + 2):
        tags = [f"tag:{number}:{n}" for n in range(900)]
        since = LocalMoment.now()
        world.cache.get_or_load(number, lambda: "v", tags=tags, since=since)

    assert world.load("b", LocalMoment.now()) is None
    assert world.load("c", LocalMoment.now()) == "c"

"""What a request has been given by the cache goes into what it stores: never under a
token that has come meanwhile, however old its stamp is."""

from __future__ import annotations

from itertools import product

import pytest

from hydracache_sync import (
    InvalidationIntent,
    MemcachedApplier,
    MemoryStore,
    TaggedCache,
)
from hydracache_sync.cache.tokens.seen import MOST_HITS, EarlierHits
from hydracache_sync.snapshots import NEVER, LocalMoment
from support.clock import FakeClock

TAGS = ["row"]
ROW, FLUSH = InvalidationIntent.tag("row"), InvalidationIntent.flush()


class Requests:
    """Requests one after the other; what each loads counts as old as the request.

    A row of the database is its versions. Tokens are stamped right after the commit,
    and arrive when they are published.

    :param intent: what each commit invalidates.
    """

    def __init__(self, intent: InvalidationIntent = ROW) -> None:
        self.intent = intent
        self.clock = FakeClock()
        store = MemoryStore(clock=self.clock)
        self.earlier_hits = EarlierHits(lambda: self.began)
        self.cache = TaggedCache(
            store, "shop", snapshot=self, clock_skew=0.0, clock=self.clock
        )
        self.visitor = TaggedCache(store, "shop", clock=self.clock)
        self.stamp = 0.0
        self.applier = MemcachedApplier(store, "shop", clock=lambda: self.stamp)
        self.committed = self.published = 0
        self.begin()
        # All tokens get their stamps; "first" is stored, and "page" is not.
        self.take("hit", "load", "commit", "publish", "begin", "hit", "begin")

    def __call__(self) -> float:
        return self.began

    @property
    def shown(self) -> int:
        found: int = self.visitor.get("page", tags=TAGS, default=self.published)
        return found

    def take(self, *steps: str) -> bool:
        """Return whether the last of them has stored something."""
        fills = 0
        for step in steps:
            self.clock.advance(1.0)
            fills = self.cache.diagnostics().fills
            getattr(self, step)()
            assert self.shown >= self.published, steps
        return self.cache.diagnostics().fills > fills

    def commit(self) -> None:
        self.committed += 1
        self.stamp = self.clock() + 0.5

    def publish(self) -> None:
        if self.published < self.committed:
            assert self.applier.apply_batch([self.intent]) == [None]
            self.published = self.committed

    def begin(self) -> None:
        steady = LocalMoment.now().steady
        began = LocalMoment(self.clock())
        began.steady = steady
        self.began: float = began
        self.given: int | None = None

    def hit(self) -> None:
        self.given = self.cache.get_or_load("first", lambda: self.committed, tags=TAGS)

    def load(self) -> None:
        def loader() -> int:
            return self.committed if self.given is None else self.given

        self.cache.get_or_load("page", loader, tags=TAGS)


@pytest.mark.parametrize("intent", [ROW, FLUSH])
def test_in_no_order_of_steps_is_less_served_than_was_published(
    intent: InvalidationIntent,
) -> None:
    stored = 0
    for steps in product(("commit", "publish", "begin", "hit", "load"), repeat=4):
        stored += Requests(intent).take(*steps, "load")

    assert stored > 0


def test_a_hit_is_stored_under_the_token_that_was_there() -> None:
    requests = Requests()

    assert requests.take("hit", "load")
    assert requests.shown == requests.published == 1


def test_not_under_one_that_was_stamped_before_the_request_and_came_after_the_hit() -> (
    None
):
    requests = Requests()

    assert not requests.take("commit", "begin", "hit", "publish", "load")
    assert requests.take("begin", "hit", "load")


def test_outside_of_requests_no_hit_counts() -> None:
    requests = Requests()
    requests.take(*MOST_HITS * ["hit"], "commit", "publish")
    requests.began = NEVER

    assert requests.cache.set("page", 1, tags=TAGS, since=requests.clock())


def test_of_more_hits_than_are_remembered_nothing_is_stored() -> None:
    requests, most = Requests(), MOST_HITS * ["hit"]

    assert not requests.take(*most, "hit", "load")
    assert not requests.take("commit", "begin", *most, "publish", "load")
    assert requests.take("begin", "hit", "load")

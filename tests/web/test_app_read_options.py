"""What a cached read of an app may be asked for, beside its key and its tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import pytest
from shop import Shop, close_db, hydracache

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    OutboxWorker,
    TaggedCache,
    entity_tag,
)
from hydracache_sync.app import build
from hydracache_sync.app.config import AppConfig
from support.servers import Memcached

IDS = [1, 2, 3]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path / "shop.db", HYDRACACHE_SNAPSHOT="fresh", HYDRACACHE_WAIT=0)
    shop.app.teardown_appcontext(close_db)
    with shop.app.test_request_context():
        shop.db().execute("insert into item values (2, 'two'), (3, 'three')")
        shop.db().commit()
        yield shop


class Names:
    """A loader of several names, and what it was asked for."""

    def __init__(self, shop: Shop) -> None:
        self.asked: list[list[int]] = []
        self._shop = shop

    def __call__(self, ids: list[int]) -> dict[int, str]:
        self.asked.append(ids)
        marks = ",".join("?" * len(ids))
        rows = self._shop.db().execute(
            f"select id, name from item where id in ({marks})", ids
        )
        return dict(rows.fetchall())


def tags(item: int) -> list[str]:
    return [entity_tag("item", item)]


def read(loader: Any, ids: list[int] = IDS) -> dict[int, str]:
    return hydracache.get_many_or_load(ids, loader, tags=tags)


def drain(shop: Shop) -> None:
    OutboxWorker(shop.outbox, MemcachedApplier(shop.store, "shop")).drain()


class TestSeveralKeys:
    def test_only_those_that_are_missing_are_loaded(self, shop: Shop) -> None:
        names = Names(shop)
        hydracache.cache.get_many_or_load([1], names, tags=tags)

        first = read(names)
        second = read(names)

        assert first == second == {1: "before", 2: "two", 3: "three"}
        assert names.asked == [[1], [2, 3]]

    def test_a_key_that_the_loader_leaves_out_is_not_in_the_result(
        self, shop: Shop
    ) -> None:
        assert read(Names(shop), [1, 4]) == {1: "before"}

    def test_none_are_asked_for_where_none_are_wanted(self, shop: Shop) -> None:
        names = Names(shop)
        hydracache.invalidate_entity("item", 1)

        assert read(names, []) == {}
        assert names.asked == []

    def test_what_the_request_has_written_is_seen_and_not_stored(
        self, shop: Shop
    ) -> None:
        names = Names(shop)
        read(names)

        shop.rename("after")
        hydracache.invalidate_entity("item", 1)
        before_commit = read(names)
        shop.db().rollback()
        hydracache.discard()

        assert before_commit[1] == "after"
        assert names.asked == [IDS, IDS]
        assert read(names) == {1: "before", 2: "two", 3: "three"}
        assert names.asked == [IDS, IDS]

    def test_others_than_those_that_it_has_written_come_from_the_cache(
        self, shop: Shop
    ) -> None:
        names = Names(shop)
        read(names)
        with hydracache.transaction(shop.db()):
            shop.rename("after")
            hydracache.invalidate_entity("item", 1)

        read(names, [2, 3])

        assert names.asked == [IDS]
        assert read(names)[1] == "after"

    def test_what_a_loader_reads_in_a_change_of_its_own_is_not_stored(
        self, shop: Shop
    ) -> None:
        names = Names(shop)
        read(names, [2])

        def rename_and_load(ids: list[int]) -> dict[int, str]:
            hydracache.write(shop.db())  # so that its connection is known
            shop.rename("after")
            return names(ids)

        hydracache.invalidate_entity("item", 9)
        hydracache.write(shop.db())
        shop.db().commit()
        found = read(rename_and_load)
        shop.db().rollback()

        assert found == {1: "after", 2: "two", 3: "three"}
        assert hydracache.cache.get_many(IDS, tags=tags) == {2: "two"}

    @pytest.mark.parametrize("writing", [False, True])
    def test_keys_that_are_named_otherwise_are_an_error_either_way(
        self, shop: Shop, writing: bool
    ) -> None:
        if writing:
            hydracache.invalidate_entity("item", 1)

        with pytest.raises(TypeError, match="the loader was asked for 1"):
            read(lambda ids: {str(each): "x" for each in ids}, [1])

    @pytest.mark.parametrize("writing", [False, True])
    def test_a_value_that_cannot_be_stored_is_an_error_either_way(
        self, shop: Shop, writing: bool
    ) -> None:
        if writing:
            hydracache.invalidate_entity("item", 1)

        with pytest.raises(TypeError):
            read(lambda ids: {each: object() for each in ids}, [1])


class TestStaleOnError:
    def test_an_outdated_value_is_had_for_the_asking(self, shop: Shop) -> None:
        hydracache.get_or_load("item:1", lambda: "old", tags=tags(1))
        shop.outbox.enqueue(
            "shop", InvalidationIntentBatch().invalidate_entity("item", 1)
        )
        drain(shop)

        def fail() -> str:
            raise LookupError("no database")

        found = hydracache.get_or_load(
            "item:1",
            fail,
            tags=tags(1),
            stale_on_error=lambda stale: f"{stale.value}, {stale.error}",
        )

        assert found == "old, no database"
        with pytest.raises(LookupError):
            hydracache.get_or_load("item:1", fail, tags=tags(1))

    def test_but_not_for_what_the_request_itself_has_written(self, shop: Shop) -> None:
        hydracache.get_or_load("item:1", lambda: "old", tags=tags(1))
        hydracache.invalidate_entity("item", 1)

        def fail() -> str:
            raise LookupError("no database")

        with pytest.raises(LookupError):
            hydracache.get_or_load(
                "item:1", fail, tags=tags(1), stale_on_error=lambda stale: "stale"
            )


def test_settings_of_reads_reach_the_cache(
    tmp_path: Path, memcached: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[str, Any] = {}

    class Recording(TaggedCache):
        def __init__(self, *given: Any, **options: Any) -> None:
            taken.update(options)
            super().__init__(*given, **options)

    monkeypatch.setattr(build, "TaggedCache", Recording)
    Shop(tmp_path / "s.db", HYDRACACHE_SOFT_TTL=7, HYDRACACHE_MAX_WAIT=0)

    assert (taken["soft_ttl"], taken["max_wait"]) == (7.0, 0.0)


def test_settings_of_nodes_reach_an_apps_store(
    memcached: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[str, Any] = {}
    monkeypatch.setattr(
        build, "MemcachedStore", lambda *a, **given: taken.update(given)
    )
    values = {
        "OUTBOX": "sqlite:////srv/shop.db",
        "NAMESPACE": "shop",
        "MEMCACHED": memcached.address,
        "CALL_TIMEOUT": 7,
        "RETRY_AFTER": 0,
        "CONNECTIONS": 3,
        "MAX_VALUE": 1000,
    }

    build.store(AppConfig({f"HYDRACACHE_{each}": values[each] for each in values}))

    assert (taken["call_timeout"], taken["retry_after"]) == (7.0, 0.0)
    assert (taken["pool_size"], taken["max_value"]) == (3, 1000)

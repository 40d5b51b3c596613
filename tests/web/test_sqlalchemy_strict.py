"""Mode strict: a session's commit is held off by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import pytest
from alchemy_site import Site
from library import ADA, KNOWS_TWO_PHASES, NAMESPACE, Author, Library
from sqlalchemy import event, text
from sqlalchemy.orm import sessionmaker

from hydracache_sync import (
    ApplyUnavailable,
    ConfigurationError,
    MemoryStore,
    QuarantineError,
    TaggedCache,
    entity_tag,
)
from hydracache_sync.cache import Keyspace
from hydracache_sync.cache.tokens.token import COLD, is_live
from hydracache_sync.integrations.sqlalchemy import attach


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "strict.db", HYDRACACHE_MODE="strict")
    yield site
    site.close()


def is_held_off(site: Site) -> bool:
    """Whether reads of every process go past the cache, and fill nothing."""
    address = Keyspace("1", "site").tag_token("item:1")
    [token] = site.store.get_many([address])
    return is_live(token, COLD)


def change(site: Site) -> None:
    site.item.name = "after"
    site.hydracache.invalidate_entity("item", "1")


def test_what_it_wrote_is_held_off_before_the_commit(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    quarantine = site.state.cache.quarantine

    def watched(batch: Any, **options: Any) -> Any:
        seen.append((site.name(), len(batch)))
        return quarantine(batch, **options)

    site.state.cache.quarantine = watched

    with site.app.app_context():
        change(site)
        site.db.session.commit()
        receipt = site.hydracache.receipt

    assert seen == [("before", 1)]
    assert site.written() == ("after", ["1"])
    assert receipt is not None and receipt.strict is True
    assert is_held_off(site)
    assert caplog.records == []


def test_what_later_listeners_add_is_held_off_too(site: Site) -> None:
    @event.listens_for(site.db.session, "before_commit")
    def late(session: Any) -> None:
        site.hydracache.invalidate_entity("item", "1")

    with site.app.app_context():
        site.item.name = "after"
        site.hydracache.invalidate_key("early")
        site.db.session.commit()
        strict = [receipt.strict for receipt in site.hydracache.receipts]

    assert strict == [True, True]
    assert is_held_off(site)


def test_while_memcached_is_away_nothing_is_committed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(site.store, "replace_many", unavailable)
        with site.app.app_context():
            change(site)
            with pytest.raises(QuarantineError):
                site.db.session.commit()
            site.db.session.rollback()
            receipt = site.hydracache.receipt

    assert receipt is None
    assert site.written() == ("before", [])


def test_the_next_transaction_of_the_session_is_as_good_as_any(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site.app.app_context():
        with monkeypatch.context() as patched:
            patched.setattr(site.store, "replace_many", unavailable)
            change(site)
            with pytest.raises(QuarantineError):
                site.db.session.commit()
            site.db.session.rollback()
        change(site)
        site.db.session.commit()

    assert site.written() == ("after", ["1"])


@pytest.mark.parametrize("rolls_back", [True, False])
def test_what_was_refused_is_not_left_on_the_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch, rolls_back: bool
) -> None:
    with site.app.app_context():
        with monkeypatch.context() as patched:
            patched.setattr(site.store, "replace_many", unavailable)
            change(site)
            with pytest.raises(QuarantineError):
                site.db.session.commit()
        if rolls_back:
            site.db.session.rollback()
        site.db.session.remove()
        seen = site.item.name
        site.db.session.execute(text("update item set id = id"))
        site.db.session.commit()

    assert seen == "before"
    assert site.written() == ("before", [])


def test_an_engine_holds_off_as_well(site: Site) -> None:
    with site.app.app_context():
        site.hydracache.attach(site.db.engine)
        with site.db.engine.begin() as connection:
            connection.exec_driver_sql("update item set name = 'after'")
            site.hydracache.invalidate_entity("item", "1")
        receipt = site.hydracache.receipt

    assert site.written() == ("after", ["1"])
    assert receipt is not None and receipt.strict is True
    assert is_held_off(site)


def test_an_engine_that_could_not_hold_off_is_as_good_as_new(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site.app.app_context():
        engine = site.db.engine
        site.hydracache.attach(engine)
        with monkeypatch.context() as patched:
            patched.setattr(site.store, "replace_many", unavailable)
            with pytest.raises(QuarantineError):
                with engine.begin() as connection:
                    connection.exec_driver_sql("update item set name = 'never'")
                    site.hydracache.invalidate_entity("item", "1")
        between = site.written(), site.hydracache.collected().intents
        with engine.begin() as connection:
            connection.exec_driver_sql("update item set name = 'after'")
            site.hydracache.invalidate_key("after")

    assert between == (("before", []), ())
    assert site.written() == ("after", ["after"])


class TestWithoutAnApp:
    """``attach(Session, outbox, namespace, cache=...)``."""

    @pytest.fixture
    def cache(self) -> TaggedCache:
        return TaggedCache(MemoryStore(), NAMESPACE, strict=True)

    def test_a_commit_is_held_off(self, library: Library, cache: TaggedCache) -> None:
        attached = attach(library.make, library.outbox, NAMESPACE, cache=cache)
        key, tags = "ada", [entity_tag("author", "ada")]

        with library.session() as session:
            session.add(Author(name="ada"))
            attached.invalidate(session, ADA)
            session.commit()
            receipt = attached.receipt(session)
        seen = [cache.get_or_load(key, library.names, tags=tags) for _ in range(2)]

        assert receipt is not None and receipt.strict is True
        assert seen == [["ada"], ["ada"]]
        assert cache.diagnostics().refused_hold_off == 2

    def test_while_memcached_is_away_nothing_is_committed(
        self,
        library: Library,
        cache: TaggedCache,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        attached = attach(library.make, library.outbox, NAMESPACE, cache=cache)
        monkeypatch.setattr(MemoryStore, "replace_many", refused)

        with library.session() as session:
            session.add(Author(name="ada"))
            attached.invalidate(session, ADA)
            with pytest.raises(QuarantineError):
                session.commit()

        assert (library.names(), library.intents()) == ([], [])

    @pytest.mark.parametrize("library", KNOWS_TWO_PHASES, indirect=True)
    def test_what_is_refused_is_not_left_prepared(
        self,
        library: Library,
        cache: TaggedCache,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        make = sessionmaker(bind=library.engine, twophase=True)
        attached = attach(make, library.outbox, NAMESPACE, cache=cache)

        with monkeypatch.context() as patched:
            patched.setattr(MemoryStore, "replace_many", refused)
            with make() as session:
                session.add(Author(name="ada"))
                attached.invalidate(session, ADA)
                with pytest.raises(QuarantineError):
                    session.commit()
        with make() as session:
            left = session.execute(text("xa recover")).all()
            # It would wait for the lock of one that was left prepared.
            session.add(Author(name="ada"))
            attached.invalidate(session, ADA)
            session.commit()
            receipt = attached.receipt(session)

        assert left == []
        assert (library.names(), library.intents()) == (["ada"], [ADA])
        assert receipt is not None and receipt.strict is True

    @pytest.mark.parametrize(
        ("namespace", "strict"), [(NAMESPACE, False), ("another", True)]
    )
    def test_only_the_strict_cache_of_the_namespace_will_do(
        self, library: Library, namespace: str, strict: bool
    ) -> None:
        cache = TaggedCache(MemoryStore(), namespace, strict=strict)

        with pytest.raises(ConfigurationError, match="strict|namespace another"):
            attach(library.make, library.outbox, NAMESPACE, cache=cache)


def unavailable(copies: Any, *_: Any) -> Any:
    return [ApplyUnavailable("away") for _ in copies]


def refused(_: MemoryStore, copies: Any, *others: Any) -> Any:
    return unavailable(copies)

"""A cached read knows when the session's snapshot began, and what it has changed."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import pytest
from library import ADA, NAMESPACE, Author, Library
from sqlalchemy import delete, event, select, text, update
from sqlalchemy.orm import sessionmaker

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryStore,
    OutboxWorker,
    TaggedCache,
    entity_tag,
)
from hydracache_sync.integrations.sql_kind import changes_data
from hydracache_sync.integrations.sqlalchemy import (
    Attached,
    attach,
    reads_own_writes,
    snapshot,
)
from hydracache_sync.snapshots import NEVER

TAGS = [entity_tag("author", "ada")]


@pytest.fixture
def attached(library: Library) -> Attached:
    return attach(library.make, library.outbox, NAMESPACE)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def cache(store: MemoryStore) -> TaggedCache:
    return TaggedCache(store, NAMESPACE, snapshot=snapshot, clock_skew=0.0)


class TestSnapshot:
    def test_it_begins_with_the_transaction_and_ends_with_it(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            unused = snapshot()
            before = time.time()
            session.execute(select(Author)).all()
            after = time.time()
            began = snapshot()
            time.sleep(0.01)
            session.execute(select(Author)).all()
            later = snapshot()
            session.commit()
            committed = snapshot()

        assert unused is None and committed is None
        assert began is not None and before <= began <= after
        assert later == began

    def test_it_is_not_younger_than_the_statements_of_other_listeners(
        self, library: Library, attached: Attached
    ) -> None:
        moments = []

        @event.listens_for(library.engine, "begin")
        def configure(connection: Any) -> None:
            moments.append(time.time())

        with library.session() as session:
            session.execute(select(Author)).all()
            began = snapshot()

        assert began is not None and began <= moments[0]

    def test_of_an_engine_neither_where_those_listened_earlier(
        self, library: Library
    ) -> None:
        moments = []

        @event.listens_for(library.engine, "begin")
        def configure(connection: Any) -> None:
            moments.append(time.time())

        attach(library.engine, library.outbox, NAMESPACE)
        with library.engine.begin():
            began = snapshot()

        assert began is not None and 0 < began <= moments[0]

    def test_the_oldest_of_several_sessions_counts(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as old, library.session() as young:
            old.execute(select(Author)).all()
            began = snapshot()
            time.sleep(0.01)
            young.execute(select(Author)).all()
            both = snapshot()

        assert both == began
        assert snapshot() is None

    def test_a_connection_that_was_given_to_the_session_is_of_unknown_age(
        self, library: Library, attached: Attached
    ) -> None:
        with library.engine.connect() as connection:
            with library.make(bind=connection) as session:
                session.execute(select(Author)).all()
                began = snapshot()

        assert began == NEVER

    def test_other_threads_have_their_own(
        self, library: Library, attached: Attached
    ) -> None:
        found = []
        with library.session() as session:
            session.execute(select(Author)).all()
            thread = threading.Thread(target=lambda: found.append(snapshot()))
            thread.start()
            thread.join()

        assert found == [None]

    def test_a_session_that_is_dropped_is_forgotten_and_its_connection_is_free(
        self, library: Library, attached: Attached
    ) -> None:
        returned: list[Any] = []
        event.listen(library.engine, "checkin", lambda *what: returned.append(what))
        session = library.session()
        session.execute(select(Author)).all()
        open_before = snapshot() is not None, list(returned)

        del session
        gc.collect()

        assert open_before == (True, [])
        assert snapshot() is None
        assert len(returned) == 1

    def test_what_was_read_before_an_invalidation_is_not_stored(
        self, library: Library, attached: Attached
    ) -> None:
        store = MemoryStore()
        cache = TaggedCache(store, NAMESPACE, snapshot=snapshot, clock_skew=0.0)
        worker = OutboxWorker(library.outbox, MemcachedApplier(store, NAMESPACE))
        with library.session() as session:
            session.execute(select(Author)).all()
            library.outbox.enqueue(NAMESPACE, InvalidationIntentBatch().intent(ADA))
            worker.drain()

            cache.get_or_load("ada", lambda: "old", tags=TAGS)
            session.commit()

            assert cache.get_or_load("ada", lambda: "new", tags=TAGS) == "new"
        assert cache.get("ada", tags=TAGS) == "new"


class TestKeptObjects:
    """With ``expire_on_commit=False`` a session serves what it has read long before."""

    @pytest.fixture
    def make(self, library: Library) -> sessionmaker[Any]:
        with library.session() as session:
            session.add(Author(id=1, name="before"))
            session.commit()
        return sessionmaker(bind=library.engine, expire_on_commit=False)

    def rename(self, library: Library, store: MemoryStore) -> None:
        """As another process does it, publish included."""
        with library.engine.begin() as connection:
            connection.execute(update(Author).values(name="after"))
        MemcachedApplier(store, NAMESPACE).apply_batch([ADA])

    def test_what_it_kept_is_not_stored_after_an_invalidation(
        self,
        library: Library,
        make: sessionmaker[Any],
        cache: TaggedCache,
        store: MemoryStore,
    ) -> None:
        attach(make, library.outbox, NAMESPACE)
        with make() as session:
            kept = session.get(Author, 1)
            session.commit()
            self.rename(library, store)

            def load() -> str:
                return str(session.get(Author, 1).name)

            old = cache.get_or_load("ada", load, tags=TAGS)

            assert (kept.name, old) == ("before", "before")
            assert cache.get("ada", tags=TAGS) is None

    def test_nor_in_its_next_transaction(
        self,
        library: Library,
        make: sessionmaker[Any],
        cache: TaggedCache,
        store: MemoryStore,
    ) -> None:
        attach(make, library.outbox, NAMESPACE)
        # Makes tokens that tell their age.
        cache.get_or_load("ada", lambda: "before", tags=TAGS, since=time.time())
        with make() as session:
            kept = session.get(Author, 1)
            session.commit()
            self.rename(library, store)
            time.sleep(0.01)  # the transaction is younger than the invalidation
            session.execute(text("select 1"))

            cache.get_or_load("ada", lambda: session.get(Author, 1).name, tags=TAGS)

            assert kept.name == "before"
            assert cache.get("ada", tags=TAGS) is None

    def test_nor_what_it_had_before_it_was_attached(
        self, library: Library, make: sessionmaker[Any]
    ) -> None:
        with make() as session:
            kept = session.get(Author, 1)
            session.commit()
            attach(session, library.outbox, NAMESPACE)
            session.execute(text("select 1"))
            session.commit()

            assert snapshot() == NEVER
            assert kept.name == "before"

    @pytest.mark.parametrize("ends", ["close", "garbage"])
    def test_what_it_does_not_keep_does_not_count(
        self, library: Library, make: sessionmaker[Any], ends: str
    ) -> None:
        attach(make, library.outbox, NAMESPACE)
        with make() as session:
            kept = session.get(Author, 1)
            session.commit()
            held = snapshot()
            if ends == "close":
                session.close()
            del kept
            gc.collect()

            assert held is not None
            assert snapshot() is None

    def test_a_session_that_expires_its_objects_reads_them_anew(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            kept = session.get(Author, 1)
            session.commit()

            assert snapshot() is None
            del kept


class TestOwnChanges:
    """Neither stored, nor hidden by what is cached."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda session, attached: session.add(Author(name="new")),
            lambda session, attached: session.execute(delete(Author)),
            lambda session, attached: session.execute(text("delete from author")),
            lambda session, attached: session.connection().execute(delete(Author)),
            lambda session, attached: attached.invalidate(session, ADA),
        ],
        ids=["unflushed", "statement", "text", "core", "intent"],
    )
    def test_a_session_with_changes_neither_reads_nor_fills(
        self, library: Library, attached: Attached, cache: TaggedCache, change: Any
    ) -> None:
        cache.get_or_load("ada", lambda: "cached", tags=TAGS)

        with library.session() as session:
            session.execute(select(Author)).all()
            before = read(attached, cache, "loaded")
            change(session, attached)
            during = read(attached, cache, "uncommitted")
            cache.get_or_load("other", lambda: "uncommitted", tags=TAGS)
            session.rollback()
            after = read(attached, cache, "loaded")

        assert (before, during, after) == ("cached", "uncommitted", "cached")
        assert cache.get("other", tags=TAGS) is None

    def test_a_changed_object_counts_before_it_is_flushed(
        self, library: Library, attached: Attached
    ) -> None:
        with library.session() as session:
            author = Author(name="ada")
            session.add(author)
            session.commit()
            assert author.name == "ada" and reads_own_writes()

            author.name = "Ada"

            assert not reads_own_writes()
            assert snapshot() == NEVER

    # Of SQLite, SQLAlchemy 1.4 lets no other thread use a connection.
    @pytest.mark.parametrize("library", ["mariadb"], indirect=True)
    @pytest.mark.parametrize("of", ["session", "unflushed", "engine"])
    def test_another_thread_that_reads_them_stores_nothing(
        self, library: Library, attached: Attached, cache: TaggedCache, of: str
    ) -> None:
        with library.session() as session:
            session.add(Author(id=1, name="before"))
            session.commit()
        changed: Any = library.engine.connect()
        if of != "engine":
            changed.close()
            changed = library.session()
        with changed:
            transaction = changed.begin()
            if of == "unflushed":
                changed.get(Author, 1).name = "never"
            else:
                changed.execute(update(Author).values(name="never"))

            def load() -> Any:
                return changed.execute(select(Author.name)).scalar()

            found: list[Any] = []

            def read_in_thread() -> None:
                found.append(cache.get_or_load("ada", load, tags=TAGS))

            thread = threading.Thread(target=read_in_thread)
            thread.start()
            thread.join()
            transaction.rollback()

            assert found == ["never"]
            assert cache.get("ada", tags=TAGS) is None

            thread = threading.Thread(target=read_in_thread)
            thread.start()
            thread.join()

        assert found[1:] == ["before"]
        assert cache.get("ada", tags=TAGS) == "before"

    def test_a_commit_ends_it(self, library: Library, attached: Attached) -> None:
        with library.session() as session:
            session.add(Author(name="ada"))
            session.commit()

            assert reads_own_writes()

    def test_an_engine_counts_too(self, library: Library) -> None:
        attach(library.engine, library.outbox, NAMESPACE)

        with library.engine.begin() as connection:
            connection.execute(select(Author)).all()
            reading = snapshot(), reads_own_writes()
            connection.execute(delete(Author))
            changing = snapshot(), reads_own_writes()

        assert reading[0] is not None and reading[0] > NEVER and reading[1]
        assert changing == (NEVER, False)
        assert snapshot() is None

    def test_connections_made_before_are_seen_too(self, library: Library) -> None:
        with library.engine.connect() as connection:
            make = sessionmaker(bind=connection)
            attach(make, library.outbox, NAMESPACE)
            with make() as session:
                session.execute(text("delete from author"))

                assert not reads_own_writes()


def read(attached: Attached, cache: TaggedCache, loaded: str) -> str:
    found: str = attached.get_or_load(cache, "ada", lambda: loaded, tags=TAGS)
    return found


@pytest.mark.parametrize(
    "statement, changes",
    [
        ("select 1", False),
        ("  SELECT 1", False),
        ("-- insert\nselect 1", False),
        ("/* update */ (select 1)", False),
        ("with a as (select 1) select * from a", False),
        ("pragma table_info(author)", False),
        ("", False),
        ("update author set name = ''", True),
        ("/* c */ INSERT into author values (1)", True),
        ("with a as (select 1) delete from author", True),
        ("call rename_all()", True),
        ("# by hand\nselect 1", False),
        ("# by hand\nupdate author set name = ''", True),
        (";update author set name = ''", True),
        ("/*!50003 update author set name = '' */", True),
        ("/*M! update author set name = '' */", True),
        ("create table other (id integer)", True),
        ("set statement max_statement_time=1 for update author set name = ''", True),
        ("set statement max_statement_time=1 for select 1 for update", False),
        ("set @name = 'update'", False),
        ("begin not atomic update author set name = ''; end", True),
        ("begin immediate", False),
        ("select 1; /* c */ update author set name = ''", True),
        ("select 1; -- c\nupdate author set name = ''", True),
        ("begin; # c\nupdate author set name = ''", True),
        ("select 1; (with a as (select 1) update author set name = '')", True),
        ("set @a = 1; set statement lock_wait_timeout=1 for delete from author", True),
        ("select 1; begin not atomic update author set name = ''; end", True),
        ("select 1; /*!50003 update author set name = '' */", True),
        ("select 1; load data infile 'a' into table author", True),
        ("select 1; rename table author to other", True),
        ("select 1; with a as (select 1) select * from a; select 2", False),
        ("select 'with; it' from author", False),
        ("select 1;", False),
        ("select ';', deleted from author", False),
    ],
)
def test_what_changes_data_is_told_from_its_first_word(
    statement: str, changes: bool
) -> None:
    assert changes_data(statement) is changes

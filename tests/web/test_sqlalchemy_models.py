"""Changes of mapped objects, and of their tables, invalidate by themselves."""

from __future__ import annotations

import enum
from datetime import date
from typing import Any

import pytest
from library import ADA, NAMESPACE, Author, Book, Library, Translator
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    String,
    TypeDecorator,
    delete,
    event,
    insert,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import registry, sessionmaker

from hydracache_sync import InvalidationIntent, entity_tag, kind_tag
from hydracache_sync.integrations.sqlalchemy import Attached, attach, entity_key

AUTHORS = InvalidationIntent.collection("authors")
BOOKS = InvalidationIntent.collection("books")


ALL_AUTHORS = InvalidationIntent.tag(kind_tag("author"))
ALL_BOOKS = InvalidationIntent.tag(kind_tag("book"))


def author(id: int) -> InvalidationIntent:
    return InvalidationIntent.entity("author", str(id))


def book(shelf: str, number: int) -> InvalidationIntent:
    return InvalidationIntent.entity("book", entity_key(shelf, number))


@pytest.fixture
def attached(library: Library) -> Attached:
    return attach(library.make, library.outbox, NAMESPACE)


@pytest.fixture
def seen(library: Library, attached: Attached) -> Any:
    """Runs a function in a transaction; returns the intents it has written, sorted."""
    with library.session() as session:
        session.add_all(
            [
                Author(id=1, name="ada", books=[Book(shelf="a", number=1, title="x")]),
                Author(id=2, name="bob"),
                Translator(id=3, name="eve", language="fr"),
            ]
        )
        session.commit()
    attached.watch(Author, entity="author", collections=["authors"])
    attached.watch(Book, entity="book", collections=["books"])

    def run(change: Any) -> list[Any]:
        before = len(library.intents())
        with library.session() as session:
            change(session)
            session.commit()
        return sorted(library.intents()[before:])

    return run


class TestObjects:
    def test_an_insert_with_a_key_that_the_database_makes(
        self, library: Library, seen: Any
    ) -> None:
        made = Author(name="new")

        intents = seen(lambda session: session.add(made))

        with library.session() as session:
            id = session.merge(made).id
        assert intents == sorted([AUTHORS, author(id)])

    def test_an_update(self, seen: Any) -> None:
        def change(session: Any) -> None:
            session.get(Author, 1).name = "Ada"

        assert seen(change) == [AUTHORS, author(1)]

    def test_a_delete_and_what_it_cascades_to(self, seen: Any) -> None:
        intents = seen(lambda session: session.delete(session.get(Author, 1)))

        assert intents == sorted([AUTHORS, author(1), BOOKS, book("a", 1)])

    def test_an_orphan_is_deleted_and_seen(self, seen: Any) -> None:
        def change(session: Any) -> None:
            author = session.get(Author, 1)
            author.books.clear()

        assert {BOOKS, book("a", 1)} <= set(seen(change))

    def test_a_changed_primary_key_invalidates_old_and_new(self, seen: Any) -> None:
        def change(session: Any) -> None:
            session.get(Book, ("a", 1)).number = 7

        assert seen(change) == sorted([BOOKS, book("a", 1), book("a", 7)])

    def test_a_key_of_several_columns_is_unambiguous(self) -> None:
        assert entity_key(42) == "42"
        assert entity_key("a:b", 1) != entity_key("a", "b:1")
        assert entity_tag("book", entity_key("a", 1)) == "book:a%3A1"

    def test_an_object_that_is_read_or_set_to_the_same_invalidates_nothing(
        self, seen: Any
    ) -> None:
        def change(session: Any) -> None:
            session.get(Author, 1).name = "ada"
            assert session.get(Author, 2).name == "bob"

        assert seen(change) == []

    @pytest.mark.parametrize("also_in_python", [False, True])
    def test_a_value_that_the_database_computes_is_a_change(
        self, seen: Any, also_in_python: bool
    ) -> None:
        def change(session: Any) -> None:
            session.get(Author, 1).name = Author.name + "!"
            if also_in_python:
                session.get(Author, 2).name = "rob"

        expected = [AUTHORS, author(1)] + [author(2)] * also_in_python
        assert seen(change) == sorted(expected)

    def test_what_the_database_computed_is_no_change_the_next_time(
        self, library: Library, seen: Any
    ) -> None:
        with library.session() as session:
            bob = session.get(Author, 2)
            bob.name = Author.name + "!"
            session.commit()
            first = len(library.intents())
            bob.name = bob.name
            session.commit()

        assert len(library.intents()) == first > 0

    def test_a_model_may_be_watched_twice(self, attached: Attached, seen: Any) -> None:
        attached.watch(Author, entity="profile")

        def change(session: Any) -> None:
            session.get(Author, 1).name = Author.name + "!"

        profile = InvalidationIntent.entity("profile", "1")
        assert seen(change) == sorted([AUTHORS, author(1), profile])

    def test_a_change_that_another_listener_of_the_update_makes_counts(
        self, seen: Any
    ) -> None:
        def stamp(mapper: Any, connection: Any, target: Any) -> None:
            target.name = "stamped"

        def change(session: Any) -> None:
            book = session.get(Book, ("a", 1))
            book.author = session.get(Author, 2)

        event.listen(Author, "before_update", stamp)
        try:
            found = seen(change)
        finally:
            event.remove(Author, "before_update", stamp)

        assert found == sorted([AUTHORS, author(1), author(2), BOOKS, book("a", 1)])

    def test_a_subclass_is_one_of_its_base(self, seen: Any) -> None:
        def change(session: Any) -> None:
            session.get(Translator, 3).language = "de"

        assert seen(change) == [AUTHORS, author(3)]

    def test_flushes_before_the_commit_count(self, seen: Any) -> None:
        def change(session: Any) -> None:
            for id in (1, 2):
                session.get(Author, id).name = f"name {id}"
                session.flush()

        assert seen(change) == [AUTHORS, author(1), author(2)]

    def test_a_savepoint_that_is_rolled_back_takes_them_with_it(
        self, seen: Any
    ) -> None:
        def change(session: Any) -> None:
            session.get(Author, 1).name = "Ada"
            session.flush()
            savepoint = session.begin_nested()
            session.get(Author, 2).name = "Bob"
            session.flush()
            savepoint.rollback()

        assert seen(change) == [AUTHORS, author(1)]

    def test_a_flush_that_fails_in_a_savepoint_leaves_nothing(self, seen: Any) -> None:
        def change(session: Any) -> None:
            with pytest.raises(IntegrityError):
                with session.begin_nested():
                    session.add(Author(id=4, name="ada"))

        assert seen(change) == []

    def test_what_the_commit_flushes_is_written_with_the_rest(
        self, library: Library, attached: Attached
    ) -> None:
        attached.watch(Author, collections=["authors"])

        with library.engine.begin() as connection:
            # Whose commit is not the one of the session.
            with library.make(bind=connection) as session:
                attached.invalidate(session, ADA)
                session.add(Author(name="ada"))
                session.commit()
                receipts = attached.receipts(session)

        assert library.intents() == [ADA, AUTHORS]
        assert len(receipts) == 1

    def test_more_intents_and_a_key_of_ones_own(
        self, library: Library, attached: Attached
    ) -> None:
        attached.watch(
            Book,
            entity="book",
            key=lambda shelf, number: f"{shelf}/{number}",
            more=lambda book: [
                InvalidationIntent.collection(f"books of {book.author_id}")
            ],
        )

        with library.session() as session:
            session.add(Book(shelf="a", number=1, author=Author(id=9, name="ada")))
            session.commit()

        assert sorted(library.intents()) == [
            InvalidationIntent.collection("books of 9"),
            InvalidationIntent.entity("book", "a/1"),
        ]

    def test_names_are_checked_at_once(self, attached: Attached) -> None:
        with pytest.raises(TypeError, match="several names"):
            attached.watch(Author, collections="authors")
        with pytest.raises(ValueError):
            attached.watch(Author, entity="a" * 5000)


class TestStatements:
    """What changes a table without its objects invalidates the collections."""

    @pytest.mark.parametrize(
        "statement, entities",
        [
            (update(Author).where(Author.id == 1).values(name="Ada"), author(1)),
            (delete(Author).where(Author.id == 2), author(2)),
            (insert(Author).values(id=7, name="new"), author(7)),
            (update(Author.__table__).values(name=Author.name + "!"), ALL_AUTHORS),
            (
                delete(Translator).execution_options(synchronize_session=False),
                ALL_AUTHORS,
            ),
        ],
        ids=["update", "delete", "insert", "of the table", "of a subclass"],
    )
    def test_they_are_seen_through_a_session(
        self, seen: Any, statement: Any, entities: InvalidationIntent
    ) -> None:
        found = seen(lambda session: session.execute(statement))

        assert found == [AUTHORS, entities]

    def test_the_older_ways_are_seen_too(self, seen: Any) -> None:
        def change(session: Any) -> None:
            session.query(Book).update({"title": "y"})

        assert seen(change) == [BOOKS, ALL_BOOKS]

    @pytest.mark.parametrize("with_defaults", [True, False])
    def test_bulk_operations_are_seen(self, seen: Any, with_defaults: bool) -> None:
        def change(session: Any) -> None:
            session.bulk_save_objects(
                [Author(id=8, name="new")], return_defaults=with_defaults
            )
            session.bulk_update_mappings(Book, [{"shelf": "a", "number": 1}])

        assert AUTHORS in seen(change)

    def test_core_through_the_sessions_connection_is_seen(self, seen: Any) -> None:
        def change(session: Any) -> None:
            session.connection().execute(delete(Book.__table__))

        assert seen(change) == [BOOKS, ALL_AUTHORS, ALL_BOOKS]

    def test_a_text_changes_all_of_the_tables_that_it_names(
        self, library: Library, seen: Any, attached: Attached
    ) -> None:
        def change(session: Any) -> None:
            session.execute(text("update author set name = 'Ada' where id = 1"))
            attached.invalidate(session, ADA)

        assert seen(change) == sorted([ADA, AUTHORS, ALL_AUTHORS])

    def test_a_rolled_back_savepoint_takes_them_with_it(self, seen: Any) -> None:
        def change(session: Any) -> None:
            savepoint = session.begin_nested()
            session.execute(delete(Book))
            savepoint.rollback()

        assert seen(change) == []

    def test_a_read_is_none_of_them(self, seen: Any) -> None:
        assert seen(lambda session: session.query(Author).all()) == []


class TestWarnings:
    """What changes a watched model and is followed is not complained of."""

    def test_not_one_of_what_is_attached(
        self, seen: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.clear()

        def change(session: Any) -> None:
            session.execute(update(Author).values(name=Author.name + "!"))
            session.execute(insert(Author.__table__), [{"id": 7, "name": "new"}])
            session.get(Author, 1).name = "other"
            session.delete(session.get(Author, 2))

        seen(change)

        assert caplog.records == []

    def test_not_one_that_another_app_has_attached(
        self, library: Library, seen: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        other = sessionmaker(bind=library.engine)
        attach(other, library.outbox_on("hydracache_outbox"), "other")

        with other() as session:
            session.get(Author, 1).name = "x"
            session.commit()

        assert caplog.records == []


class Colour(enum.Enum):
    RED = "red"


class Shade(str, enum.Enum):
    DARK = "dark"


class Amount(TypeDecorator):
    impl = Numeric
    cache_ok = True


class TestKeysOfOtherTypes:
    """A tag is one text: what may be written in several ways is refused at once."""

    def model(self, *kinds: Any) -> Any:
        columns = {
            f"part{n}": Column(kind, primary_key=True, autoincrement=False)
            for n, kind in enumerate(kinds)
        }
        base: Any = registry().generate_base()
        return type("Price", (base,), {"__tablename__": "price", **columns})

    @pytest.mark.parametrize(
        "kind",
        [
            Numeric(10, 2),
            Numeric(asdecimal=False),
            Float(),
            Boolean(),
            Date(),
            DateTime(),
            LargeBinary(16),
            Enum(Colour),
        ],
        ids=repr,
    )
    def test_are_refused_when_the_model_is_watched(
        self, attached: Attached, kind: Any
    ) -> None:
        with pytest.raises(TypeError, match="Price has part1 in its primary key"):
            attached.watch(self.model(Integer(), kind), entity="price")

    @pytest.mark.parametrize(
        "kind",
        [
            Integer(),
            BigInteger(),
            BigInteger().with_variant(Integer(), "sqlite"),
            String(40),
            Enum("a", "b"),
            Enum(Shade),
            # Nothing says what it makes of them.
            Amount(),
        ],
        ids=repr,
    )
    def test_those_with_one_text_are_watched(
        self, attached: Attached, kind: Any
    ) -> None:
        attached.watch(self.model(kind), entity="price")

    def test_of_a_subclass_with_a_table_of_its_own_too(
        self, attached: Attached
    ) -> None:
        base: Any = registry().generate_base()
        id = Column(Integer, primary_key=True)
        plain = type("Plain", (base,), {"__tablename__": "plain", "id": id})
        of_its_own = {
            "__tablename__": "priced",
            "id": Column(Numeric(10, 2), primary_key=True),
            "__mapper_args__": {"concrete": True},
        }
        type("Priced", (plain,), of_its_own)

        with pytest.raises(TypeError, match="Priced has id in its primary key"):
            attached.watch(plain, entity="plain")

    def test_collections_need_no_key(self, attached: Attached) -> None:
        attached.watch(self.model(Numeric(10, 2)), collections=["prices"])

    def test_a_function_of_the_app_makes_the_text(
        self, library: Library, attached: Attached
    ) -> None:
        day = date(2026, 11, 29)
        price = self.model(Date())
        price.metadata.create_all(library.engine)
        attached.watch(price, entity="price", key=date.isoformat)

        try:
            with library.session() as session:
                session.add(price(part0=day))
                session.commit()
            with library.session() as session:
                session.delete(session.get(price, day))
                session.commit()
            intents = set(library.intents())
        finally:
            price.metadata.drop_all(library.engine)

        assert intents == {InvalidationIntent.entity("price", "2026-11-29")}

"""Changes that name no object: a page of an entity is not left stale by them.

Each page is read, then its row is changed in one of the ways that mappers do not tell
of, then the rows of the outbox are carried.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from alchemy_site import ITEM, Site
from library import (
    KNOWS_TWO_PHASES,
    NAMESPACE,
    Author,
    Book,
    Genre,
    Library,
    Translator,
    author_genre,
)
from sqlalchemy import (
    DDL,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    column,
    delete,
    insert,
    literal,
    select,
    table,
    text,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, registry
from sqlalchemy.sql.expression import ClauseElement, Executable

from hydracache_sync import (
    InvalidationIntent,
    MemcachedApplier,
    MemoryStore,
    OutboxWorker,
    TaggedCache,
    entity_key,
    entity_tag,
    kind_tag,
)
from hydracache_sync.integrations.sql_kind import hides_its_tables
from hydracache_sync.integrations.sqlalchemy import Attached, attach

Change = Callable[[Any], Any]

AUTHORS = Author.__table__
BOOKS = Book.__table__

KIND = InvalidationIntent.tag(kind_tag("author"))


def author(id: int) -> InvalidationIntent:
    return InvalidationIntent.entity("author", id)


class Pages:
    """Pages of a library, cached, and what carries the rows of its outbox."""

    def __init__(self, library: Library, attached: Attached) -> None:
        store = MemoryStore()
        self.library = library
        self.cache = TaggedCache(store, NAMESPACE, kinds=attached.kinds)
        applier = MemcachedApplier(store, NAMESPACE)
        self.worker = OutboxWorker(library.outbox, applier)
        attached.watch(Author, entity="author")
        attached.watch(Book, entity="book")
        attached.watch(Genre, entity="genre")

    def read(self, entity: str, *key: Any) -> str:
        tag = entity_tag(entity, entity_key(*key))
        show = {"author": self._author, "book": self._book, "genre": self._genre}
        page: str = self.cache.get_or_load(tag, lambda: show[entity](key), tags=[tag])
        return page

    def _author(self, key: Any) -> str:
        found = self._text(
            select(Author.name, Book.title, Genre.name)
            .select_from(AUTHORS)
            .outerjoin(Book, Book.author_id == Author.id)
            .outerjoin(author_genre, author_genre.c.author_id == Author.id)
            .outerjoin(Genre, author_genre.c.genre_id == Genre.id)
            .where(Author.id == key[0])
            .order_by(Book.title, Genre.name)
        )
        return found

    def _book(self, key: Any) -> str:
        shelf, number = key
        query = select(Book.title).where(Book.shelf == shelf, Book.number == number)
        return self._text(query)

    def _genre(self, key: Any) -> str:
        return self._text(
            select(Genre.name, author_genre.c.author_id)
            .select_from(Genre.__table__)
            .outerjoin(author_genre, author_genre.c.genre_id == Genre.id)
            .where(Genre.id == key[0])
            .order_by(author_genre.c.author_id)
        )

    def _text(self, query: Any) -> str:
        with self.library.engine.connect() as connection:
            return str([tuple(row) for row in connection.execute(query)])

    def carry(self) -> None:
        self.worker.drain()


def fill(library: Library) -> None:
    with Session(library.engine) as session:
        ada = Author(id=1, name="ada", books=[Book(shelf="a", number=1, title="x")])
        bob = Author(id=2, name="bob")
        eve = Translator(id=3, name="eve", language="fr")
        prose = Genre(id=1, name="prose", authors=[ada])
        session.add_all([ada, bob, eve, prose, Genre(id=2, name="verse")])
        session.commit()


@pytest.fixture
def attached(library: Library) -> Attached:
    fill(library)
    return attach(library.make, library.outbox, NAMESPACE)


@pytest.fixture
def pages(library: Library, attached: Attached) -> Pages:
    return Pages(library, attached)


@pytest.fixture
def written(library: Library, pages: Pages) -> Callable[[Change], list[Any]]:
    """Runs a change in a session; returns the intents it has written, sorted."""

    def run(change: Change) -> list[Any]:
        before = len(library.intents())
        with library.session() as session:
            change(session)
            session.commit()
        return sorted(set(library.intents()[before:]))

    return run


def becomes_fresh(pages: Pages, page: tuple[Any, ...], change: Change) -> None:
    """Assert that a page is read from the cache before ``change``, loaded after it."""
    before = pages.read(*page)
    with Session(pages.library.engine) as session:
        assert pages.read(*page) == before
        change(session)
    pages.carry()
    after = pages.read(*page)
    show = {"author": pages._author, "book": pages._book, "genre": pages._genre}

    assert after == show[page[0]](page[1:])
    assert after != before


ADAS_PAGE = ("author", 1)


def in_session(pages: Pages, change: Change) -> Change:
    def run(_: Any) -> None:
        with pages.library.session() as session:
            change(session)
            session.commit()

    return run


def sends(statement: Any, *parameters: Any) -> Change:
    """Sends it by the session; of a text also what the session would not do."""
    if isinstance(statement, str):
        statement = text(statement)
    return lambda session: session.execute(statement, *parameters)


def on_connection(statement: Any, *parameters: Any) -> Change:
    return lambda session: session.connection().execute(statement, *parameters)


def saves_in_bulk(session: Any) -> None:
    found = session.get(Author, 1)
    found.name = "new"
    session.bulk_save_objects([found])


def upserts(session: Any) -> None:
    statement = "insert into author (id, name) values (1, 'new')"
    if session.bind.dialect.name == "sqlite":
        statement += " on conflict (id) do update set name = 'new'"
    else:
        statement += " on duplicate key update name = 'new'"
    session.execute(text(statement))


class Renames(Executable, ClauseElement):  # type: ignore[misc]
    """A construct of the program's own, of which SQLAlchemy knows only its text."""

    inherit_cache = False


@compiles(Renames)  # type: ignore[misc,no-untyped-call]
def _text_of_renames(element: Any, compiler: Any, **options: Any) -> str:
    return "update author set name = 'new' where id = 1"


BY_KEY = update(AUTHORS).where(AUTHORS.c.id == bindparam("of"))

CHANGES: dict[str, Change] = {
    "update of all": sends(update(Author).values(name=Author.name + "!")),
    "update by a condition": sends(
        update(Author).where(Author.name == "ada").values(name="new")
    ),
    "update by the key": sends(update(Author).where(Author.id == 1).values(name="new")),
    "Query.update": lambda session: session.query(Author)
    .filter(Author.name == "ada")
    .update({"name": "new"}, synchronize_session=False),
    "Query.delete of its books": lambda session: session.query(Book).delete(),
    "core": on_connection(
        update(AUTHORS).where(AUTHORS.c.name.like("a%")).values(name="new")
    ),
    "core of several rows": on_connection(
        BY_KEY.values(name=bindparam("now")),
        [{"of": 1, "now": "new"}, {"of": 3, "now": "newer"}],
    ),
    "bulk_update_mappings": lambda session: session.bulk_update_mappings(
        Author, [{"id": 1, "name": "new"}]
    ),
    "bulk_save_objects": saves_in_bulk,
    "text": sends("update author set name = 'new' where id = 1"),
    "text of the driver": lambda session: session.connection().exec_driver_sql(
        "/* nightly */ UPDATE `author` SET name = 'new' WHERE id = 1"
    ),
    "upsert in text": upserts,
    "text as DDL": sends(DDL("update author set name = 'new' where id = 1")),
    "a construct of its own": sends(Renames()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_page_is_fresh_after(pages: Pages, name: str) -> None:
    becomes_fresh(pages, ADAS_PAGE, in_session(pages, CHANGES[name]))


RETURNING = text("update author set name = 'new' where id = 1 returning id, name")


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)  # MariaDB has none
@pytest.mark.parametrize(
    "statement",
    [
        RETURNING.columns(AUTHORS.c.id),
        select(Author).from_statement(RETURNING),
        select(Author).from_statement(RETURNING.columns(AUTHORS.c.id, AUTHORS.c.name)),
    ],
    ids=["columns", "objects", "objects of columns"],
)
def test_a_page_is_fresh_after_text_that_says_what_it_returns(
    pages: Pages, statement: Any
) -> None:
    change = in_session(pages, lambda session: session.execute(statement).all())

    becomes_fresh(pages, ADAS_PAGE, change)


@pytest.mark.parametrize("library", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    "statement",
    [
        "set statement max_statement_time=60 for "
        "update author set name = 'new' where id = 1",
        "begin not atomic update author set name = 'new' where id = 1; end",
    ],
    ids=["settings", "compound"],
)
def test_a_page_is_fresh_after_text_of_mariadb(pages: Pages, statement: str) -> None:
    def change(session: Any) -> None:
        session.connection().exec_driver_sql(statement)

    becomes_fresh(pages, ADAS_PAGE, in_session(pages, change))


@pytest.mark.parametrize("library", ["mariadb"], indirect=True)
def test_a_page_is_fresh_after_an_update_of_a_join(pages: Pages) -> None:
    joined = AUTHORS.join(BOOKS, BOOKS.c.author_id == AUTHORS.c.id)
    change = on_connection(update(joined).values({AUTHORS.c.name: "new"}))

    becomes_fresh(pages, ADAS_PAGE, in_session(pages, change))


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)
def test_a_page_is_fresh_after_an_update_by_another_table_object(pages: Pages) -> None:
    of_a_schema = Table(
        "author",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("name", String(40)),
        schema="main",
    )

    for again in (of_a_schema, table("author", column("name"))):
        ada = update(again).where(text("id = 1"))
        change = on_connection(ada.values(name=f"new of {again}"))
        becomes_fresh(pages, ADAS_PAGE, in_session(pages, change))


def test_a_schema_that_is_made_in_a_transaction_invalidates_nothing(
    written: Any,
) -> None:
    def make(session: Any) -> None:
        other = Table("author_note", MetaData(), Column("author", Integer))
        other.create(session.connection())
        session.execute(DDL("create index of_author on author_note (author)"))
        other.drop(session.connection())

    assert written(make) == []


@pytest.mark.parametrize("library", KNOWS_TWO_PHASES, indirect=True)
def test_a_page_is_fresh_after_an_update_of_two_tables(pages: Pages) -> None:
    both = (
        update(BOOKS)
        .where(BOOKS.c.author_id == AUTHORS.c.id)
        .values({BOOKS.c.title: "new", AUTHORS.c.name: "new"})
    )

    becomes_fresh(pages, ADAS_PAGE, in_session(pages, on_connection(both)))


def test_that_there_is_no_such_entity_is_forgotten_after_an_insert(
    pages: Pages,
) -> None:
    of_another_table = select(literal(9), literal("new"))
    new = on_connection(insert(AUTHORS).from_select(["id", "name"], of_another_table))

    becomes_fresh(pages, ("author", 9), in_session(pages, new))


def test_that_there_is_none_is_forgotten_by_another_spelling(pages: Pages) -> None:
    def change(session: Any) -> None:
        session.add(Author(id="09", name="new"))

    becomes_fresh(pages, ("author", 9), in_session(pages, change))


RENAMED = update(AUTHORS).values(name=AUTHORS.c.name)


class TestNames:
    """A statement that says which rows it hits costs their pages only."""

    @pytest.mark.parametrize(
        "statement, ids",
        [
            (update(Author).where(Author.id == 1).values(name="x"), [1]),
            (delete(Author.__table__).where(AUTHORS.c.id == 2), [2]),
            (insert(AUTHORS).values(id=8, name="x"), [8]),
            (
                update(AUTHORS)
                .where(AUTHORS.c.id == 2, AUTHORS.c.name != "x")
                .values(name="x"),
                [2],
            ),
        ],
        ids=["update", "delete", "insert", "and more"],
    )
    def test_by_the_key(self, written: Any, statement: Any, ids: list[int]) -> None:
        assert written(sends(statement)) == [author(id) for id in ids]

    @pytest.mark.parametrize(
        "statement",
        [
            update(AUTHORS).where(AUTHORS.c.id == 2).values(id=9),
            RENAMED.where((AUTHORS.c.id == 2) | (AUTHORS.c.id == 3)),
            RENAMED.where(AUTHORS.c.id != 2),
            RENAMED.where(AUTHORS.c.id == "02"),
            RENAMED.where(AUTHORS.c.name == "bob"),
            RENAMED.where(AUTHORS.c.id.in_([2])),
            RENAMED.where(
                AUTHORS.c.id == select(BOOKS.c.author_id).limit(1).scalar_subquery()
            ),
            insert(AUTHORS).values([{"id": 8, "name": "x"}, {"id": 9, "name": "y"}]),
        ],
        ids=[
            "new key",
            "or",
            "not",
            "another spelling",
            "another column",
            "in",
            "subquery",
            "several values",
        ],
    )
    def test_in_doubt_it_is_all(self, written: Any, statement: Any) -> None:
        assert written(on_connection(statement)) == [KIND]

    @pytest.mark.parametrize("library", ["sqlite"], indirect=True)
    def test_what_replaces_other_rows_is_all(self, written: Any) -> None:
        replacing = insert(AUTHORS).prefix_with("OR REPLACE").values(id=8, name="bob")

        assert written(on_connection(replacing)) == [KIND]


def links(model: Any, collection: str, other: Any) -> Change:
    def change(session: Any) -> None:
        owner = session.get(model, 2)
        getattr(owner, collection).append(session.get(other, 2))
        session.flush()

    return change


def unlinks(model: Any, collection: str) -> Change:
    def change(session: Any) -> None:
        owner = session.get(model, 1)
        getattr(owner, collection).clear()
        session.flush()

    return change


class TestLinks:
    """What links entities to each other concerns those that it links."""

    @pytest.mark.parametrize(
        "change",
        [
            links(Author, "genres", Genre),
            links(Genre, "authors", Author),
            on_connection(insert(author_genre), {"author_id": 2, "genre_id": 2}),
            on_connection(insert(author_genre).values(author_id=2, genre_id=2)),
            sends("insert into author_genre (author_id, genre_id) values (2, 2)"),
        ],
        ids=["one end", "the other", "core", "core's values", "text"],
    )
    def test_a_new_one_is_on_the_pages_of_both_ends(
        self, pages: Pages, change: Change
    ) -> None:
        genre = pages.read("genre", 2)

        becomes_fresh(pages, ("author", 2), in_session(pages, change))

        assert pages.read("genre", 2) != genre

    @pytest.mark.parametrize(
        "change",
        [
            unlinks(Author, "genres"),
            unlinks(Genre, "authors"),
            lambda session: session.delete(session.get(Genre, 1)),
            on_connection(delete(author_genre).where(author_genre.c.genre_id == 1)),
            sends("delete from author_genre"),
            on_connection(update(author_genre).values(author_id=2)),
        ],
        ids=["one end", "the other", "a deleted end", "core", "text", "moved"],
    )
    def test_one_that_is_gone_is_not_on_the_page(
        self, pages: Pages, change: Change
    ) -> None:
        becomes_fresh(pages, ADAS_PAGE, in_session(pages, change))

    def test_rows_name_their_ends(self, written: Any) -> None:
        def change(session: Any) -> None:
            unlinks(Author, "genres")(session)
            links(Author, "genres", Genre)(session)

        ends = [("author", 1), ("author", 2), ("genre", 1), ("genre", 2)]
        assert written(change) == sorted(
            InvalidationIntent.entity(*each) for each in ends
        )

    @pytest.mark.parametrize(
        "change",
        [
            lambda session: session.add(
                Book(shelf="b", number=1, title="y", author_id=1)
            ),
            lambda session: session.add(
                Book(shelf="b", number=1, title="y", author_id="01")
            ),
            lambda session: session.delete(session.get(Book, ("a", 1))),
            lambda session: setattr(session.get(Book, ("a", 1)), "author_id", 2),
            lambda session: setattr(
                session.get(Book, ("a", 1)), "author", session.get(Author, 2)
            ),
            lambda session: setattr(
                session.get(Book, ("a", 1)),
                "author_id",
                select(AUTHORS.c.id).where(AUTHORS.c.name == "bob").scalar_subquery(),
            ),
            sends(insert(Book).values(shelf="b", number=1, title="y", author_id=1)),
            sends(update(Book).values(author_id=2)),
            sends(delete(Book)),
        ],
        ids=[
            "added",
            "added by another spelling",
            "deleted",
            "moved by its key",
            "moved",
            "moved by the database",
            "inserted",
            "updated",
            "deleted in bulk",
        ],
    )
    def test_an_entity_is_concerned_by_what_comes_to_its_collection_and_leaves_it(
        self, pages: Pages, change: Change
    ) -> None:
        becomes_fresh(pages, ADAS_PAGE, in_session(pages, change))

    def test_where_it_goes_and_where_it_was(self, written: Any) -> None:
        def change(session: Any) -> None:
            session.get(Book, ("a", 1)).author_id = 2

        book = InvalidationIntent.entity("book", entity_key("a", 1))
        assert written(change) == [author(1), author(2), book]

    def test_what_was_at_is_not_known_of_an_object_that_was_not_read(
        self, written: Any
    ) -> None:
        def change(session: Any) -> None:
            book = session.get(Book, ("a", 1))
            session.expire(book)
            book.author_id = 2

        assert KIND in written(change)

    def test_a_change_of_what_is_in_it_is_no_change_of_the_entity(
        self, written: Any
    ) -> None:
        def change(session: Any) -> None:
            session.get(Book, ("a", 1)).title = "new"
            session.add(Book(shelf="b", number=1))

        books = [("a", 1), ("b", 1)]
        assert written(change) == [
            InvalidationIntent.entity("book", entity_key(*each)) for each in books
        ]


def renames(session: Any) -> None:
    session.get(Author, 1).name = "new"
    session.flush()


class TestAnAttachedEngine:
    @pytest.fixture
    def attached(self, library: Library) -> Attached:
        fill(library)
        return attach(library.engine, library.outbox, NAMESPACE)

    @pytest.mark.parametrize("name", CHANGES)
    def test_a_page_is_fresh_after_a_session_that_is_not_attached(
        self, pages: Pages, name: str
    ) -> None:
        def change(_: Any) -> None:
            with Session(pages.library.engine) as session:
                CHANGES[name](session)
                session.commit()

        becomes_fresh(pages, ADAS_PAGE, change)

    def test_a_page_is_fresh_after_core(self, pages: Pages) -> None:
        def change(_: Any) -> None:
            with pages.library.engine.begin() as connection:
                connection.execute(RENAMED.values(name=AUTHORS.c.name + "!"))

        becomes_fresh(pages, ADAS_PAGE, change)

    def test_what_is_rolled_back_is_not_written(
        self, pages: Pages, library: Library
    ) -> None:
        with library.engine.connect() as connection:
            with connection.begin() as transaction:
                connection.execute(RENAMED)
                transaction.rollback()

        assert library.intents() == []


class TestUnseen:
    """What cannot be covered is said once, with its place."""

    @pytest.mark.parametrize(
        "change",
        [sends(RENAMED), sends("update author set name = name"), renames],
        ids=["core", "text", "objects"],
    )
    def test_a_session_that_is_not_attached(
        self,
        pages: Pages,
        change: Change,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.clear()
        for _ in range(2):
            with Session(pages.library.engine) as session:
                change(session)
                session.commit()

        said = [each for each in caplog.messages if "table author of a" in each]
        assert len(set(said)) == 1
        assert said[0].startswith(f"{__file__}:")

    @pytest.mark.parametrize(
        "statement, hides",
        [
            ("call rename_all()", True),
            ("select 1; -- c\ncall rename_all()", True),
            ("select 1; update author set name = ''", False),
        ],
    )
    def test_what_hides_its_tables(self, statement: str, hides: bool) -> None:
        assert hides_its_tables(statement) is hides

    @pytest.mark.parametrize("library", KNOWS_TWO_PHASES, indirect=True)
    def test_a_statement_that_hides_its_tables(
        self, written: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.clear()

        written(sends("do sleep(0)"))

        [said] = {each for each in caplog.messages if "does not say what" in each}
        assert said.startswith(f"{__file__}:") and "'do sleep'" in said


def test_a_class_that_shares_the_table_of_a_watched_one(
    pages: Pages, written: Any
) -> None:
    class Person(registry().generate_base()):  # type: ignore[misc]
        __table__ = AUTHORS

    def change(session: Any) -> None:
        session.get(Person, 1).name = "new"

    assert written(change) == [author(1)]


class TestAnApp:
    """The app's cache has the kinds of what is watched, before and after."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Iterator[Site]:
        site = Site(tmp_path / "site.db", HYDRACACHE_SNAPSHOT="fresh")
        yield site
        site.close()

    def page(self, site: Site) -> str:
        load = lambda: site.item.name  # noqa: E731
        page: str = site.hydracache.get_or_load("page", load, tags=[ITEM])
        return page

    def halve(self, site: Site) -> str:
        site.db.session.execute(update(site.Item).values(name="new"))
        site.db.session.commit()
        return self.page(site)

    def test_a_bulk_statement_is_seen_by_the_request_and_by_all_once_it_is_carried(
        self, site: Site
    ) -> None:
        site.sessions.watch(site.Item, entity="item")
        with site.app.test_request_context():
            assert self.page(site) == "before"

        answer = site.run(lambda: self.halve(site))
        site.state.runtime.worker.drain()

        assert answer.get_data(as_text=True) == "new"
        assert site.written()[1] == ["item:%"]
        with site.app.test_request_context():
            assert self.page(site) == "new"

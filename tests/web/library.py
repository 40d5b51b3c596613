"""A library with SQLAlchemy: models, an engine on each kind of database, an outbox."""

from __future__ import annotations

from typing import Any, Callable

from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    String,
    Table,
    create_engine,
    event,
)
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, registry, relationship, sessionmaker

from hydracache_sync import InvalidationIntent, InvalidationOutbox

NAMESPACE = "library"

#: Of the databases that the fixture has.
KNOWS_TWO_PHASES = ["mariadb"]

ADA = InvalidationIntent.entity("author", "ada")
BOB = InvalidationIntent.entity("author", "bob")
EVE = InvalidationIntent.entity("author", "eve")

mapped = registry()
Base: Any = mapped.generate_base()


author_genre = Table(
    "author_genre",
    Base.metadata,
    Column("author_id", ForeignKey("author.id"), primary_key=True),
    Column("genre_id", ForeignKey("genre.id"), primary_key=True),
)


class Genre(Base):
    __tablename__ = "genre"
    id = Column(Integer, primary_key=True)
    name = Column(String(40))
    authors = relationship("Author", secondary=author_genre, backref="genres")


class Author(Base):
    __tablename__ = "author"
    id = Column(Integer, primary_key=True)
    name = Column(String(40), unique=True)
    books = relationship("Book", back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"
    shelf = Column(String(40), primary_key=True)
    number = Column(Integer, primary_key=True, autoincrement=False)
    title = Column(String(40))
    author_id = Column(ForeignKey("author.id"))
    author = relationship("Author", back_populates="books")


class Translator(Author):
    __tablename__ = "translator"
    id = Column(ForeignKey("author.id"), primary_key=True)
    language = Column(String(40))


class Library:
    """The tables and the outbox in one database, and looks at both.

    :param outbox_on: makes an outbox on a table of that name.
    :ivar make: makes sessions; attach it.
    """

    def __init__(
        self,
        url: str,
        outbox_on: Callable[[str], InvalidationOutbox],
        **options: Any,
    ) -> None:
        self.engine: Engine = create_engine(url, **options)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _do_not_sync)
        self.outbox_on = outbox_on
        self.outbox = outbox_on("hydracache_outbox")
        self.make = sessionmaker(bind=self.engine)

    def install(self) -> None:
        self.outbox.install_schema()
        mapped.metadata.create_all(self.engine)

    def empty(self) -> None:
        with self.engine.begin() as connection:
            for name in (
                "hydracache_outbox",
                "author_genre",
                "genre",
                "book",
                "translator",
                "author",
            ):
                connection.exec_driver_sql(f"delete from {name}")

    def session(self) -> Session:
        return self.make()

    def close(self) -> None:
        self.engine.dispose()
        self.outbox.close()

    def names(self) -> list[str]:
        """Of the authors that are durable."""
        with self.engine.connect() as connection:
            found = connection.exec_driver_sql("select name from author order by id")
            return [name for (name,) in found]

    def intents(self) -> list[Any]:
        """Of the rows that are durable, in order."""
        return [row.intent for row in self.outbox.rows(NAMESPACE)]


def _do_not_sync(connection: Any, record: Any) -> None:
    # No test here cuts the power, and waiting for the disk is most of their time.
    connection.execute("pragma synchronous = off")

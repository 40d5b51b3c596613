"""Rows that the database itself changes with others: no page of theirs is left stale.

By the ``ON DELETE`` and ``ON UPDATE`` of foreign keys, of which no mapper tells.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator

import pytest
from library import NAMESPACE, Library
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    String,
    Table,
    delete,
    event,
    insert,
    text,
    update,
)
from sqlalchemy.orm import Session, registry, relationship

from hydracache_sync import InvalidationIntent, kind_tag
from hydracache_sync.integrations.sqlalchemy import attach

mapped = registry()
Base: Any = mapped.generate_base()

post_label = Table(
    "post_label",
    Base.metadata,
    Column("post_id", ForeignKey("post.id", ondelete="CASCADE"), primary_key=True),
    Column("label_id", ForeignKey("label.id", ondelete="cascade"), primary_key=True),
)


class Team(Base):
    """Watched by nobody, and with no relationship."""

    __tablename__ = "team"
    id = Column(Integer, primary_key=True)
    code = Column(String(20), unique=True)
    motto = Column(String(20))


class Person(Base):
    __tablename__ = "person"
    id = Column(Integer, primary_key=True)
    name = Column(String(20), unique=True)
    team_id = Column(ForeignKey("team.id", ondelete="SET NULL"))
    team_code = Column(ForeignKey("team.code", onupdate="CASCADE"))
    posts = relationship("Post", cascade="all", passive_deletes=True)
    notes = relationship("Note", cascade="all")


class Post(Base):
    __tablename__ = "post"
    id = Column(Integer, primary_key=True)
    person_id = Column(ForeignKey("person.id", ondelete="CASCADE"))
    labels = relationship("Label", secondary=post_label)


class Comment(Base):
    __tablename__ = "comment"
    id = Column(Integer, primary_key=True)
    post_id = Column(ForeignKey("post.id", ondelete="CASCADE"))


class Note(Base):
    __tablename__ = "note"
    id = Column(Integer, primary_key=True)
    person_id = Column(ForeignKey("person.id", ondelete="CASCADE"))


class Label(Base):
    __tablename__ = "label"
    id = Column(Integer, primary_key=True)


WATCHED = (Person, Post, Comment, Note)

Change = Callable[[Session], Any]


def kinds(*names: str) -> set[InvalidationIntent]:
    return {InvalidationIntent.tag(kind_tag(each)) for each in names}


@pytest.fixture
def tables(library: Library) -> Iterator[Library]:
    if library.engine.dialect.name == "sqlite":
        event.listen(
            library.engine,
            "connect",
            lambda connection, _: connection.execute("pragma foreign_keys = on"),
        )
        library.engine.dispose()
    mapped.metadata.create_all(library.engine)
    yield library
    mapped.metadata.drop_all(library.engine)


@pytest.fixture
def written(tables: Library) -> Callable[[Change], set[Any]]:
    """Runs a change; returns what it invalidates of all objects of a kind."""
    with Session(tables.engine) as session:
        session.add(Team(id=1, code="red"))
        session.flush()
        session.add(Person(id=1, name="ada", team_id=1))
        session.flush()
        session.add_all([Post(id=1, person_id=1), Note(id=1, person_id=1)])
        session.add(Label(id=1))
        session.flush()
        session.add(Comment(id=1, post_id=1))
        session.execute(insert(post_label), [{"post_id": 1, "label_id": 1}])
        session.commit()
    attached = attach(tables.make, tables.outbox, NAMESPACE)
    for model in WATCHED:
        attached.watch(model, entity=model.__tablename__)

    def run(change: Change) -> set[Any]:
        with tables.session() as session:
            change(session)
            session.commit()
        every = kinds(*(model.__tablename__ for model in WATCHED))
        return every.intersection(tables.intents())

    return run


def gets(model: Any, then: Callable[[Session, Any], Any]) -> Change:
    return lambda session: then(session, session.get(model, 1))


def recodes(session: Session, team: Any) -> None:
    session.query(Person).update({"team_code": "red"})
    session.flush()
    team.code = "blue"


@pytest.mark.parametrize(
    "change, expected",
    [
        # Its notes the mapper deletes itself, and tells of each.
        (gets(Person, Session.delete), {"post", "comment"}),
        (lambda of: of.execute(delete(Person)), {"post", "comment", "note", "person"}),
        (
            lambda of: of.execute(delete(Person).where(Person.id == 1)),
            {"post", "comment", "note"},
        ),
        (
            lambda of: of.execute(text("delete from person")),
            {"post", "comment", "note", "person"},
        ),
        (gets(Team, Session.delete), {"person"}),
        (gets(Label, Session.delete), {"post"}),
        (lambda of: of.execute(delete(Label)), {"post"}),
        (gets(Team, lambda of, team: setattr(team, "motto", "x")), set()),
        (lambda of: of.execute(update(Team).values(motto="x")), set()),
        (lambda of: of.execute(update(Team).values(code="x")), {"person"}),
        (lambda of: of.execute(text("update team set code = 'x'")), {"person"}),
        (gets(Team, recodes), {"person"}),
        (lambda of: of.execute(insert(Team).values(id=2, code="x")), set()),
    ],
)
def test_the_kinds_that_change_with_it(
    written: Callable[[Change], set[Any]], change: Change, expected: set[str]
) -> None:
    assert written(change) == kinds(*expected)


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)
def test_a_row_that_is_replaced_takes_others_with_it(
    written: Callable[[Change], set[Any]],
) -> None:
    replaces = insert(Person).prefix_with("OR REPLACE").values(id=9, name="ada")

    found = written(lambda session: session.execute(replaces))

    assert found == kinds("person", "post", "comment", "note")


@pytest.mark.parametrize("statement", [delete(Team), text("delete from team")])
def test_a_session_that_is_not_attached_is_told_of(
    written: Any,
    tables: Library,
    statement: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.clear()
    with Session(tables.engine) as session:
        session.execute(statement)
        session.commit()

    [said] = {each for each in caplog.messages if "is not attached" in each}
    assert "changes table person of a watched model" in said

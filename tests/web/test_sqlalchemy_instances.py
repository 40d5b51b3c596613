"""An object of a watched model in place of its entity's name and key."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Iterator

import pytest
from alchemy_site import Site
from sqlalchemy import Column, ForeignKey, Integer, String, create_engine
from sqlalchemy.orm import Session, registry, sessionmaker

from hydracache_sync import (
    InvalidationIntent,
    MemoryOutbox,
    SQLiteOutbox,
    collection_tag,
    entity_key,
    entity_tag,
)
from hydracache_sync.integrations.sqlalchemy import attach, tag_of

mapped = registry()
Base: Any = mapped.generate_base()


class Animal(Base):
    __tablename__ = "animal"
    id = Column(Integer, primary_key=True)
    kind = Column(String(10))
    __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "animal"}


class Dog(Animal):
    __tablename__ = "dog"
    id = Column(ForeignKey("animal.id"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "dog"}


class Cage(Base):
    __tablename__ = "cage"
    house = Column(String(10), primary_key=True)
    number = Column(Integer, primary_key=True)


class Visitor(Base):
    __tablename__ = "visitor"
    id = Column(String(36), primary_key=True)


class Ticket(Base):
    __tablename__ = "ticket"
    id = Column(Integer, primary_key=True)


class Keeper(Base):
    __tablename__ = "keeper"
    id = Column(Integer, primary_key=True)


class Zoo:
    """The tables and the outbox in one file, and a session for all."""

    def __init__(self, path: Path) -> None:
        self.outbox = SQLiteOutbox(path)
        self.outbox.install_schema()
        engine = create_engine(f"sqlite:///{path}")
        mapped.metadata.create_all(engine)
        make: Any = sessionmaker(bind=engine)
        self.attached = attached = attach(make, self.outbox, "zoo")
        self.session: Session = make()
        attached.watch(Animal, entity="animal", collections=["animals"])
        attached.watch(Dog, entity="dog")
        attached.watch(
            Cage,
            entity="cage",
            more=lambda cage: [InvalidationIntent.tag(f"house-{cage.house}")],
        )
        attached.watch(Visitor, entity="visitor", key=uuid.UUID)
        attached.watch(Ticket, collections=["tickets"])

    def committed(self) -> set[str]:
        """What a commit invalidates: keys and tags."""
        before = {row.id for row in self.outbox.rows("zoo")}
        self.session.commit()
        return {
            str(row.intent.to_cache_invalidation().value)
            for row in self.outbox.rows("zoo")
            if row.intent is not None and row.id not in before
        }

    def close(self) -> None:
        self.session.close()
        self.session.get_bind().engine.dispose()
        self.outbox.close()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    """Once, for what is watched is of the module."""
    zoo = Zoo(tmp_path_factory.mktemp("zoo") / "zoo.db")
    yield zoo
    zoo.close()


@pytest.fixture
def session(zoo: Zoo) -> Iterator[Session]:
    yield zoo.session
    zoo.session.rollback()


def test_a_tag_is_that_of_the_nearest_class_and_of_one_text(session: Session) -> None:
    number = "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"
    objects = [
        Animal(id=1),
        Dog(id=2),
        Cage(house="a:b", number=7),
        Visitor(id=number),
    ]
    tags = [
        entity_tag("animal", 1),
        entity_tag("dog", 2),
        entity_tag("cage", entity_key("a:b", 7)),
        entity_tag("visitor", uuid.UUID(number)),
    ]

    # With a key of its own also before it is flushed.
    assert [tag_of(each) for each in objects] == tags
    session.add_all(objects)
    session.flush()
    assert [tag_of(each) for each in objects] == tags
    session.expire_all()
    assert [tag_of(each) for each in objects] == tags
    session.rollback()


def test_it_invalidates_what_its_change_does(zoo: Zoo, session: Session) -> None:
    dog, cage, ticket = Dog(), Cage(house="a", number=1), Ticket()
    session.add_all([dog, cage, ticket])
    changed = zoo.committed()

    zoo.attached.invalidate(session, dog, cage, ticket)

    assert zoo.committed() == changed
    assert changed == {
        entity_tag("dog", dog.id),
        entity_tag("animal", dog.id),
        collection_tag("animals"),
        entity_tag("cage", "a:1"),
        "house-a",
        "tickets",
    }


@pytest.mark.parametrize("pending", [Animal(), Cage(house="a")], ids=["id", "number"])
def test_without_a_primary_key_it_is_refused(
    zoo: Zoo, session: Session, pending: Any
) -> None:
    name = type(pending).__name__

    for call in (tag_of, lambda each: zoo.attached.invalidate(session, each)):
        with pytest.raises(ValueError, match=f"^a {name} has no primary key yet"):
            call(pending)


def test_what_nobody_watches_is_refused(zoo: Zoo, session: Session) -> None:
    with pytest.raises(TypeError, match="is known of a Ticket.*watch.Ticket, entity="):
        tag_of(Ticket(id=1))  # with collections alone it has no tag of its own
    for unknown, said in (
        (Keeper(id=1), "nothing is known of a Keeper"),
        (None, "nothing is known of a NoneType"),
        (Animal, "Animal is a class, which names no row: give an object of it"),
        ("user:42", "str may be a key, .* or an entity's id: say which, by invalid"),
        (42, "int may be a key"),
    ):
        for call in (tag_of, lambda each: zoo.attached.invalidate(session, each)):
            with pytest.raises(TypeError, match=said):
                call(unknown)


def test_a_class_with_two_names_has_no_tag() -> None:
    both = [attach(create_engine("sqlite://"), MemoryOutbox(), "zoo") for _ in range(2)]
    for name, each in zip("ab", both):
        each.watch(Keeper, entity=name)

    with pytest.raises(TypeError, match="Keeper is watched under several names"):
        tag_of(Keeper(id=1))


def test_an_app_knows_the_models_that_it_watches(tmp_path: Path) -> None:
    site = Site(tmp_path / "site.db")
    item = site.Item

    def view() -> str:
        found = site.db.session.get(item, 1)
        site.hydracache.invalidate(found, InvalidationIntent.key("more"))
        with pytest.raises(TypeError, match="nothing is known of a Animal"):
            site.hydracache.invalidate(found, Animal(id=1))
        site.db.session.commit()
        return tag_of(found)

    site.sessions.watch(item, entity="item", collections=["items"])
    answer = site.run(view)

    assert answer.get_data(as_text=True) == entity_tag("item", 1)
    assert sorted(site.written()[1]) == ["1", "items", "more"]
    site.close()

"""An engine that is attached: the transactions of Core's connections."""

from __future__ import annotations

from typing import Any

import pytest
from library import ADA, BOB, EVE, KNOWS_TWO_PHASES, NAMESPACE, Author, Library
from sqlalchemy import insert, text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from hydracache_sync import ConfigurationError, SchemaError
from hydracache_sync.integrations.sqlalchemy import (
    Attached,
    attach,
    reads_own_writes,
    snapshot,
)


@pytest.fixture
def attached(library: Library) -> Attached:
    return attach(library.engine, library.outbox, NAMESPACE)


def add(connection: Connection, name: str) -> None:
    connection.execute(insert(Author), [{"name": name}])


def test_rows_are_committed_with_the_data(library: Library, attached: Attached) -> None:
    with library.engine.begin() as connection:
        add(connection, "ada")
        attached.invalidate(connection, ADA, BOB)

    assert (library.names(), library.intents()) == (["ada"], [ADA, BOB])
    receipt = attached.receipt(connection)
    assert receipt is not None and receipt.targets == 2


def test_rows_are_rolled_back_with_the_data(
    library: Library, attached: Attached
) -> None:
    with pytest.raises(ZeroDivisionError):
        with library.engine.begin() as connection:
            add(connection, "ada")
            attached.invalidate(connection, ADA)
            raise ZeroDivisionError
    with library.engine.connect() as connection:
        with connection.begin():
            add(connection, "bob")
            attached.invalidate(connection, BOB)

    assert (library.names(), library.intents()) == (["bob"], [BOB])


def test_closing_a_connection_without_a_commit_forgets(
    library: Library, attached: Attached
) -> None:
    with library.engine.connect() as connection:
        connection.begin()
        add(connection, "ada")
        attached.invalidate(connection, ADA)
    with library.engine.begin() as connection:
        add(connection, "bob")

    assert (library.names(), library.intents()) == (["bob"], [])
    assert reads_own_writes()


def test_a_connection_that_has_left_its_pool_commits_its_rows(
    library: Library, attached: Attached
) -> None:
    with library.engine.connect() as connection:
        with connection.begin():
            connection.detach()
            add(connection, "ada")
            attached.invalidate(connection, ADA)

    assert (library.names(), library.intents()) == (["ada"], [ADA])


def test_savepoints_decide_for_what_is_in_them(
    library: Library, attached: Attached
) -> None:
    with library.engine.begin() as connection:
        add(connection, "ada")
        attached.invalidate(connection, ADA)
        lost = connection.begin_nested()
        add(connection, "bob")
        attached.invalidate(connection, BOB)
        lost.rollback()
        with connection.begin_nested():
            add(connection, "eve")
            attached.invalidate(connection, EVE)

    assert (library.names(), library.intents()) == (["ada", "eve"], [ADA, EVE])


def test_a_commit_keeps_a_savepoint_that_is_still_open(
    library: Library, attached: Attached
) -> None:
    with library.engine.connect() as connection:
        transaction = connection.begin()
        connection.begin_nested()
        add(connection, "ada")
        attached.invalidate(connection, ADA)
        transaction.commit()

    assert (library.names(), library.intents()) == (["ada"], [ADA])


def test_a_savepoint_first_commits_nothing_by_itself(
    library: Library, attached: Attached
) -> None:
    with library.engine.connect() as connection:
        transaction = connection.begin()
        with connection.begin_nested():
            add(connection, "ada")
            attached.invalidate(connection, ADA)
        transaction.rollback()

    assert (library.names(), library.intents()) == ([], [])


def test_a_connection_without_a_transaction_takes_nothing(
    library: Library, attached: Attached
) -> None:
    with library.engine.connect() as connection:
        with pytest.raises(ConfigurationError, match="no transaction"):
            attached.invalidate(connection, ADA)


def test_the_outbox_tells_of_the_commit_when_the_connection_is_returned(
    library: Library, attached: Attached
) -> None:
    told: list[Any] = []
    library.outbox.subscribe(lambda namespaces: told.append(library.intents()))

    with library.engine.begin() as connection:
        attached.invalidate(connection, ADA)

    assert told == [[ADA]]


def test_or_when_its_next_transaction_begins(
    library: Library, attached: Attached
) -> None:
    told: list[Any] = []
    library.outbox.subscribe(lambda namespaces: told.append(library.intents()))

    with library.engine.connect() as connection:
        with connection.begin():
            attached.invalidate(connection, ADA)
        with connection.begin():
            connection.execute(text("select 1"))
        before_return = list(told)

    assert before_return == [[ADA]]


def test_sessions_on_the_engine_are_covered(
    library: Library, attached: Attached
) -> None:
    attached.watch(Author, entity="author", key=lambda id: "ada")

    with library.session() as session:
        session.add(Author(name="ada"))
        session.commit()

    assert (library.names(), library.intents()) == (["ada"], [ADA])


def test_a_session_and_its_engine_attached_to_one_outbox_keep_out_of_the_others_way(
    library: Library, attached: Attached
) -> None:
    sessions = attach(library.make, library.outbox, NAMESPACE)

    with library.session() as session:
        session.add(Author(name="ada"))
        sessions.invalidate(session, ADA)
        attached.invalidate(session.connection(), BOB)
        session.commit()
    with library.engine.connect() as connection:
        with connection.begin():
            with Session(connection) as inner:
                inner.add(Author(name="eve"))
                inner.commit()
            attached.invalidate(connection, EVE)

    assert library.names() == ["ada", "eve"]
    assert sorted(library.intents()) == [ADA, BOB, EVE]


def test_of_a_session_and_its_engine_one_is_open_and_ends_with_the_session(
    library: Library, attached: Attached
) -> None:
    attach(library.make, library.outbox, NAMESPACE)

    with library.session() as session:
        connection = session.connection()
        began = snapshot()
        session.commit()
        ended = snapshot()

    assert connection.closed
    assert began is not None and ended is None


@pytest.mark.parametrize("library", KNOWS_TWO_PHASES, indirect=True)
def test_two_phases_write_before_the_first(
    library: Library, attached: Attached
) -> None:
    with library.engine.connect() as connection:
        transaction = connection.begin_twophase()
        add(connection, "ada")
        attached.invalidate(connection, ADA)
        transaction.prepare()
        prepared = library.intents()
        transaction.commit()

    assert prepared == []
    assert (library.names(), library.intents()) == (["ada"], [ADA])


@pytest.mark.parametrize("library", KNOWS_TWO_PHASES, indirect=True)
def test_two_phases_that_nobody_has_prepared_write_before_both(
    library: Library, attached: Attached
) -> None:
    with library.engine.connect() as connection:
        with connection.begin_twophase():
            add(connection, "ada")
            attached.invalidate(connection, ADA)
        receipt = attached.receipt(connection)

    assert (library.names(), library.intents()) == (["ada"], [ADA])
    assert receipt is not None and receipt.targets == 1


@pytest.mark.parametrize("library", KNOWS_TWO_PHASES, indirect=True)
def test_two_phases_that_nobody_has_prepared_are_rolled_back_where_they_write_nothing(
    library: Library,
) -> None:
    attached = attach(library.engine, library.outbox_on("is_missing"), NAMESPACE)
    with library.engine.connect() as connection:
        transaction = connection.begin_twophase()
        add(connection, "ada")
        attached.invalidate(connection, ADA)
        with pytest.raises(SchemaError):
            transaction.commit()
    with library.engine.begin() as connection:
        left = connection.execute(text("xa recover")).all()
        add(connection, "ada")  # it would wait for the lock of one that is left

    assert (left, library.names()) == ([], ["ada"])

"""An app without Flask attaches its sessions in the same way."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Iterator

import pytest
from library import ADA, BOB, NAMESPACE, Author, Library
from sqlalchemy import insert, text
from sqlalchemy.exc import OperationalError

from hydracache_sync import ConfigurationError, MemoryStore
from hydracache_sync.integrations.wsgi import HydraCache


@pytest.fixture
def hydracache(library: Library) -> Iterator[HydraCache]:
    yield HydraCache(
        {
            "HYDRACACHE_OUTBOX": library.outbox,
            "HYDRACACHE_NAMESPACE": NAMESPACE,
            "HYDRACACHE_MEMCACHED": MemoryStore(),
            "HYDRACACHE_MODE": "inline",
            "HYDRACACHE_POOL": "none",
        }
    )


def test_what_was_collected_goes_with_the_sessions_commit(
    library: Library, hydracache: HydraCache, caplog: pytest.LogCaptureFixture
) -> None:
    hydracache.attach(library.make)

    with hydracache.collecting("a job"):
        with library.session() as session:
            session.add(Author(name="ada"))
            hydracache.invalidate(ADA)
            session.commit()
            receipt = hydracache.receipt

    [row] = library.outbox.rows(NAMESPACE)
    assert (library.names(), row.intent, row.reason) == (["ada"], ADA, "a job")
    assert row.is_published
    assert receipt is not None and receipt.commit_position == row.commit_position
    assert caplog.records == []


BY_ITSELF = [
    ("sqlite", "commit"),
    ("mariadb", "commit"),
    ("mariadb", "alter table translator comment = 'commits what came before it'"),
]


@pytest.mark.parametrize(("library", "statement"), BY_ITSELF, indirect=["library"])
def test_what_a_statement_has_committed_by_itself_is_not_rolled_back(
    library: Library, hydracache: HydraCache, statement: str
) -> None:
    attached = hydracache.attach(library.make)

    with hydracache.collecting("a job"):
        with library.session() as session:
            session.add(Author(name="ada"))
            session.flush()
            hydracache.invalidate(ADA)
            attached.invalidate(session, BOB)
            session.execute(text(statement))
            session.rollback()

    assert (library.names(), sorted(library.intents())) == (["ada"], [ADA, BOB])


@pytest.mark.parametrize("library", ["mariadb"], indirect=True)
def test_nor_is_the_savepoint_that_it_was_in(
    library: Library, hydracache: HydraCache
) -> None:
    attached = hydracache.attach(library.make)

    with hydracache.collecting("a job"):
        with library.session() as session:
            with pytest.raises(OperationalError, match="SAVEPOINT .* does not exist"):
                with session.begin_nested():
                    session.add(Author(name="ada"))
                    session.flush()
                    hydracache.invalidate(ADA)
                    attached.invalidate(session, BOB)
                    session.execute(text(BY_ITSELF[-1][1]))
                    raise ZeroDivisionError

    assert (library.names(), sorted(library.intents())) == (["ada"], [ADA, BOB])


@pytest.mark.parametrize("in_a_request", [True, False])
def test_an_engine_in_autocommit_loses_nothing_that_can_be_written(
    library: Library,
    hydracache: HydraCache,
    in_a_request: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = library.engine.execution_options(isolation_level="AUTOCOMMIT")
    attached = hydracache.attach(engine)
    served = hydracache.collecting("a job") if in_a_request else nullcontext()

    with served:
        with engine.connect() as connection:
            transaction = connection.begin()
            connection.execute(insert(Author.__table__).values(name="ada"))
            attached.invalidate(connection, ADA)
            transaction.rollback()

    expected = (
        ([ADA], "one by one") if in_a_request else ([], "1 invalidations are lost")
    )
    assert library.names() == ["ada"]
    assert library.intents() == expected[0]
    assert expected[1] in caplog.text


def test_where_nothing_is_served_a_commit_with_intents_is_refused(
    library: Library, hydracache: HydraCache
) -> None:
    attached = hydracache.attach(library.make)

    with library.session() as session:
        session.add(Author(name="ada"))
        attached.invalidate(session, ADA)
        with pytest.raises(ConfigurationError, match="collecting"):
            session.commit()

    assert (library.names(), library.intents()) == ([], [])

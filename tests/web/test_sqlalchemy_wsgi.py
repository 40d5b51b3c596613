"""An app without Flask attaches its sessions in the same way."""

from __future__ import annotations

from typing import Iterator

import pytest
from library import ADA, NAMESPACE, Author, Library

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

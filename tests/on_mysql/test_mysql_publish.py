"""Inline publishing after a commit that PyMySQL tells of, so that no look is needed."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any, Iterator

import pytest
from mysql_databases import Database, lose_answer_to, spy_on_statements

from hydracache_sync import (
    InvalidationReceipt,
    MySQLOutbox,
    OutboxState,
    OutboxWorker,
    Published,
    PublishReport,
    RecordingApplier,
)
from outbox_contract.common import SHOP, batch_of


@pytest.fixture
def outbox(database: Database) -> Iterator[MySQLOutbox]:
    with contextlib.closing(database.outbox()) as outbox:
        outbox.install_schema()
        yield outbox


@pytest.fixture(params=[False, True], ids=["begin", "no autocommit"])
def writer(request: pytest.FixtureRequest, database: Database) -> Iterator[Any]:
    """A caller's connection inside a transaction."""
    with contextlib.closing(database.connect(autocommit=not request.param)) as writer:
        writer.begin()
        yield writer


@pytest.fixture
def applier() -> RecordingApplier:
    return RecordingApplier(SHOP)


@pytest.fixture
def worker(outbox: MySQLOutbox, applier: RecordingApplier) -> OutboxWorker:
    return OutboxWorker(outbox, applier)


def keys_of(applier: RecordingApplier) -> list[str | None]:
    return [intent.value for intent in applier.applied]


def enqueued(outbox: MySQLOutbox, writer: Any, *keys: str) -> InvalidationReceipt:
    return outbox.enqueue_in(writer, SHOP, batch_of(*keys))


def execute(connection: Any, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def test_after_the_callers_commit_one_statement_is_enough(
    outbox, writer, worker, applier, monkeypatch
):
    receipt = enqueued(outbox, writer, "a", "b")
    writer.commit()
    outbox.status(SHOP)  # it is connected
    statements = spy_on_statements(monkeypatch)

    report = worker.publish(receipt)

    assert report == PublishReport(claimed=2, published=2)
    assert keys_of(applier) == ["a", "b"]
    assert [text.split()[0] for text in statements] == ["update"]
    assert outbox.status(SHOP).pending == 0


def test_before_the_commit_nothing_is_applied(outbox, writer, worker, applier):
    receipt = enqueued(outbox, writer, "a")

    report = worker.publish(receipt)
    writer.commit()

    assert report == PublishReport(claimed=1, unseen=1)
    assert keys_of(applier) == []
    assert outbox.status(SHOP).pending == 1


def test_rows_that_were_rolled_back_are_unseen(outbox, writer, worker):
    receipt = enqueued(outbox, writer, "a", "b")
    writer.rollback()

    assert worker.publish(receipt) == PublishReport(claimed=2, unseen=2)


def test_in_the_next_transaction_it_looks_first(
    outbox, writer, worker, applier, monkeypatch
):
    receipt = enqueued(outbox, writer, "a")
    writer.commit()
    writer.begin()
    enqueued(outbox, writer, "b")
    statements = spy_on_statements(monkeypatch)

    report = worker.publish(receipt)
    writer.rollback()

    assert report.complete
    assert keys_of(applier) == ["a"]
    assert any(text.split()[0] == "select" for text in statements)


def test_what_is_only_prepared_is_not_taken_for_committed(
    database, outbox, worker, applier
):
    with contextlib.closing(database.connect(autocommit=True)) as writer:
        xid = f"'{secrets.token_hex(6)}'"
        execute(writer, f"xa start {xid}")
        receipt = enqueued(outbox, writer, "a")
        execute(writer, f"xa end {xid}")
        execute(writer, f"xa prepare {xid}")

        prepared = worker.publish(receipt)
        applied_early = keys_of(applier)
        execute(writer, f"xa commit {xid}")
        committed = worker.publish(receipt)

    assert prepared == PublishReport(claimed=1, unseen=1)
    assert applied_early == []
    assert committed == PublishReport(claimed=1, published=1)


def test_a_commit_without_an_answer_is_looked_for(
    outbox, writer, worker, applier, monkeypatch
):
    receipt = enqueued(outbox, writer, "a")
    lose_answer_to(monkeypatch, "commit")
    with pytest.raises(Exception, match="Lost connection"):
        writer.commit()

    assert not receipt.is_over
    assert worker.publish(receipt).complete
    assert keys_of(applier) == ["a"]


@pytest.mark.parametrize("before", ["waiting", "claimed", "published", "dead"])
def test_a_position_used_before_is_applied_after_its_own_commit(
    outbox, writer, worker, applier, before
):
    outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
    if before != "waiting":
        rows = outbox.claim(SHOP, "worker", limit=1, claim_ttl=30)
    if before == "dead":
        outbox.mark_failed(rows, "given up", backoff=0, dead=True)
    elif before == "published":
        outbox.mark_published(rows)
    receipt = outbox.enqueue_in(writer, SHOP, batch_of("a"), commit_position="tx:7")

    early = worker.publish(receipt)
    applied_early = list(applier.applied)
    writer.commit()
    late = worker.publish(receipt)

    assert (early, applied_early) == (PublishReport(claimed=1, unseen=1), [])
    assert late == PublishReport(claimed=1, published=1)
    assert keys_of(applier) == ["a"]
    assert outbox.status_for_commit(SHOP, "tx:7").published == 1


def test_a_position_used_before_whose_commit_got_no_answer_is_left_to_a_worker(
    outbox, writer, worker, applier, monkeypatch
):
    outbox.publish_commit(outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7"))
    receipt = outbox.enqueue_in(writer, SHOP, batch_of("a"), commit_position="tx:7")
    lose_answer_to(monkeypatch, "commit")
    with pytest.raises(Exception, match="Lost connection"):
        writer.commit()

    assert worker.publish(receipt) == PublishReport(claimed=1, unseen=1)
    assert worker.drain().published == 1
    assert keys_of(applier) == ["a"]


def test_whoever_listens_gets_the_rows(outbox, writer, worker):
    events: list[Any] = []
    worker.subscribe(events.append)
    receipt = enqueued(outbox, writer, "a", "b")
    writer.commit()

    worker.publish(receipt)

    [event] = events
    assert isinstance(event, Published) and event.inline
    assert [row.id for row in event.rows] == [row.id for row in outbox.rows(SHOP)]
    assert (event.count, event.lost) == (2, 0)


def test_the_end_of_a_connection_tells_nothing(database, outbox, worker, applier):
    writer = database.connect()
    writer.begin()
    receipt = enqueued(outbox, writer, "a")
    writer.commit()
    writer.close()
    del writer

    assert worker.publish(receipt).complete
    assert keys_of(applier) == ["a"]
    assert {row.state for row in outbox.rows(SHOP)} == {OutboxState.PUBLISHED}

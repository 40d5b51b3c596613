"""The commands for operators on MariaDB and MySQL, each once."""

from __future__ import annotations

import json
import secrets
import signal
from importlib import metadata
from typing import Any, Callable, Iterator

import pytest
from mysql_databases import Database
from mysql_grants import grant

from hydracache_sync import InvalidationIntentBatch, MySQLOutbox
from hydracache_sync.cli import ExitCode
from support.commands import PATIENCE, Ended, ended, run, start
from support.servers import Memcached

Command = Callable[..., Ended]


@pytest.fixture
def outbox(database: Database) -> Iterator[MySQLOutbox]:
    outbox = database.outbox()
    outbox.install_schema()
    yield outbox
    outbox.close()


@pytest.fixture
def given(database: Database, memcached: Memcached, unique: str) -> dict[str, Any]:
    return {
        "outbox": database.server.url(database.name),
        "namespace": unique,
        "memcached": memcached.address,
        "connect_timeout": PATIENCE,
        "timeout": PATIENCE,
    }


@pytest.fixture
def command(given: dict[str, Any]) -> Command:
    def call(*arguments: str, **values: Any) -> Ended:
        return run(*arguments, **{**given, **values})

    return call


def test_a_dead_letter_is_found_and_mended(
    outbox: MySQLOutbox, command: Command, unique: str
) -> None:
    batch = InvalidationIntentBatch("caf\xe9").invalidate_key("a").invalidate_key("b")
    outbox.enqueue(unique, batch)
    rows = outbox.claim(unique, "w", limit=2, claim_ttl=30)
    outbox.mark_failed(rows[:1], "100% full", backoff=0, dead=True)
    outbox.mark_failed(rows[1:], "timed out", backoff=0, dead=True)

    listed = command("dead", "list", "--error", "100%*full")
    shown = command("dead", "show", str(rows[0].id))
    refused = command("dead", "retry", "--all", "--expect", "1")
    discarded = command("dead", "discard", "--error", "timed", "--yes")
    retried = command("dead", "retry", "--all", "--expect", "1")
    drained = command("drain")

    assert listed.out.endswith("1 of 1 dead letter\n")
    assert " caf\xe9\n" in shown.out and " key a\n" in shown.out
    assert refused.code == ExitCode.USAGE
    assert discarded.out == f"{unique}: 1 discarded\n"
    assert retried.out == f"{unique}: 1 retried\n"
    assert (drained.code, drained.err) == (ExitCode.DONE, "")


def test_what_waits_is_looked_at_paused_flushed_and_purged(
    outbox: MySQLOutbox, command: Command, unique: str
) -> None:
    enqueued = command("invalidate", "entity", "user", "1", "2", "--reason", "call")
    command("pause", unique, "--reason", "night")
    held = command("drain")
    rows = command("rows", "--state", "due", "--json")
    paused = command("paused", "--json")
    command("resume", unique)
    waited = command("flush", unique, "--wait", "0")
    drained = command("drain")
    purged = command("purge", "--older-than", "0")

    assert enqueued.code == ExitCode.DONE
    assert held.code == ExitCode.WAITING and "paused since" in held.out
    values = [json.loads(line)["value"] for line in rows.out.splitlines()]
    assert values == ["1", "2"]
    assert paused.json["namespaces"][0]["reason"] == "night"
    assert waited.code == ExitCode.WAITING
    assert drained.code == ExitCode.DONE
    # What was published in this very millisecond is not older than 0 yet.
    assert purged.code == ExitCode.DONE and outbox.status(unique).pending == 0


def test_a_worker_carries_and_ends(
    outbox: MySQLOutbox, given: dict[str, Any], unique: str
) -> None:
    worker = start("worker", **given)
    try:
        done = run("flush", unique, "--wait", str(PATIENCE), **given)
    finally:
        worker.send_signal(signal.SIGTERM)
    end = ended(worker)

    assert done.code == ExitCode.DONE
    assert "published after" in done.out
    assert end.code == ExitCode.DONE
    assert end.out.startswith(f"{unique}: 1 published")


@pytest.mark.parametrize(
    ("flushes", "said"),
    [
        (0, "WARNING durability: innodb_flush_log_at_trx_commit is 0: a crash of the"),
        (1, ""),
        (2, "ok durability: innodb_flush_log_at_trx_commit is 2: a crash of the"),
    ],
)
def test_commits_that_a_crash_takes_back_are_told(
    database: Database,
    outbox: MySQLOutbox,
    command: Command,
    flushes: int,
    said: str,
) -> None:
    name = "innodb_flush_log_at_trx_commit"
    [(before,)] = database.sql(f"select @@global.{name}")
    database.sql(f"set global {name} = {flushes}")
    try:
        told = " ".join(command("doctor").out.split())
    finally:
        database.sql(f"set global {name} = {before}")

    assert said in told and ("durability" in told) is bool(said)


def test_tables_that_roll_nothing_back_are_told(
    database: Database, outbox: MySQLOutbox, command: Command
) -> None:
    before = command("doctor").out
    database.sql("create table first (id int) engine = myisam")
    database.sql("create table other (id int) engine = innodb")
    database.sql("create view shown as select id from other")
    database.sql("create table second (id int) engine = memory")

    said = " ".join(command("doctor").out.split())

    assert "engines" not in before
    assert "WARNING engines: no rollback undoes a change of first, second:" in said


def test_a_login_is_examined_for_what_it_is_for(
    database: Database, outbox: MySQLOutbox, command: Command
) -> None:
    user = "u" + secrets.token_hex(5)
    database.sql(f"create user '{user}'@'%' identified by 'se-cret'")
    try:
        grant(database, user, "producer")
        url = f"mysql://{user}:se-cret@{database.server.address}/{database.name}"
        as_worker = command("doctor", outbox=url)
        as_producer = command("doctor", "--role", "producer", outbox=url)
    finally:
        database.sql(f"drop user '{user}'@'%'")

    assert as_worker.code == ExitCode.ALERT
    assert "PROBLEM  rights: not enough for the role worker: delete on the table" in (
        as_worker.out
    )
    assert as_producer.code == ExitCode.DONE
    assert "ok       rights: enough for the role producer\n" in as_producer.out
    assert f"pymysql {metadata.version('pymysql')}" in as_producer.out
    assert "ok       clock: " in as_producer.out
    assert "se-cret" not in as_worker.out + as_producer.out

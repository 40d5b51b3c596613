"""Hosts whose clocks are hours off share claims as if they were not.

Each "host" is a process to which libfaketime gives a clock of its own; the database's
clock is the machine's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterator, NamedTuple

import pytest
from mysql_databases import PATIENCE, Database

from hydracache_sync.outbox import MySQLOutbox, OutboxState
from outbox_contract.common import SHOP, batch_of, keys_of, numbered

#: How far off the clock of a host is, and how fast it runs.
AHEAD, BEHIND, FAST, SLOW = "+3h", "-3h", "+1h x50", "-1h x0.02"

#: Seconds that the clock of a host is off at least.
FAR = 3000

CLAIM = """
import json, sys, time
from hydracache_sync import open_outbox
url, owner, limit, ttl = sys.argv[1:]
rows = open_outbox(url).claim("shop", owner, limit=int(limit), claim_ttl=float(ttl))
print(json.dumps([time.time(), [row.intent.value for row in rows]]))
"""

DRAIN = """
import json, sys, time
from hydracache_sync import (
    InvalidationIntentBatch, OutboxWorker, RecordingApplier, open_outbox
)
outbox, applier = open_outbox(sys.argv[1]), RecordingApplier("shop")
OutboxWorker(outbox, applier, batch_size=7).drain()
outbox.enqueue("from hosts", InvalidationIntentBatch().flush())
print(json.dumps([time.time(), [intent.value for intent in applier.applied]]))
"""


class Answer(NamedTuple):
    """What a host said.

    :ivar off: seconds that its clock is ahead of ours.
    """

    off: float
    keys: list[str]


class Host:
    """A process with a clock of its own. Like ``Popen``, the constructor starts it."""

    def __init__(self, clock: str, program: str, *arguments: str) -> None:
        faketime = shutil.which("faketime")
        assert faketime, "faketime is not installed: apt-get install faketime"
        self._process = subprocess.Popen(
            [faketime, "-f", clock, sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            # What waits and measures durations goes on as it does.
            env={**os.environ, "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
        )

    def answer(self) -> Answer:
        try:
            text, _ = self._process.communicate(timeout=PATIENCE)
        finally:
            self._process.kill()
        assert self._process.returncode == 0
        clock, keys = json.loads(text)
        return Answer(clock - time.time(), keys)


@pytest.fixture
def url(database: Database) -> str:
    return database.server.url(str(database.name))


@pytest.fixture
def outbox(database: Database) -> Iterator[MySQLOutbox]:
    outbox = database.outbox()
    outbox.install_schema()
    yield outbox
    outbox.close()


def claim_on(clock: str, url: str, limit: int, claim_ttl: float) -> Answer:
    return Host(clock, CLAIM, url, f"on {clock}", str(limit), str(claim_ttl)).answer()


def test_claim_lasts_as_long_as_it_said_whoever_looks(outbox, url):
    outbox.enqueue(SHOP, batch_of("a", "b"))

    held = claim_on(AHEAD, url, 1, PATIENCE)
    short = claim_on(BEHIND, url, 1, 1.5)
    at_once = claim_on(AHEAD, url, 9, 30)

    assert held.off > FAR
    assert short.off < -FAR
    # It may have taken over two seconds to start a process.
    assert (held.keys, short.keys) == (["a"], ["b"])
    assert at_once.keys in ([], ["b"])
    taken: list[Any] = at_once.keys
    deadline = time.monotonic() + PATIENCE / 2
    while not taken:
        assert time.monotonic() < deadline
        taken = claim_on(BEHIND, url, 9, 30).keys
    assert taken == ["b"]
    [row, _] = outbox.rows(SHOP)
    assert keys_of([row]) == ["a"]
    assert row.claim_owner == f"on {AHEAD}"
    assert 0 < row.claim_until_ms / 1000 - time.time() <= PATIENCE


def test_workers_on_four_hosts_finish_each_row_once(outbox, url):
    keys = numbered(400)
    for start in range(0, 400, 20):
        outbox.enqueue(SHOP, batch_of(*keys[start : start + 20]))

    hosts = [Host(clock, DRAIN, url) for clock in (AHEAD, BEHIND, FAST, SLOW)]
    with ThreadPoolExecutor(len(hosts)) as threads:
        answers = list(threads.map(Host.answer, hosts))

    assert all(abs(answer.off) > FAR for answer in answers)
    assert sorted(key for answer in answers for key in answer.keys) == sorted(keys)
    rows = outbox.rows(SHOP, limit=1000)
    assert {row.state for row in rows} == {OutboxState.PUBLISHED}
    assert {row.attempts for row in rows} == {0}
    # Whoever wrote it, a row was written, and finished, at the time of the database.
    for row in [*rows, *outbox.rows("from hosts")]:
        assert abs(row.created_at_ms / 1000 - time.time()) < 2 * PATIENCE
        assert abs(row.available_at_ms / 1000 - time.time()) < 2 * PATIENCE
    assert len(outbox.claim("from hosts", "w", limit=9, claim_ttl=30)) == 4

"""What the end of a request could not write is kept, whatever comes in between."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from shop import Shop, hydracache

from hydracache_sync import InvalidationIntent, InvalidationIntentBatch, OutboxError
from hydracache_sync.app.fallback_writer import RETRY_AFTER
from hydracache_sync.app.request_state import EnqueuedBatch
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
from support.clock import Later


class Ended(BaseException):
    """As a server's timeout, raised from a signal handler in the middle of anything."""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(tmp_path / "shop.db", HYDRACACHE_NET_TIMEOUT=0.05)
    # Each request is so much later than the one before it.
    later = Later(monkeypatch)
    shop.app.teardown_request(lambda exc: later.advance(RETRY_AFTER))
    return shop


@contextlib.contextmanager
def locked(shop: Shop) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(shop.path)) as connection:
        connection.execute("begin immediate")
        yield
        connection.rollback()


def forget(shop: Shop, *keys: str) -> None:
    """Serve requests that write nothing of what they collect."""
    for key in keys:
        with shop.app.test_request_context():
            hydracache.invalidate_key(key)


def fail_with(monkeypatch: pytest.MonkeyPatch, shop: Shop, *errors: Any) -> None:
    """Have the next enqueues raise; None is one that works."""
    outbox = shop.state.runtime.fallback._own_outbox()
    plain, waiting = outbox.enqueue, list(errors)

    def enqueue(*arguments: Any, **options: Any) -> Any:
        error = waiting.pop(0) if waiting else None
        if error is not None:
            raise error
        return plain(*arguments, **options)

    monkeypatch.setattr(outbox, "enqueue", enqueue)


def test_a_batch_is_not_lost_that_was_being_written_when_the_thread_was_ended(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(shop):
        forget(shop, "one", "two", "three")
    fail_with(monkeypatch, shop, None, Ended())

    with pytest.raises(Ended):
        forget(shop, "four")
    forget(shop, "five")

    assert sorted(map(str, shop.targets())) == ["five", "four", "one", "three", "two"]


def test_nor_the_one_that_a_request_has_left(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, shop, Ended())

    with pytest.raises(Ended):
        forget(shop, "one")
    forget(shop, "two")

    assert sorted(map(str, shop.targets())) == ["one", "two"]


def test_nor_one_whose_hold_off_cannot_be_ended(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OutboxError("a defect")

    with shop.app.test_request_context():
        hydracache.invalidate_key("one")
        hydracache.collected().holding.callback(fail)

    assert shop.targets() == ["one"]
    assert "a defect" in caplog.text


def test_it_goes_out_at_the_position_that_was_promised(shop: Shop) -> None:
    position = CommitPosition.generate()
    with locked(shop):
        shop.state.runtime.fallback.save(
            InvalidationIntentBatch().invalidate_key("one"), "GET x", "it is", position
        )

    forget(shop, "two")

    assert position in [row.commit_position for row in shop.rows()]


def test_many_of_them_do_not_hold_a_page_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(shop):
        forget(shop, *map(str, range(6)))
    outbox = shop.state.runtime.fallback._own_outbox()
    plain = outbox.enqueue

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.04)
        return plain(*arguments, **options)

    monkeypatch.setattr(outbox, "enqueue", slow)

    forget(shop, "last")
    after_one = len(shop.rows())
    for _ in range(6):
        forget(shop, "last")

    assert after_one < 6
    assert {*map(str, range(6)), "last"} == set(shop.targets())


def test_many_lost_writes_of_a_request_do_not_hold_it_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, looks = shop.state.runtime, []
    plain = runtime.outbox.status_for_commit

    def slow(*arguments: Any, **options: Any) -> Any:
        looks.append(arguments)
        time.sleep(0.03)
        return plain(*arguments, **options)

    monkeypatch.setattr(runtime.outbox, "status_for_commit", slow)
    written = []
    for number in range(20):
        batch = InvalidationIntentBatch().invalidate_key(str(number))
        position = CommitPosition.generate()
        receipt = InvalidationReceipt("shop", position, 1, 1, batch=batch)
        written.append(EnqueuedBatch(receipt, joined=False))

    runtime.fallback.save_missing(written, "GET x")
    looked = len(looks)
    for _ in range(20):
        forget(shop, "more")

    assert looked < 10
    assert set(map(str, range(20))) <= set(shop.targets())


def test_many_inline_publishes_share_the_time_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(
        tmp_path / "shop.db",
        HYDRACACHE_MODE="inline",
        HYDRACACHE_INLINE_TIMEOUT=0.1,
    )
    worker = shop.state.runtime.worker
    plain, limits = worker.publish, []

    def slow(receipt: Any, *, timeout: float) -> Any:
        limits.append(timeout)
        time.sleep(0.03)
        return plain(receipt, timeout=timeout)

    monkeypatch.setattr(worker, "publish", slow)
    with shop.app.test_request_context():
        for number in range(10):
            key = InvalidationIntent.key(str(number))
            with contextlib.closing(sqlite3.connect(shop.path)) as connection:
                connection.execute("begin")
                hydracache.enqueue(connection, key)
                connection.commit()

        report = hydracache.publish()

        assert not report.complete
        assert report.claimed == 10 > report.published == len(limits) > 0
        assert limits == sorted(limits, reverse=True)


PROGRAM = """
import sqlite3, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from shop import Shop, hydracache
shop = Shop(Path({path!r}), HYDRACACHE_NET_TIMEOUT=0.05)
lock = sqlite3.connect({path!r})
lock.execute("begin immediate")
with shop.app.test_request_context():
    hydracache.invalidate_key("one")
if {goes_on}:
    lock.rollback()
"""


@pytest.mark.parametrize("goes_on", [True, False])
def test_the_end_of_the_process_is_the_last_try(tmp_path: Path, goes_on: bool) -> None:
    path = tmp_path / "shop.db"
    program = PROGRAM.format(
        folder=str(Path(__file__).parent), path=str(path), goes_on=goes_on
    )

    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )

    assert ended.returncode == 0, ended.stderr
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = list(connection.execute("select 1 from hydracache_outbox"))
    assert len(rows) == goes_on
    assert ("lost with process" in ended.stderr) is not goes_on

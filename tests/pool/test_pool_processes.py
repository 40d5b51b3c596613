"""A pool over forks, over other processes, and at the end of its own.

On SQLite here; the same over forks on MariaDB is in ``on_mysql/test_mysql_pool.py``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import (
    ConfigurationError,
    InvalidationIntentBatch,
    OutboxWorker,
    RecordingApplier,
    SQLiteOutbox,
    WorkerPool,
)
from support import ROOT, TESTS
from support.pool_processes import SHOP, Shop
from support.processes import DEADLINE, Child, UnseenChild
from support.waiting import eventually


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    outbox = SQLiteOutbox(tmp_path / "app.db")
    outbox.install_schema()
    with contextlib.closing(outbox):
        yield Shop(outbox)


@pytest.fixture(params=[Child, UnseenChild])
def fork(request: pytest.FixtureRequest) -> type[Child]:
    """How to make a child process: as Python does, and as uWSGI does."""
    kind: type[Child] = request.param
    return kind


class TestFork:
    """A parent whose pool runs forks; what runs in the child is the child's own."""

    def test_nothing_runs_in_the_child_until_the_pool_is_used(self, shop, fork):
        with shop.pool:
            eventually(lambda: shop.pool.health().ok)
            health = fork(shop.pool.health).result()
            parent = shop.pool.health()

        assert not health.running
        assert health.threads == ()
        assert parent.ok

    @pytest.mark.parametrize("use", ["start", "wake", "enqueue", "enqueue_in"])
    def test_pool_starts_anew_in_the_child(self, shop, fork, use):
        def in_child() -> tuple[list[str], bool, bool]:
            if use == "enqueue":
                shop.outbox.enqueue(SHOP, shop.batch("child"))
            elif use == "enqueue_in":
                shop.enqueue_in_own_transaction("child")
            else:
                with contextlib.closing(shop.another_outbox()) as other:
                    other.enqueue(SHOP, shop.batch("child"))
                getattr(shop.pool, use)()
            eventually(lambda: shop.pending() == 0)
            running = shop.pool.health().running
            return shop.applied(), running, shop.pool.stop(DEADLINE)

        with shop.paused_parent():
            carried, running, stopped = fork(in_child).result()

        assert (carried, running, stopped) == (["child"], True, True)

    # A fork that Python does not see cannot wait until a thread is out of SQLite. The
    # child of a parent that is at work may then find the file locked for ever; so these
    # two are for the other kind. On MariaDB both are tried.

    def test_parent_goes_on_after_the_child_has_come_and_gone(self, shop):
        def in_child() -> bool:
            shop.pool.start()
            shop.outbox.enqueue(SHOP, shop.batch("child"))
            eventually(lambda: shop.pending() == 0)
            return shop.pool.stop(DEADLINE)

        with shop.pool:
            shop.outbox.enqueue(SHOP, shop.batch("before"))
            eventually(lambda: "before" in shop.applied())
            assert Child(in_child).result()
            shop.outbox.enqueue(SHOP, shop.batch("after"))
            eventually(lambda: "after" in shop.applied())

            eventually(lambda: shop.pool.health().ok)

    def test_a_stop_in_the_child_stops_nothing_of_the_parents(self, shop, fork):
        with shop.pool:
            assert fork(lambda: shop.pool.stop(DEADLINE)).result() is True
            shop.outbox.enqueue(SHOP, shop.batch("a"))
            eventually(lambda: shop.applied() == ["a"])

    def test_a_child_of_a_pool_that_is_not_started_starts_nothing(self, shop, fork):
        def in_child() -> bool:
            shop.outbox.enqueue(SHOP, shop.batch("a"))
            shop.pool.wake()
            return shop.pool.health().running

        assert fork(in_child).result() is False

    def test_locks_that_a_thread_of_the_parent_held_do_not_stop_the_child(
        self, shop, fork
    ):
        worker = shop.worker
        locks = [worker._counts._lock, worker._subscribers._lock, shop.pool._lock]
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with locks[0].mine(), locks[1].mine(), locks[2].mine():
                held.set()
                done.wait(DEADLINE)

        def in_child() -> list[str]:
            worker.subscribe(lambda event: None)
            shop.pool.start()
            shop.outbox.enqueue(SHOP, shop.batch("a"))
            eventually(lambda: shop.pending() == 0)
            return shop.applied()

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(DEADLINE)
        child = fork(in_child)
        done.set()
        holder.join()

        assert child.result() == ["a"]

    def test_many_children_of_a_busy_parent_all_carry(self, shop):
        def in_child() -> int:
            shop.pool.start()
            for n in range(5):
                shop.outbox.enqueue(SHOP, shop.batch(f"{os.getpid()}:{n}"))
            eventually(lambda: shop.pending() == 0)
            assert shop.pool.stop(DEADLINE)
            return len(shop.applied())

        with shop.pool:
            children = []
            for n in range(6):
                shop.outbox.enqueue(SHOP, shop.batch(f"parent:{n}"))
                children.append(Child(in_child))
            carried = sum(child.result() for child in children)
            eventually(lambda: shop.pending() == 0)

            assert carried + len(shop.applied()) >= 36
            eventually(lambda: shop.pool.health().ok)


class TestMultiprocessing:
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_a_child_carries_and_ends_with_its_batch(self, tmp_path, method):
        outbox = SQLiteOutbox(tmp_path / "app.db")
        outbox.install_schema()
        outbox.enqueue(SHOP, InvalidationIntentBatch("test").invalidate_key("slow"))

        # In a process of its own: whatever fork() warns of, it warns there.
        run_program(
            f"""
            import multiprocessing, sys
            from support.pool_processes import carry_until_in_flight

            if __name__ == "__main__":
                context = multiprocessing.get_context({method!r})
                child = context.Process(
                    target=carry_until_in_flight, args=({str(outbox.path)!r},)
                )
                child.start()
                child.join({DEADLINE})
                sys.exit(child.exitcode)
            """,
            cwd=tmp_path,
        )

        # It returned while its batch was in flight, and the batch was finished.
        assert outbox.status(SHOP).pending == 0
        outbox.close()

    def test_a_started_pool_starts_anew_in_a_forked_child(self, tmp_path):
        outbox = SQLiteOutbox(tmp_path / "app.db")
        outbox.install_schema()

        run_program(
            f"""
            import multiprocessing, sys
            from hydracache_sync import SQLiteOutbox
            from support.pool_processes import SHOP, Shop
            from support.waiting import eventually

            shop = Shop(SQLiteOutbox({str(outbox.path)!r}))

            def in_child():
                shop.outbox.enqueue(SHOP, shop.batch("child"))
                eventually(lambda: shop.pending() == 0)

            with shop.pool:
                shop.outbox.enqueue(SHOP, shop.batch("parent"))
                eventually(lambda: shop.pending() == 0)
                child = multiprocessing.get_context("fork").Process(target=in_child)
                child.start()
                child.join({DEADLINE})
            sys.exit(child.exitcode)
            """,
            cwd=tmp_path,
        )

        assert len(outbox.rows(SHOP)) == 2
        outbox.close()


class TestEndOfTheProcess:
    def test_the_batch_in_flight_is_finished_when_the_program_ends(self, tmp_path):
        outbox = SQLiteOutbox(tmp_path / "app.db")
        outbox.install_schema()
        outbox.enqueue(SHOP, InvalidationIntentBatch("test").invalidate_key("slow"))

        run_program(
            f"""
            from support.pool_processes import carry_until_in_flight

            carry_until_in_flight({str(outbox.path)!r})
            """,
            cwd=tmp_path,
        )

        assert outbox.status(SHOP).pending == 0
        outbox.close()

    def test_what_the_log_says_at_the_end_is_what_came_of_it(self, tmp_path):
        outbox = SQLiteOutbox(tmp_path / "app.db")
        outbox.install_schema()

        said = run_program(
            f"""
            import logging
            from support.pool_processes import pool_over

            logging.basicConfig(level=logging.INFO)
            pool_over({str(outbox.path)!r}, claim_ttl=1.0).start()
            """,
            cwd=tmp_path,
        )

        assert "pool stopped: finished" in said
        assert "not yet ended" not in said
        outbox.close()

    def test_an_applier_that_hangs_does_not_keep_the_program_from_ending(
        self, tmp_path
    ):
        outbox = SQLiteOutbox(tmp_path / "app.db")
        outbox.install_schema()
        outbox.enqueue(SHOP, InvalidationIntentBatch("test").invalidate_key("hang"))

        said = run_program(
            f"""
            from support.pool_processes import carry_until_in_flight

            carry_until_in_flight({str(outbox.path)!r})
            """,
            cwd=tmp_path,
        )

        assert "did not end within" in said
        assert outbox.status(SHOP).pending == 1
        outbox.close()

    def test_a_row_whose_applier_ends_the_process_is_carried_by_the_next(
        self, tmp_path
    ):
        outbox = SQLiteOutbox(tmp_path / "app.db")
        outbox.install_schema()
        batch = InvalidationIntentBatch("test").invalidate_key("exit")
        outbox.enqueue(SHOP, batch.invalidate_key("neighbour"))

        run_program(
            f"""
            import time
            from support.pool_processes import pool_over

            pool_over({str(outbox.path)!r}, claim_ttl=0.2).start()
            time.sleep({DEADLINE})
            """,
            cwd=tmp_path,
            code=3,
        )
        held = outbox.status(SHOP)
        applier = RecordingApplier(SHOP)
        with WorkerPool(OutboxWorker(outbox, applier)):
            eventually(lambda: outbox.status(SHOP).pending == 0)

        assert held.pending == 2
        assert held.dead_lettered == 0
        assert sorted(str(each.value) for each in applier.applied) == [
            "exit",
            "neighbour",
        ]
        outbox.close()

    def test_a_process_stopped_for_longer_than_its_claim_spoils_nothing(self, tmp_path):
        outbox = SQLiteOutbox(tmp_path / "app.db")
        outbox.install_schema()
        outbox.enqueue(SHOP, InvalidationIntentBatch("test").invalidate_key("slow"))
        program = start_program(
            f"""
            import sys
            from hydracache_sync import Published
            from support.pool_processes import pool_over

            pool = pool_over({str(outbox.path)!r}, claim_ttl=0.5)
            pool.subscribe(
                lambda event: print(
                    "told", type(event).__name__, getattr(event, "lost", 0), flush=True
                )
            )
            pool.start()
            sys.stdin.read()
            """,
            cwd=tmp_path,
        )
        try:
            eventually(lambda: any(row.claim_token for row in outbox.rows(SHOP)))
            os.kill(program.pid, signal.SIGSTOP)
            applier = RecordingApplier(SHOP)
            with WorkerPool(OutboxWorker(outbox, applier)):
                eventually(lambda: outbox.status(SHOP).pending == 0)
            [taken_over] = outbox.rows(SHOP)
        finally:
            os.kill(program.pid, signal.SIGCONT)
        said, _ = program.communicate("", timeout=DEADLINE)

        [row] = outbox.rows(SHOP)
        assert row == taken_over
        assert row.is_published
        assert "told Published 1" in said  # applied once more, and left to the other
        outbox.close()


class TestUWSGI:
    def test_uwsgi_without_threads_is_refused_with_what_to_do(self, shop, monkeypatch):
        fake = type(sys)("uwsgi")
        fake.has_threads = 0
        monkeypatch.setitem(sys.modules, "uwsgi", fake)

        with pytest.raises(ConfigurationError, match="--enable-threads"):
            shop.pool.start()

        assert not shop.pool.health().running

    def test_uwsgi_with_threads_is_like_any_other(self, shop, monkeypatch):
        fake = type(sys)("uwsgi")
        fake.has_threads = 1
        monkeypatch.setitem(sys.modules, "uwsgi", fake)

        with shop.pool:
            assert shop.pool.health().running


# Programs


def start_program(text: str, *, cwd: Path) -> subprocess.Popen[str]:
    path = cwd / "program.py"
    path.write_text(textwrap.dedent(text))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(path)],
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{ROOT}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_program(text: str, *, cwd: Path, code: int = 0) -> str:
    """Run a program to its end, which must have ``code``; return what it said."""
    with start_program(text, cwd=cwd) as program:
        try:
            said, _ = program.communicate("", timeout=DEADLINE)
        finally:
            program.kill()
    assert program.returncode == code, said
    return said

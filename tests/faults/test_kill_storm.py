"""The kill storm in a small size, and proof that it would find what it looks for."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest

from faults.checker import DEAD, P1, P2, STORM, Verdict, check
from faults.database import SQLiteDatabase
from faults.ledger import Ledger
from faults.program import PROGRAM, Result, storm
from faults.reading import P3

#: One row of the outbox. Ids have gaps: where a position is enqueued twice, the second
#: INSERT uses ids up and inserts nothing.
A_ROW = "id = (select min(id) from hydracache_outbox)"

# A storm is half a minute long, and longer on a slow machine.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("kill-storm") / "storm"
    return storm(folder, "--transactions 1500")


class TestStorm:
    def test_no_promise_breaks(self, survived: Result) -> None:
        assert survived.verdict["broken"] == dict.fromkeys(
            survived.verdict["broken"], 0
        ), survived.output
        assert survived.exit_code == 0

    def test_all_faults_came_to_pass(self, survived: Result) -> None:
        harm = survived.verdict["harm"]

        assert harm["memcached killed"] == 2
        assert harm["writer killed at random"] >= 3
        assert harm["worker killed at random"] >= 3
        assert harm["writer killed when intended"] >= 1
        assert harm["writer killed when committed"] >= 1
        assert any(what.startswith("worker frozen") for what in harm)
        assert survived.verdict["not_provoked"] == []

    def test_it_prints_seed_and_figures(self, survived: Result) -> None:
        first, *lines = survived.output.splitlines()

        assert first.startswith("seed ")
        assert "     1500 transactions" in lines
        assert "        0 stale reads" in lines


class TestWhatItFinds:
    def test_get_set_and_delete_serve_stale_values(self, tmp_path: Path) -> None:
        result = storm(
            tmp_path / "storm",
            "--transactions 400 --plain-delete --memcached-restarts 0",
        )

        assert result.exit_code == 1
        assert result.verdict["figures"]["stale reads"] > 0
        assert result.verdict["broken"][P3] > 0
        assert result.verdict["broken"][P2] == 0

    def test_intents_that_are_dropped_are_missed(self, tmp_path: Path) -> None:
        result = storm(
            tmp_path / "storm",
            "--transactions 150 --rate 0 --drop-intents 0.1 --memcached-restarts 0",
        )

        assert result.exit_code == 1
        assert result.verdict["broken"][P2] > 0
        assert result.verdict["broken"][P1] == 0

    @pytest.mark.parametrize(
        "statement, promise",
        [
            (f"delete from hydracache_outbox where {A_ROW}", P1),
            ("delete from commits where txn = (select min(txn) from commits)", P1),
            (f"update hydracache_outbox set commit_position = 'x' where {A_ROW}", P1),
            (f"update hydracache_outbox set target_hash = x'00' where {A_ROW}", P1),
            (f"update hydracache_outbox set state = 0 where {A_ROW}", P2),
            (f"update hydracache_outbox set state = 2 where {A_ROW}", DEAD),
            ("delete from history where version = 2 and item = 0", STORM),
            ("update item set version = version + 1 where id = 0", STORM),
        ],
    )
    def test_a_changed_row_is_found(
        self, survived: Result, tmp_path: Path, statement: str, promise: str
    ) -> None:
        folder = shutil.copytree(survived.folder, tmp_path / "storm")
        with closing(sqlite3.connect(folder / "storm.db")) as connection:
            connection.execute(statement)
            connection.commit()

        assert look_again(folder).broken[promise] > 0

    @pytest.mark.parametrize(
        "what, facts, promise",
        [
            ("try", {"targets": [["tag", "never:0.0.0", None]]}, P1),
            ("try", {"targets": [["tag", "only:9.9.9", None]]}, P1),
            ("committed", {"txn": "9.9.9"}, STORM),
            ("foreign", {"item": 1, "value": {}}, STORM),
        ],
    )
    def test_a_wrong_deed_is_found(
        self,
        survived: Result,
        tmp_path: Path,
        what: str,
        facts: dict[str, Any],
        promise: str,
    ) -> None:
        folder = shutil.copytree(survived.folder, tmp_path / "storm")
        Ledger(folder / "ledgers", "someone").note(what, **facts)

        assert look_again(folder).broken[promise] > 0

    def test_nothing_is_found_where_nothing_is_wrong(self, survived: Result) -> None:
        assert look_again(survived.folder).good


class TestEnd:
    def test_ctrl_c_leaves_neither_processes_nor_files(self, tmp_path: Path) -> None:
        with running_storm(tmp_path) as process:
            process.send_signal(signal.SIGINT)

            assert process.wait(30) == 130

        assert wait_until_none(str(tmp_path)) == []
        assert list(tmp_path.iterdir()) == []

    def test_sigkill_leaves_no_processes(self, tmp_path: Path) -> None:
        with running_storm(tmp_path) as process:
            process.kill()

        assert wait_until_none(str(tmp_path)) == []


def look_again(folder: Path) -> Verdict:
    database = SQLiteDatabase.in_folder(str(folder))
    return check(folder / "ledgers", database, harm=Counter(), duration=1.0)


@contextmanager
def running_storm(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A storm that has its files in ``folder``, from when all its processes run."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), "--transactions", "100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        deadline = time.monotonic() + 60
        # 4 writers, 2 workers, 2 readers; cron and memcached's supervisor beside them.
        while len(command_lines(str(folder))) < 9:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until_none(text: str) -> list[str]:
    """Wait until no process has ``text`` in its command line; return who is left."""
    deadline = time.monotonic() + 10
    while command_lines(text) and time.monotonic() < deadline:
        time.sleep(0.05)
    return command_lines(text)


def command_lines(text: str) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_text(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if text in line:
            found.append(line.replace("\0", " "))
    return found

"""The kill storm in a small size on servers that are killed, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from mysql_databases import KINDS, MARIADBS, one_of

from faults.checker import P1, P2
from faults.program import Result, storm
from faults.reading import P3
from support.servers import SQL_SERVERS

# Each is half a minute long, and longer on a slow machine.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", params=KINDS)
def survived(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Result:
    folder = tmp_path_factory.mktemp("kill-storm") / "storm"
    return storm(folder, f"--transactions 1000 --database {request.param}")


def test_no_promise_breaks(survived: Result) -> None:
    assert survived.verdict["broken"] == dict.fromkeys(
        survived.verdict["broken"], 0
    ), survived.output
    assert survived.exit_code == 0


def test_servers_and_processes_were_killed(survived: Result) -> None:
    harm = survived.verdict["harm"]

    databases = {SQL_SERVERS[kind].program for kind in SQL_SERVERS}
    assert sum(harm.get(f"{program} killed", 0) for program in databases) == 2
    assert harm["memcached killed"] == 2
    assert harm["writer killed at random"] >= 3
    assert harm["worker killed at random"] >= 3
    assert any(what.startswith("worker frozen") for what in harm)
    assert survived.verdict["figures"]["transactions failed, run again"] > 0


@pytest.mark.needs_server(*MARIADBS)
def test_get_set_and_delete_serve_stale_values(tmp_path: Path) -> None:
    result = storm(
        tmp_path / "storm",
        f"--database {one_of(*MARIADBS)} --transactions 400 --plain-delete"
        " --memcached-restarts 0 --database-restarts 0",
    )

    assert result.exit_code == 1
    assert result.verdict["broken"][P3] > 0
    assert result.verdict["broken"][P2] == 0


@pytest.mark.needs_server(*MARIADBS)
def test_intents_that_are_dropped_are_missed(tmp_path: Path) -> None:
    result = storm(
        tmp_path / "storm",
        f"--database {one_of(*MARIADBS)} --transactions 150 --rate 0 --drop-intents 0.1"
        " --memcached-restarts 0 --database-restarts 1",
    )

    assert result.exit_code == 1
    assert result.verdict["broken"][P2] > 0
    assert result.verdict["broken"][P1] == 0

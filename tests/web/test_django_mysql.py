"""Django on MariaDB, with each driver that it runs on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fresh_mariadb import fresh_mariadb

from support.servers import MariaDB

PROGRAM = Path(__file__).with_name("django_on_mysql.py")


@pytest.mark.parametrize(
    ("driver", "module"), [("mysqlclient", "MySQLdb"), ("PyMySQL", "pymysql")]
)
def test_rows_go_with_the_data(mariadb: MariaDB, driver: str, module: str) -> None:
    with fresh_mariadb(mariadb) as (_, options):
        ended = subprocess.run(
            [sys.executable, str(PROGRAM), driver, json.dumps(options)],
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert ended.returncode == 0, ended.stderr
    # Of the one whose outcome is not known; the others are no matter for the log.
    [line] = ended.stderr.splitlines()
    assert line.startswith("GET /commits_in_its_midst/ collected entity item after")
    assert "its block ended the transaction" in line
    used, seen, committed = json.loads(ended.stdout)
    assert used == module
    assert seen == {
        "commits": ["done", "after", ["after"]],
        "raises": ["ZeroDivisionError", "before", []],
        "rolls_back_a_savepoint": ["done", "after", ["after"]],
        "rolls_back_what_is_around_it": ["done", "before", []],
        "writes_by_hand": ["done", "after", ["after"]],
        "writes_outside_of_a_block": ["NotInTransactionError", "after", []],
        "commits_in_its_midst": ["ZeroDivisionError", "after", ["after", "never"]],
        "loses_its_connection": ["OutboxError", "before", []],
    }
    assert committed == ["after"]

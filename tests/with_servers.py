"""Run a program on private servers of MySQL and memcached, and end them after it.

    python tests/with_servers.py examples/quickstart.py
    python tests/with_servers.py --mysql56 examples/quickstart.py

The program finds the servers where any app would: ``HYDRACACHE_OUTBOX`` names an empty
database, ``HYDRACACHE_MEMCACHED`` an empty memcached.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pymysql

from servers import MariaDB, Memcached, MySQL56


def main(arguments: list[str]) -> int:
    kind = MySQL56 if arguments[:1] == ["--mysql56"] else MariaDB
    program = [argument for argument in arguments if argument != "--mysql56"]
    with kind() as database, Memcached() as memcached:
        with pymysql.connect(
            host=database.host, port=database.port, user=database.user
        ) as connection:
            connection.cursor().execute("create database shop")
        environment = {
            **os.environ,
            "HYDRACACHE_OUTBOX": database.url("shop"),
            "HYDRACACHE_MEMCACHED": memcached.address,
        }
        return subprocess.run([sys.executable, *program], env=environment).returncode


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))

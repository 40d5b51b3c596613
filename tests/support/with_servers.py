"""Run a program on private servers of MySQL and memcached, and end them after it.

    python tests/support/with_servers.py examples/quickstart.py
    python tests/support/with_servers.py --server mysql9 examples/quickstart.py

The program finds the servers where any app would: ``HYDRACACHE_OUTBOX`` names an empty
database, ``HYDRACACHE_MEMCACHED`` an empty memcached.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pymysql

from support.servers import SQL_SERVERS, Memcached


def main(arguments: list[str]) -> int:
    kind, program = "mariadb", arguments
    if arguments[:1] == ["--server"] and len(arguments) > 2:
        kind, program = arguments[1], arguments[2:]
    if kind not in SQL_SERVERS:
        sys.exit(f"no server {kind!r}; there are: {', '.join(SQL_SERVERS)}")
    with SQL_SERVERS[kind]() as database, Memcached() as memcached:
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

"""The example of MySQL, memcached and several processes, as a stranger would run it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, Sequence
from urllib.parse import urlencode

import pymysql
import pytest
from tracebacks import tracebacks_of_ours
from web_server import PATIENCE, PROGRAMS, WebServer

from hydracache_sync import open_outbox
from support.servers import MariaDB, Memcached
from support.waiting import eventually

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "flask_mysql"


class Stranger:
    """Types what the README of the example says.

    :param environment: what it exports.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def flask(self, *arguments: str) -> str:
        ended = subprocess.run(
            [f"{PROGRAMS}/flask", "--app", "shop", *arguments],
            cwd=EXAMPLE,
            env={**os.environ, **self.environment, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        return ended.stdout

    def serve(self, command: Sequence[str]) -> WebServer:
        # In the example's folder, where gunicorn looks for its config.
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', str(EXAMPLE), *command]
        return WebServer(inside, {**self.environment, "PYTHONDONTWRITEBYTECODE": "1"})


@pytest.fixture
def stranger(
    mariadb: MariaDB, unique: str, tmp_path: Path
) -> Iterator[tuple[Stranger, Memcached]]:
    with pymysql.connect(
        host=mariadb.host,
        port=mariadb.port,
        user=mariadb.user,
        password=mariadb.password,
        ssl_disabled=True,
    ) as connection, Memcached() as cache:
        connection.cursor().execute(f"create database {unique}")
        try:
            yield Stranger(
                {
                    "HYDRACACHE_OUTBOX": mariadb.url(unique) + "?ssl_disabled=true",
                    "HYDRACACHE_MEMCACHED": cache.address,
                    # A busy machine is no outage.
                    "HYDRACACHE_CONNECT_TIMEOUT": str(PATIENCE),
                    "HYDRACACHE_TIMEOUT": str(PATIENCE),
                    "SECRET_KEY": unique,
                    "HOME": str(tmp_path),
                    "XDG_RUNTIME_DIR": "",
                }
            ), cache
        finally:
            connection.cursor().execute(f"drop database {unique}")


def curl(server: WebServer, path: str, **form: Any) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    try:
        method, body = ("POST", urlencode(form)) if form else ("GET", None)
        connection.request(method, path, body, kind if form else {})
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer
    finally:
        connection.close()


# uWSGI's address stands in its file.
UWSGI = (
    'sed "s/127.0.0.1:8000/127.0.0.1:$0/" uwsgi.ini >"$HOME/uwsgi.ini"'
    f" && exec {PROGRAMS}/uwsgi --ini $HOME/uwsgi.ini --virtualenv {PROGRAMS.parent}"
)
SERVERS = {
    "gunicorn": [f"{PROGRAMS}/gunicorn", "shop:app", "--bind=127.0.0.1:{port}"],
}
if sys.version_info < (3, 13):  # where uWSGI has a build
    SERVERS["uwsgi"] = ["sh", "-c", UWSGI, "{port}"]


@pytest.mark.parametrize("name", SERVERS)
def test_flask_on_mysql_shows_what_its_readme_says(
    stranger: tuple[Stranger, Memcached], name: str
) -> None:
    types, cache = stranger
    types.flask("init")
    with types.serve(SERVERS[name]) as server:
        page = "/products/1"
        assert curl(server, page) == {"from": "the database", "price": 100}
        assert curl(server, page) == {"from": "the cache", "price": 100}
        assert curl(server, page, price=120) == {"price": 120}
        assert curl(server, page) == {"from": "the database", "price": 120}
        # The pool of the other process may be publishing the same row once more.
        eventually(
            lambda: curl(server, page) == {"from": "the cache", "price": 120},
            "the new price in the cache",
        )
        eventually(lambda: curl(server, "/healthz")["pool"], "a healthy pool")
        eventually(lambda: pending(types) == 0, "no row that the pool still marks")

        cache.kill()
        assert curl(server, page, price=140) == {"price": 140}
        assert curl(server, page) == {"from": "the database", "price": 140}
        # Below them is who carries rows, once a worker has told it.
        _, row, *_ = types.flask("hydracache", "status").splitlines()
        assert row.split()[:2] == ["shop", "1"]
        cache.start()
        eventually(lambda: pending(types) == 0, "a publish after the outage")
        assert curl(server, page)["price"] == 140

        os.kill(server.pid, signal.SIGTERM)
        eventually(server.has_ended, "the end of the server")
        assert tracebacks_of_ours(server.said) == []


def pending(types: Stranger) -> int:
    with contextlib.closing(open_outbox(types.environment["HYDRACACHE_OUTBOX"])) as it:
        return int(it.status("shop").pending)

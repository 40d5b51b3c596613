"""The example shops show what their READMEs say, line by line."""

from __future__ import annotations

import contextlib
import http.cookiejar
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Iterator

import pymysql
import pytest

from support.examples import PATIENCE, Stranger, shows
from support.servers import MariaDB, Memcached


class Visitor(Stranger):
    """One whose curl keeps cookies."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        super().__init__(name, environment)
        #: Files of cookies, by name.
        self._jars: dict[str, http.cookiejar.CookieJar] = {}

    def curl(self, words: list[str]) -> str:
        """As curl with those of its options that the READMEs use; -w without a body."""
        options = dict(zip(words[:-1:2], words[1:-1:2]))
        url = words[-1].replace("localhost:5000", f"http://127.0.0.1:{self._port}")
        jar = http.cookiejar.CookieJar()
        for cookie in self._jars.get(options.get("-b", ""), ()):
            jar.set_cookie(cookie)
        if "-c" in options:
            self._jars[options["-c"]] = jar
        browser = urllib.request.build_opener(
            Unredirected, urllib.request.HTTPCookieProcessor(jar)
        )
        data = options["-d"].encode() if "-d" in options else None
        try:
            with browser.open(url, data, timeout=PATIENCE) as answer:
                status, body = answer.status, answer.read().decode()
        except urllib.error.HTTPError as other:
            with other:
                status, body = other.code, other.read().decode()
        return str(status) if "-w" in options else body


class Unredirected(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else, as curl does not."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


@contextlib.contextmanager
def database_on(server: MariaDB, name: str) -> Iterator[str]:
    """The URL of a new database."""
    with pymysql.connect(
        host=server.host, port=server.port, user=server.user, password=server.password
    ) as connection:
        connection.cursor().execute(f"create database {name}")
        try:
            yield server.url(name)
        finally:
            connection.cursor().execute(f"drop database {name}")


@pytest.mark.parametrize("name", ["shop_sqlalchemy", "shop_pymysql"])
def test_the_readme_is_what_a_stranger_sees(
    tmp_path: Path, mariadb: MariaDB, unique: str, name: str
) -> None:
    with contextlib.ExitStack() as stack:
        # A server of its own: the example's namespace is no unique one.
        server = stack.enter_context(Memcached())
        environment = {
            "SHOP_MEMCACHED": server.address,
            "SHOP_DB": str(tmp_path / "shop.db"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if name == "shop_pymysql":
            url = stack.enter_context(database_on(mariadb, unique))
            environment["SHOP_DATABASE"] = url

        steps = list(Visitor(name, environment).reads_on())

    assert len(steps) >= 15
    for command, shown, said in steps:
        assert shows(shown, said), (command, said)

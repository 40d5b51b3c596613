"""The small web examples show what their READMEs say, line by line."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hydracache_sync import SQLiteOutbox
from support.examples import EXAMPLES, PATIENCE, Stranger, shows
from support.servers import Memcached


class Reader(Stranger):
    """One beside a memcached of their own.

    :param name: of the example.
    :param prefix: of the variables that name its file, server and port.
    """

    def __init__(
        self, name: str, prefix: str, database: Path, server: Memcached
    ) -> None:
        super().__init__(
            name,
            {f"{prefix}_DB": str(database), f"{prefix}_MEMCACHED": server.address},
        )
        self._environment[f"{prefix}_PORT"] = str(self._port)
        self._database = database

    def sleep(self) -> None:
        """On a busy machine a second may not be enough."""
        with contextlib.closing(SQLiteOutbox(self._database)) as outbox:
            deadline = time.monotonic() + PATIENCE
            while not all(row.is_published for row in outbox.rows("book")):
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def curl(self, words: list[str]) -> str:
        """As curl with those of its options that the READMEs use."""
        fields = [words[at + 1] for at, word in enumerate(words) if word == "-d"]
        posts = bool(fields) or "POST" in words
        path = words[-1].split("/", 1)[1]
        url = f"http://127.0.0.1:{self._port}/{path}"
        request = urllib.request.Request(
            url, "&".join(fields).encode() if posts else None
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                status, body = answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                status, body = refused.code, refused.read().decode()
        return f"{status}\n" if "-w" in words else body


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        # On 3.9 sqlite3 does not tell that a load has read: the first is not kept.
        pytest.param("flask_sqlite", "BOOK", marks=pytest.mark.needs_python(3, 10)),
        ("legacy_wsgi", "VOTES"),
    ],
)
def test_the_readme_is_what_a_stranger_sees(
    tmp_path: Path, name: str, prefix: str
) -> None:
    # A server of its own: the example's namespace is no unique one.
    with Memcached() as server:
        reader = Reader(name, prefix, tmp_path / "example.db", server)

        steps = list(reader.reads_on())

    assert len(steps) >= 7
    for command, shown, said in steps:
        assert shows(shown, said), (command, said)


@pytest.mark.parametrize(
    ("name", "load", "variable"),
    [
        ("flask_sqlite", "import app; app.create_app()", "BOOK_SECRET"),
        ("shop_sqlalchemy", "import app; app.create_app()", "SHOP_SECRET"),
        ("shop_pymysql", "import app; app.create_app()", "SHOP_SECRET"),
        ("flask_mysql", "import shop", "SECRET_KEY"),
    ],
)
def test_an_example_has_no_secret_that_everybody_knows(
    name: str, load: str, variable: str
) -> None:
    environment = {
        "HYDRACACHE_OUTBOX": "sqlite:////nowhere/shop.db",
        "HYDRACACHE_MEMCACHED": "127.0.0.1:1",
        "SHOP_DATABASE": "mysql://nobody@127.0.0.1:1/shop",
        "SHOP_MEMCACHED": "127.0.0.1:1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def start(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", load],
            cwd=EXAMPLES / name,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    refused, started = start(), start(**{variable: "x" * 32})

    assert refused.returncode != 0 and f"KeyError: '{variable}'" in refused.stderr
    assert started.returncode == 0, started.stderr

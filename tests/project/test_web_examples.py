"""The small web examples show what their READMEs say, line by line."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import SQLiteOutbox
from support.examples import EXAMPLES, PATIENCE, exported, listens, pattern
from support.servers import Memcached, free_port


class Stranger:
    """Somebody who types what a README says, beside a memcached of their own.

    :param name: of the example.
    :param prefix: of the variables that name its file, server and port.
    """

    def __init__(
        self, name: str, prefix: str, database: Path, server: Memcached
    ) -> None:
        self._folder = EXAMPLES / name
        self._database = database
        self._port = free_port()
        self._environment = {
            **os.environ,
            f"{prefix}_DB": str(database),
            f"{prefix}_MEMCACHED": server.address,
            f"{prefix}_PORT": str(self._port),
            "FLASK_RUN_PORT": str(self._port),
        }

    def reads_on(self) -> Iterator[tuple[str, str, str]]:
        """Type each command; give it, what the README shows, and what came."""
        readme = (self._folder / "README.md").read_text("utf-8")
        [block] = re.findall(r"```console\n(.*?)```", readme, flags=re.S)
        with contextlib.ExitStack() as stack:
            for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
                command, _, shown = part.partition("\n")
                words = shlex.split(command)
                if words[-1] == "&":
                    stack.enter_context(self._served(words[:-1]))
                    said = ""
                elif words[0] == "curl":
                    said = self._curl(words[1:])
                elif words[0] == "sleep":
                    said = self._wait()
                elif words[0] == "export":
                    self._environment.update(exported(command, self._environment))
                    said = ""
                else:
                    said = self._run(words)
                yield command, pattern(shown), said

    def _program(self, words: list[str]) -> list[str]:
        words = [word for word in words if not word.startswith("2>")]
        module = [] if words[0] == "python" else ["-m", words[0]]
        return [sys.executable, *module, *words[1:]]

    def _run(self, words: list[str]) -> str:
        ended = subprocess.run(
            self._program(words),
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    @contextlib.contextmanager
    def _served(self, words: list[str]) -> Iterator[None]:
        with subprocess.Popen(
            self._program(words),
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                deadline = time.monotonic() + PATIENCE
                while not listens(self._port):
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.05)
                yield
            finally:
                process.terminate()
                process.wait(PATIENCE)

    def _wait(self) -> str:
        """On a busy machine a second may not be enough."""
        with contextlib.closing(SQLiteOutbox(self._database)) as outbox:
            deadline = time.monotonic() + PATIENCE
            while not all(row.is_published for row in outbox.rows("book")):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        return ""

    def _curl(self, words: list[str]) -> str:
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
    "name, prefix", [("flask_sqlite", "BOOK"), ("legacy_wsgi", "VOTES")]
)
def test_the_readme_is_what_a_stranger_sees(
    tmp_path: Path, name: str, prefix: str
) -> None:
    # A server of its own: the example's namespace is no unique one.
    with Memcached() as server:
        stranger = Stranger(name, prefix, tmp_path / "example.db", server)

        steps = list(stranger.reads_on())

    assert len(steps) >= 7
    for command, shown, said in steps:
        assert re.fullmatch(shown, said), (command, said)


@pytest.mark.parametrize(
    ("name", "load", "variable"),
    [
        ("flask_sqlite", "import app; app.create_app()", "BOOK_SECRET"),
        ("flask_sqlalchemy", "import app; app.create_app()", "SHOP_SECRET"),
        ("flask_mysql", "import shop", "SECRET_KEY"),
    ],
)
def test_an_example_has_no_secret_that_everybody_knows(
    name: str, load: str, variable: str
) -> None:
    environment = {
        "HYDRACACHE_OUTBOX": "sqlite:////nowhere/shop.db",
        "HYDRACACHE_MEMCACHED": "127.0.0.1:1",
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

"""``examples/flask_sqlalchemy`` shows what its README says, line by line."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Iterator

from support.examples import EXAMPLES, PATIENCE, exported, listens, pattern
from support.servers import Memcached, free_port

EXAMPLE = EXAMPLES / "flask_sqlalchemy"


def test_its_readme_is_what_a_stranger_sees(
    tmp_path: Path, memcached: Memcached, unique: str
) -> None:
    environment = {
        **os.environ,
        "SHOP_DB": str(tmp_path / "shop.db"),
        "SHOP_MEMCACHED": memcached.address,
        "SHOP_RING": unique,
    }
    port = free_port()

    with contextlib.ExitStack() as stack:
        for command, shown in commands():
            words = shlex.split(command)
            if words[-1] == "&":
                stack.enter_context(served(words[1:-1], port, environment))
                said = ""
            elif words[0] == "curl":
                said = curl(words[1:], port)
            elif words[0] == "export":
                environment.update(exported(command, environment))
                said = ""
            else:
                said = flask(words[1:], environment)
            assert re.fullmatch(pattern(shown), said), (command, said)


def commands() -> Iterator[tuple[str, str]]:
    """The commands of the README, and what it says that they print."""
    readme = (EXAMPLE / "README.md").read_text("utf-8")
    [block] = re.findall(r"```console\n(.*?)```", readme, flags=re.S)
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def flask(arguments: list[str], environment: dict[str, str]) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=EXAMPLE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextlib.contextmanager
def served(
    arguments: list[str], port: int, environment: dict[str, str]
) -> Iterator[None]:
    command = [sys.executable, "-m", "flask", *arguments, "--port", str(port)]
    with subprocess.Popen(
        command,
        cwd=EXAMPLE,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not listens(port):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)


def curl(arguments: list[str], port: int) -> str:
    """As curl with those of its options that the README uses."""
    options = dict(zip(arguments[:-1:2], arguments[1:-1:2]))
    if arguments[0] == "-s":
        options = dict(zip(arguments[1:-1:2], arguments[2:-1:2]))
    url = f"http://{arguments[-1]}".replace("localhost:5000", f"127.0.0.1:{port}")
    data = options.get("-d", "" if options.get("-X") == "POST" else None)
    request = urllib.request.Request(url, None if data is None else data.encode())
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            status, body = answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            status, body = refused.code, refused.read().decode()
    return f"{status}\n" if "-w" in options else body

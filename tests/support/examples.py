"""Running the examples as a stranger would, and comparing what they show."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

from support import ROOT
from support.servers import free_port

EXAMPLES = ROOT / "examples"

#: Seconds until an answer counts as missing.
PATIENCE = 60.0


def shows(shown: str, said: str) -> bool:
    """Whether it is what came; blanks count as one, and dots stand for any text."""
    wanted = re.escape(" ".join(shown.split()))
    wanted = re.sub(r"(?:\\ )?(?:\\\.){3}(?:\\ )?", ".*", wanted)
    return re.fullmatch(wanted, " ".join(said.split())) is not None


def exported(command: str, environment: dict[str, str]) -> dict[str, str]:
    """What a shell sets at an ``export NAME=...``."""
    name = command.split()[1].partition("=")[0]
    programs = f"{Path(sys.executable).parent}:{environment['PATH']}"
    value = subprocess.run(
        ["sh", "-ec", f'{command}; printf %s "${name}"'],
        env={**environment, "PATH": programs},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {name: value}


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Stranger:
    """Somebody who types what a README says.

    :param environment: what is as it is here, whatever the README exports.
    """

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self._folder = EXAMPLES / name
        self._port = free_port()
        self._given = {**environment, "FLASK_RUN_PORT": str(self._port)}
        self._environment = {**os.environ, **self._given}

    def reads_on(self) -> Iterator[tuple[str, str, str]]:
        """Type each command; give it, what the README shows, and what came."""
        readme = (self._folder / "README.md").read_text("utf-8")
        [block] = re.findall(r"```console\n(.*?)```", readme, flags=re.S)
        with contextlib.ExitStack() as stack:
            for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
                command, _, shown = part.partition("\n")
                words = shlex.split(command)
                said = ""
                if words[-1] == "&":
                    stack.enter_context(self._served(words[:-1]))
                elif words[0] == "curl":
                    said = self.curl(words[1:])
                elif words[0] == "sleep":
                    self.sleep()
                elif words[0] == "export":
                    news = exported(command, self._environment)
                    self._environment.update({**news, **self._given})
                else:
                    said = self._run(words)
                yield command, shown, said

    def curl(self, words: list[str]) -> str:
        """As curl with those of its options that the READMEs use."""
        raise NotImplementedError

    def sleep(self) -> None:
        raise NotImplementedError

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


def check_quickstart(command: list[str], **options: Any) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", *command],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    assert "the reader wakes up and stores Ada Lovelace" in lines
    assert "the next read Countess Lovelace" in lines
    assert "exit status of the writer (SIGKILL) -9" in lines
    assert "a drain, as cron would run it, publishes 1" in lines
    [status] = [line for line in lines if line.startswith("shop ")]
    # Pending, the oldest of them, dead letters, failed attempts, last published.
    assert re.fullmatch(r"shop 0 - 0 0 \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", status)

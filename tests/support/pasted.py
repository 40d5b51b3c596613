"""A page's blocks, pasted one after the other into an empty folder, as a reader would.

A block whose first line is ``# NAME`` is that file, or with ``# at the end of NAME`` is
added to it. A ``console`` block is typed into one bash that stays. What it shows must
come, with ``...`` for any text.

Four things are not done as a reader does them. Commands that install are only checked
against what is installed here, since the suite needs no network: :data:`INSTALLERS`.
The usual ports are those of private servers. A command that only reads is repeated for
a while until what is shown comes, since a worker needs some milliseconds. And ``sleep
60`` runs each line of the file ``crontab`` once: the machine's cron is given nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import IO, Iterator, Mapping

from support import ROOT
from support.examples import PATIENCE, listens, shows
from support.servers import MariaDB, Memcached, free_port

#: Languages of blocks that are pictures and are not pasted.
PICTURES = {"mermaid", "text"}

#: What commands begin with that make the machine ready, or take the suite's own time.
INSTALLERS = (
    "sudo apt ",
    "python3 -m venv ",
    ". venv/",
    "pip install ",
    "crontab ",
    "make ",
)

#: What commands begin with that change nothing, so that they may be typed again.
READERS = (
    "curl localhost",
    "hydracache status",
    "flask hydracache status",
    "flask --app shop hydracache status",
    "python manage.py hydracache status",
)

#: Ends what a command prints. Its exit status follows.
END = "--- pasted"


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and body of each block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


def commands(body: str) -> list[tuple[str, str]]:
    """What is typed in a console block, each with what is shown then."""
    typed = []
    for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        typed.append((command.partition("  #")[0].rstrip(), shown))
    return typed


class Terminal:
    """A bash in a folder, and what a reader pastes.

    :param folder: empty.
    :param mariadb: whether a private MariaDB listens where the page's 3306 is.
    """

    def __init__(self, folder: Path, *, mariadb: bool = False) -> None:
        self._home = folder
        self._folder = folder / "shop"
        self._folder.mkdir()
        (folder / "hydracache_sync").symlink_to(ROOT)
        self._stack = contextlib.ExitStack()
        memcached = self._stack.enter_context(Memcached())
        self._web = free_port()
        self._ports = {"11211": memcached.port, "5000": self._web}
        # On a terminal it shows no progress for a short answer.
        (self._home / ".curlrc").write_text("silent\nshow-error\n")
        if mariadb:
            server = self._stack.enter_context(MariaDB())
            self._ports["3306"] = server.port
            login = f"host={server.host}\nport={server.port}\nuser={server.user}\n"
            (self._home / ".my.cnf").write_text(f"[client]\n{login}")
        self._log = folder / "servers.log"
        self._bash = self._stack.enter_context(self._started())

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def paste(self, text: str) -> int:
        """Do what a page says; give the number of its commands.

        :raises AssertionError: something else came than the page shows.
        """
        count = 0
        for language, body in blocks(text):
            if language == "console":
                for command, shown in commands(self._here(body)):
                    self._type(command, shown)
                    count += 1
            elif language not in PICTURES:
                self._write(self._here(body))
        return count

    def _here(self, body: str) -> str:
        """The same with the ports of the private servers."""
        ports = "|".join(self._ports)
        return re.sub(rf"\b({ports})\b", lambda found: str(self._ports[found[0]]), body)

    def _write(self, body: str) -> None:
        first = body.partition("\n")[0]
        found = re.fullmatch(r"# (at the end of )?([\w./]+)", first)
        assert found, f"a block that names no file: {first}"
        path = self._folder / found[2]
        path.parent.mkdir(exist_ok=True)
        with path.open("a" if found[1] else "w", encoding="utf-8") as file:
            file.write(body)

    def _type(self, command: str, shown: str) -> None:
        if command.startswith(INSTALLERS):
            assert not shown
            if command == "python3 -m venv venv":
                (self._folder / "venv").symlink_to(Path(sys.executable).parent.parent)
            words = shlex.split(command)
            if command.startswith("pip install "):
                self._check_installed(words[2:])
            if command.startswith("make "):
                makefile = (ROOT / "Makefile").read_text("utf-8")
                assert f"\n{words[1]}:" in makefile
            return
        if command == "sleep 60":
            self._run_cron()
            return
        deadline = time.monotonic() + PATIENCE
        while command.startswith("curl ") and not listens(self._web):
            assert time.monotonic() < deadline, self._logged()
            time.sleep(0.05)
        status, said = self._run(command)
        while not (shows(shown, said) and status == 0):
            again = command.startswith(READERS) and time.monotonic() < deadline
            assert again, (command, status, shown, said, self._logged())
            time.sleep(0.2)
            status, said = self._run(command)

    def _logged(self) -> str:
        """The end of what the page's servers have said."""
        return self._log.read_text()[-4000:] if self._log.exists() else ""

    def _run(self, command: str) -> tuple[int, str]:
        """Exit status and what came, errors among it, as on a terminal."""
        if command.startswith("kill "):
            command = f"{command}; wait 2>/dev/null; true"
        typed = command.replace("sudo ", "")
        output = f">>{shlex.quote(str(self._log))} 2>&1" if typed[-1] == "&" else ""
        stdin, stdout = self._pipes()
        stdin.write(f"{{ {typed}\n}} </dev/null {output}\n")
        stdin.write(f"status=$?; echo; echo {END} $status\n")
        stdin.flush()
        lines: list[str] = []
        for line in stdout:
            if line.startswith(END):
                return int(line.split()[-1]), "".join(lines)
            lines.append(line)
        raise AssertionError(f"bash has ended at {command}: {''.join(lines)}")

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._bash.stdin and self._bash.stdout
        return self._bash.stdin, self._bash.stdout

    @contextlib.contextmanager
    def _started(self) -> Iterator[subprocess.Popen[str]]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HYDRACACHE_", "FLASK_", "DJANGO_", "PYTEST_"))
        }
        environment: Mapping[str, str] = {
            **kept,
            "HOME": str(self._home),
            "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
            "FLASK_RUN_PORT": str(self._web),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with subprocess.Popen(
            ["bash", "--norc"],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as bash:
            try:
                yield bash
            finally:
                # With the servers that the page has started and not ended.
                os.killpg(bash.pid, signal.SIGKILL)

    def _run_cron(self) -> None:
        """Run each line of the file ``crontab``, in the environment that cron gives."""
        for line in (self._folder / "crontab").read_text("utf-8").splitlines():
            if not line.startswith("#"):
                ended = subprocess.run(
                    ["/bin/sh", "-c", line.split(maxsplit=5)[5]],
                    env={"HOME": str(self._home), "PATH": "/usr/bin:/bin"},
                    cwd=self._home,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                # What it prints would be mailed.
                assert (ended.returncode, ended.stdout) == (0, ""), ended.stdout

    def _check_installed(self, wanted: list[str]) -> None:
        for each in wanted:
            path, _, extras = each.partition("[")
            if not path.startswith(".."):
                metadata.version(path)
                continue
            assert (self._folder / path / "setup.cfg").exists()
            known = metadata.metadata("hydracache_sync").get_all("Provides-Extra")
            assert set(extras.rstrip("]").split(",")) <= set(known or ())

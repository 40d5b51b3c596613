"""``examples/cron`` does what its README shows; its crontab works as cron runs it."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync.cli import ExitCode
from support import ROOT
from support.commands import PATIENCE, Ended, environment
from support.servers import Memcached

CHECKOUT = ROOT
EXAMPLE = CHECKOUT / "examples" / "cron"

#: Where the example's crontab expects the app, and its memcached.
HOME = "/srv/shop"
SERVER = "127.0.0.1:11211"


@pytest.fixture
def server() -> Iterator[Memcached]:
    """A memcached of its own: the example's namespace is no unique one."""
    with Memcached() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A machine's /srv/shop with the app, and the two commands in its venv."""
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    commands = tmp_path / "venv" / "bin"
    commands.mkdir(parents=True)
    for name, arguments in (("python", ""), ("hydracache", "-m hydracache_sync")):
        command = commands / name
        command.write_text(
            "#!/bin/sh\n"
            f"PYTHONPATH='{CHECKOUT}' exec '{sys.executable}' {arguments} \"$@\"\n"
        )
        command.chmod(0o755)
    return tmp_path


def shell(script: str, home: Path, values: dict[str, str]) -> Ended:
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=home,
        env=values,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    return Ended(done.returncode, done.stdout, "")


class Crontab:
    """The example's crontab on this machine."""

    def __init__(self, home: Path, server: Memcached) -> None:
        text = (EXAMPLE / "crontab").read_text()
        assert HOME in text and SERVER in text
        text = text.replace(HOME, str(home)).replace(SERVER, server.address)
        lines = [line for line in text.splitlines() if line and line[0] != "#"]
        self.home = home
        # What cron sets, and nothing of this process's.
        self.values = {"HOME": str(home), "LOGNAME": "shop", "SHELL": "/bin/sh"}
        # A busy machine is no outage.
        self.values["HYDRACACHE_TIMEOUT"] = str(PATIENCE)
        self.jobs: dict[str, str] = {}
        for line in lines:
            if re.match(r"[A-Z_]+=", line):
                name, _, value = line.partition("=")
                self.values[name] = value
            else:
                command = line.split(maxsplit=5)[5]
                self.jobs[command.split()[1]] = command

    def run(self, job: str) -> Ended:
        """Run a job; what it prints would be mailed."""
        return shell(self.jobs[job], self.home, self.values)

    def shop(self, arguments: str) -> str:
        done = shell(f"python shop.py {arguments}", self.home, self.values)
        assert done.code == 0, done.out
        return done.out


def test_the_readme_shows_what_happens(home: Path, server: Memcached) -> None:
    [block] = re.findall(
        r"```console\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.S
    )
    block = block.replace(SERVER, server.address)
    script = "set -e\n" + "".join(re.findall(r"^\$ (.*\n)", block, re.M))
    expected = re.sub(r"^\$ .*\n", "", block, flags=re.M)
    path = f"{home}/venv/bin:{os.environ['PATH']}"

    done = shell(script, home, {**environment(), "PATH": path})

    assert done.code == 0, done.out
    # Columns of the table move with the figures in them, and a moment has a blank.
    figure = r"[\d.:Z-]+(?: [\d.:Z-]+)?"
    pattern = re.escape(expected).replace(r"\.\.\.", figure).replace(r"\ ", " ")
    assert re.fullmatch(re.sub(" +", " +", pattern), done.out)


def test_the_crontab_publishes_a_change_and_mails_nothing(
    home: Path, server: Memcached
) -> None:
    cron = Crontab(home, server)
    cron.shop("init")
    cron.shop("price")
    cron.shop("set-price 120")

    drained, watched = cron.run("drain"), cron.run("status")

    assert drained == Ended(ExitCode.DONE, "", "")
    assert watched == Ended(ExitCode.DONE, "", "")
    assert cron.shop("price") == "120, from the database\n"


def test_the_crontab_mails_when_memcached_is_away(
    home: Path, server: Memcached
) -> None:
    cron = Crontab(home, server)
    cron.shop("init")
    cron.shop("set-price 120")
    server.kill()

    drained = cron.run("drain")

    assert drained.code == ExitCode.CACHE_AWAY
    assert "; memcached is away, waiting: 1 row\n" in drained.out


def test_the_crontab_mails_when_something_waits_for_too_long(
    home: Path, server: Memcached
) -> None:
    cron = Crontab(home, server)
    cron.shop("init")
    cron.shop("set-price 120")
    connection = sqlite3.connect(home / "shop.db")
    connection.execute("update hydracache_outbox set created_at_ms = 0")
    connection.commit()
    connection.close()

    watched = cron.run("status")

    assert watched.code == ExitCode.ALERT
    assert watched.out.startswith("ALERT shop: the oldest pending row is")

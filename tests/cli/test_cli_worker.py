"""``hydracache worker``: what it publishes, how it ends, what systemd is told."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from hydracache_sync import SQLiteOutbox
from hydracache_sync.cli import ExitCode
from hydracache_sync.cli.systemd import ServiceManager
from support import ROOT
from support.commands import (
    PATIENCE,
    Shop,
    ended,
    run,
    start,
    wait_for_signal_state,
    wait_until_it_handles_signals,
)
from support.page_blocks import blocks_of
from support.servers import Memcached

EXAMPLE = ROOT / "examples" / "systemd"

#: An applier that never comes back, in place of memcached's.
HANGING = """
import sys, threading
from hydracache_sync import InvalidationApplier
from hydracache_sync.app import build

class Hanging(InvalidationApplier):
    def __init__(self, store, namespace, **options):
        self.namespace = namespace
    def apply_batch(self, intents):
        threading.Event().wait()

build.MemcachedApplier = Hanging
from hydracache_sync.__main__ import main
main()
"""


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


@pytest.fixture
def away(tmp_path: Path, unique: str) -> Iterator[Shop]:
    """A shop whose memcached is away."""
    with Shop(tmp_path / "shop.db", unique, "127.0.0.1:1") as shop:
        yield shop


def start_worker(shop: Shop, *arguments: str, **values: Any) -> subprocess.Popen[str]:
    return start("worker", *arguments, **{**shop.settings, **values})


def hanging_worker(shop: Shop, **values: Any) -> subprocess.Popen[str]:
    program = (sys.executable, "-c", HANGING)
    return start("worker", program=program, **{**shop.settings, **values})


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@pytest.mark.parametrize("bound, poll", [("5", "4"), ("1.02", "0.02")])
def test_a_bound_below_the_time_between_two_polls_is_refused(
    shop: Shop, bound: str, poll: str
) -> None:
    """A row may wait so long, and readers with the bound load meanwhile."""
    options = {"max_staleness": bound, "poll_interval": poll}

    refused = run("worker", **{**shop.settings, **options})

    assert refused.code == ExitCode.USAGE
    assert f"--max-staleness {bound} must be above" in refused.err


def test_rows_are_published_as_they_are_committed(shop: Shop) -> None:
    worker = start_worker(shop)
    wait_until_it_handles_signals(worker)
    shop.invalidate(2)
    until(lambda: shop.published() == 2)
    shop.invalidate(1, first=2)
    until(lambda: shop.published() == 3)
    worker.send_signal(signal.SIGTERM)
    end = ended(worker)

    assert (end.code, end.err) == (ExitCode.DONE, "")
    assert end.out.startswith(f"{shop.namespace}: 3 published in ")
    assert end.out.endswith("; ended by SIGTERM\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_of_these_signals_is_an_orderly_end(
    shop: Shop, number: signal.Signals
) -> None:
    worker = start_worker(shop, "--json", threads=2)
    # The last one that it begins to handle; SIGINT is handled by Python from its start.
    wait_for_signal_state(worker, "SigCgt", signal.SIGHUP, True)
    worker.send_signal(number)
    end = ended(worker)

    assert end.code == ExitCode.DONE
    assert end.json["ended_by"] == number.name
    assert end.json["namespaces"][0]["namespace"] == shop.namespace


def test_a_signal_that_comes_twice_at_once_is_one(shop: Shop) -> None:
    worker = start_worker(shop)
    wait_until_it_handles_signals(worker)
    # As timeout(1) does it, to the process and to its group.
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGTERM)

    assert ended(worker).code == ExitCode.DONE


def test_a_worker_outlives_its_terminal_if_it_was_told_so(shop: Shop) -> None:
    worker = start(
        "worker", ignored=(signal.SIGHUP,), **shop.settings
    )  # as nohup does it
    wait_until_it_handles_signals(worker)
    worker.send_signal(signal.SIGHUP)
    shop.invalidate(1)
    until(lambda: shop.published() == 1)
    worker.send_signal(signal.SIGTERM)

    assert ended(worker).out.endswith("ended by SIGTERM\n")


def test_a_second_signal_ends_it_at_once_and_the_rows_are_taken_over(
    shop: Shop,
) -> None:
    shop.invalidate(1)
    worker = hanging_worker(shop, claim_ttl=PATIENCE)
    until(lambda: shop.outbox.rows(shop.namespace)[0].claim_owner)
    worker.send_signal(signal.SIGTERM)
    wait_for_signal_state(worker, "SigCgt", signal.SIGTERM, False)
    worker.send_signal(signal.SIGTERM)

    assert ended(worker).code == -signal.SIGTERM
    assert shop.pending() == 1


def test_a_batch_that_does_not_end_is_left_to_others(shop: Shop) -> None:
    shop.invalidate(1)
    worker = hanging_worker(shop, claim_ttl=1)
    until(lambda: shop.outbox.rows(shop.namespace)[0].claim_owner)
    worker.send_signal(signal.SIGTERM)
    end = ended(worker)

    assert end.code == ExitCode.ENDED_EARLY
    assert "did not end within 1 s" in end.err
    assert shop.pending() == 1


def test_a_missing_table_is_told_at_once(shop: Shop) -> None:
    end = ended(start_worker(shop, table="elsewhere"))

    assert end.code == ExitCode.SCHEMA
    assert "schema install" in end.err


def test_a_database_that_is_away_is_waited_for(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "later.db"
    worker = start_worker(shop, outbox=f"sqlite:///{path}")
    wait_until_it_handles_signals(worker)
    # Whole at once: a worker that finds a file without tables says so and ends.
    with closing(SQLiteOutbox(tmp_path / "made.db")) as made:
        made.install_schema()
    (tmp_path / "made.db").rename(path)
    shop.outbox, earlier = SQLiteOutbox(path), shop.outbox
    earlier.close()
    shop.invalidate(1)
    until(lambda: shop.published() == 1)
    worker.send_signal(signal.SIGTERM)

    assert ended(worker).code == ExitCode.DONE


def test_a_worker_deletes_rows_published_long_ago(shop: Shop) -> None:
    shop.invalidate(3)
    shop.drain()
    worker = start_worker(shop, keep_published=0, purge_every=0.05)
    until(lambda: shop.published() == 0)
    worker.send_signal(signal.SIGTERM)

    assert ended(worker).code == ExitCode.DONE


def test_several_namespaces_are_carried(shop: Shop) -> None:
    other = f"{shop.namespace}-2"
    worker = start_worker(shop, namespace=f"{shop.namespace},{other}")
    shop.invalidate(1)
    shop.namespace = other
    shop.invalidate(2)
    until(lambda: shop.published() == 2)
    worker.send_signal(signal.SIGTERM)
    end = ended(worker)

    assert f"\n{other}: 2 published in " in end.out


# systemd


class Manager:
    """The socket of a service manager, and what it was told."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self._socket.settimeout(PATIENCE)

    def told(self) -> str:
        return self._socket.recv(4096).decode()

    def wait_for(self, text: str) -> list[str]:
        """Return what was told up to a message that begins with ``text``."""
        messages = [self.told()]
        deadline = time.monotonic() + PATIENCE
        while not messages[-1].startswith(text):
            assert time.monotonic() < deadline, messages
            messages.append(self.told())
        return messages

    def rest(self) -> list[str]:
        """Return what else was told, without waiting."""
        self._socket.setblocking(False)
        messages = []
        try:
            while True:
                messages.append(self.told())
        except BlockingIOError:
            return messages
        finally:
            self._socket.settimeout(PATIENCE)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    if request.param == "path":
        manager = Manager(str(tmp_path / "notify"))
    else:
        manager = Manager("@" + secrets.token_hex(8))
    yield manager
    manager.close()


def serve(
    monkeypatch: pytest.MonkeyPatch, manager: Manager, watchdog: float | None = None
) -> None:
    """Have processes started from now on believe that systemd started them."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    if watchdog is not None:
        monkeypatch.setenv("WATCHDOG_USEC", str(int(watchdog * 1e6)))


def test_systemd_is_told_ready_alive_and_stopping(
    shop: Shop, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, manager, watchdog=0.1)
    shop.invalidate(1)
    worker = start_worker(shop)

    ready = manager.wait_for("READY=1")
    status = manager.wait_for("STATUS=")[-1]
    published = manager.wait_for(f"STATUS=threads: 1 idle; {shop.namespace}: 1 pub")
    pings = [manager.wait_for("WATCHDOG=1") for _ in range(3)]
    worker.send_signal(signal.SIGTERM)
    manager.wait_for("STOPPING=1")

    assert ready == ["READY=1"]
    assert status.startswith("STATUS=threads: 1 ")
    assert len(pings) == 3
    shown = blocks_of("examples/systemd/README.md")[1].body
    [text] = re.findall(r'Status: "(.*)"', shown)
    text = text.replace("12", "1").replace("shop:", f"{shop.namespace}:")
    assert published[-1] == f"STATUS={text}"
    assert ended(worker).code == ExitCode.DONE


def test_the_watchdog_is_told_without_end_while_memcached_is_away(
    away: Shop, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, manager, watchdog=0.1)
    away.invalidate(1)
    worker = start_worker(away)

    waiting = manager.wait_for("STATUS=threads: 1 waiting; ")[-1]
    pings = [manager.wait_for("WATCHDOG=1") for _ in range(5)]
    worker.send_signal(signal.SIGTERM)

    assert "memcached node 127.0.0.1:1" in waiting
    assert len(pings) == 5
    assert ended(worker).code == ExitCode.DONE
    assert away.pending() == 1


def test_the_watchdog_is_told_no_more_while_a_thread_is_stuck(
    shop: Shop, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, manager, watchdog=0.1)
    shop.invalidate(1)
    worker = hanging_worker(shop, claim_ttl=0.5)

    stuck = manager.wait_for("STATUS=threads: 1 stuck")[-1]
    manager.rest()
    told = manager.wait_for("STATUS=") + manager.wait_for("STATUS=")
    worker.kill()
    worker.communicate()

    assert "stuck" in stuck
    assert [each for each in told if not each.startswith("STATUS=")] == []


def test_a_manager_that_is_gone_does_not_stop_the_work(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    worker = start_worker(shop)
    shop.invalidate(1)
    until(lambda: shop.published() == 1)
    worker.send_signal(signal.SIGTERM)
    end = ended(worker)

    assert end.code == ExitCode.DONE
    assert end.err.count("systemd could not be notified") == 1


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 20.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_told_three_times_in_its_time(
    environ: dict[str, str], interval: float | None
) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": "/nowhere", **environ})

    assert manager.ping_interval == interval


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "relative"])
def test_without_a_unix_socket_nothing_is_told(name: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000"})

    manager.ready()
    assert manager.ping_interval is None


# The example


def test_the_units_are_ones_that_systemd_takes(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is missing: apt-get install systemd")
    command = tmp_path / "hydracache"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    units = []
    for source in EXAMPLE.glob("hydracache-*"):
        unit = tmp_path / source.name
        text = source.read_text()
        unit.write_text(text.replace("/srv/shop/venv/bin/hydracache", str(command)))
        units.append(str(unit))

    done = subprocess.run(
        [verify, "verify", *units], capture_output=True, text=True, timeout=PATIENCE
    )

    # It warns of keys that it does not know and ends with 0.
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert len(units) == 3


def test_the_readme_installs_and_starts_what_is_in_its_folder() -> None:
    worker, _, drain = blocks_of("examples/systemd/README.md")
    typed = worker.body + drain.body
    names = {each.name for each in EXAMPLE.iterdir()} - {"README.md"}

    installed = re.findall(r"^install -m \d+ (.*) /etc/", typed, re.M)
    assert {name for line in installed for name in line.split()} == names
    for unit in re.findall(r"^systemctl enable --now (.*)$", typed, re.M):
        assert {unit, f"{unit}.service"} & names


@pytest.mark.parametrize("unit", ["worker", "drain"])
def test_a_unit_leaves_little_to_one_who_has_taken_the_worker(unit: str) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is missing: apt-get install systemd")
    command = [verify, "security", "--offline=true", "--no-pager"]

    done = subprocess.run(
        # In tenths: 3.0 and above fails.
        [*command, "--threshold=30", str(EXAMPLE / f"hydracache-{unit}.service")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


@pytest.mark.parametrize("unit", ["worker", "drain"])
def test_the_units_run_commands_that_work(shop: Shop, unit: str) -> None:
    text = (EXAMPLE / f"hydracache-{unit}.service").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    program, *arguments = line[len("ExecStart=") :].split()
    variables = dict(
        line.split("=", 1)
        for line in (EXAMPLE / "shop.env").read_text().splitlines()
        if line and line[0] != "#"
    )
    shop.invalidate(1)

    process = start(*arguments, **shop.settings)
    until(lambda: shop.published() == 1)
    process.send_signal(signal.SIGTERM)

    assert program == "/srv/shop/venv/bin/hydracache"
    assert set(variables) == {
        f"HYDRACACHE_{name}" for name in ("OUTBOX", "NAMESPACE", "MEMCACHED")
    }
    assert ended(process).code in (ExitCode.DONE, -signal.SIGTERM)

"""Fixtures for the whole suite, and Hypothesis' settings.

The servers themselves are in ``servers.py``; a test that kills, pauses or fills one
starts its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Iterator

import hypothesis
import pytest

from support import server_counts
from support.clock import FakeClock
from support.servers import (
    SQL_SERVERS,
    MariaDB,
    Memcached,
    SQLServer,
    servers_of_this_run,
)

# Programs that tests start would compile the package each time: a third of what a
# command of the command line takes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# No deadline anywhere: one slow example on a busy machine is not a defect.
hypothesis.settings.register_profile("dev", deadline=None)
# The same examples in every run, so that CI does not fail on a change that is not at
# fault, and nothing written to the checkout.
hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session", autouse=True)
def signals_as_in_a_terminal() -> None:
    """Have what the suite starts take the signals that it ignores itself.

    A shell's "&" has what it starts ignore Ctrl-C, and nohup the end of its terminal,
    and all that this starts in turn: programs under test would not end at it. A handler
    is nothing that a program inherits; so this process goes on as it was told. A
    fixture, for the process that runs the tests: the one that shares them among others
    must hand on to these what is ignored, so that a terminal's end is not theirs.
    """
    for number in signal.valid_signals():
        ignored = signal.getsignal(number) is signal.SIG_IGN
        if number == signal.SIGINT and ignored:
            signal.signal(number, signal.default_int_handler)
        # Python itself ignores these two, and resets them in what it starts.
        elif ignored and number not in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, lambda number, frame: None)


@pytest.fixture(scope="session")
def memcached() -> Iterator[Memcached]:
    """A memcached for all tests, or the one that HYDRACACHE_TEST_MEMCACHED names.

    It is never emptied (``flush_all`` counts in whole seconds and would reach into the
    next test): a test keeps to keys of its own with ``unique``.
    """
    with Memcached.of_environment() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[SQLServer]:
    """A MariaDB for all tests, or the server that HYDRACACHE_TEST_MYSQL names.

    A test keeps to a database of its own.
    """
    with MariaDB.of_environment() as server:
        yield server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def unique() -> str:
    """A short string that no other test has: a namespace, a ring, a part of a key."""
    return "t" + secrets.token_hex(5)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Kill what a failed test has started itself, and left."""
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    result = yield
    if result.excinfo is not None:
        for process in _descendants(os.getpid(), began):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _descendants(process: int, since: float) -> list[int]:
    """Processes below this one, started since that second of the machine's."""
    ticks = int(since * os.sysconf("SC_CLK_TCK"))
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[19]) >= ticks:
                children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = children.get(process, [])
    for each in found:
        found.extend(children.get(each, ()))
    return found


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out what tests a thing that this Python or this run does not have."""
    here = servers_of_this_run()
    left_out = [
        item
        for item in items
        if any(
            sys.version_info < mark.args for mark in item.iter_markers("needs_python")
        )
        or any(
            not here.keys() & set(mark.args)
            for mark in item.iter_markers("needs_server")
        )
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(trylast=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Note for the report which server a test runs on."""
    callspec = getattr(item, "callspec", None)
    params = [value for value in callspec.params.values()] if callspec else []
    kinds = [value for value in params if isinstance(value, str)]
    kinds = [kind for kind in kinds if kind in SQL_SERVERS or kind == "external"]
    fixtures = getattr(item, "fixturenames", ())
    if not kinds and "mariadb" in fixtures:
        external = bool(os.environ.get(MariaDB.variable))
        kinds = ["external" if external else MariaDB.of_this_run().kind]
    if "memcached" in fixtures:
        kinds.append("memcached")
    item.user_properties += [("server", kind) for kind in kinds]


#: Tests that passed or failed, by server and area.
counts: Counter[tuple[str, str]] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # Not those that are run once more ("rerun"), which are counted when they are.
    if report.when == "call" and report.outcome != "rerun":
        for name, value in report.user_properties:
            if name == "server":
                counts[str(value), server_counts.area_of(report.nodeid)] += 1


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say on which servers the tests ran, and which are missing, and why."""
    if not counts or hasattr(config, "workerinput"):
        return
    here = servers_of_this_run()
    names = {"external": f"the one in {MariaDB.variable}"}
    names["memcached"] = f"memcached {Memcached.installed_version()}"
    for kind, server in here.items():
        product = "MariaDB" if issubclass(server, MariaDB) else "MySQL"
        names[kind] = f"{product} {server.installed_version()}"
    told: Counter[tuple[str, str]] = Counter()
    for (kind, area), count in counts.items():
        # A test that says "mariadb" runs on the MariaDB of this run, of any version.
        title = names.get(kind) or names.get(MariaDB.of_this_run().kind, kind)
        told[title, area] += count
    server_counts.add_to_file(told)
    for line in server_counts.table(told):
        terminalreporter.write_line(line)
    for kind, server in SQL_SERVERS.items():
        if kind not in here and server.missing():
            terminalreporter.write_line(
                f"{server.title} is missing, its tests were left out:"
                f" {server.missing()}"
            )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, fail if a test was skipped."""
    if not os.environ.get("CI") or session.exitstatus:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped:
        reporter.write_line("\nskipped in CI, where nothing may be missing: a failure")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

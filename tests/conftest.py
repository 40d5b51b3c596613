"""Fixtures for the whole suite, and Hypothesis' settings.

The servers themselves are in ``servers.py``; a test that kills, pauses or fills one
starts its own.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from typing import Iterator

import hypothesis
import pytest

from servers import MariaDB, Memcached

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


# A shell's "&" has what it starts ignore Ctrl-C, and all that this starts in turn: the
# programs under test would not end at it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def memcached() -> Iterator[Memcached]:
    """A memcached for all tests, or the one that HYDRACACHE_TEST_MEMCACHED names.

    It is never emptied (``flush_all`` counts in whole seconds and would reach into the
    next test): a test keeps to keys of its own with ``unique``.
    """
    with Memcached.of_environment() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB for all tests, or the server that HYDRACACHE_TEST_MYSQL names.

    A test keeps to a database of its own.
    """
    with MariaDB.of_environment() as server:
        yield server


@pytest.fixture
def unique() -> str:
    """A short string that no other test has: a namespace, a ring, a part of a key."""
    return "t" + secrets.token_hex(5)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out what tests a thing that this Python does not have."""
    left_out = [
        item
        for item in items
        for mark in item.iter_markers("needs_python")
        if sys.version_info < mark.args
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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

"""The fixtures that pytest gets from the library, and what its start pays for them."""

from __future__ import annotations

import configparser
import subprocess
import sys

import pytest

from support import ROOT


def test_it_is_installed_by_its_own_name() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")

    points = setup["options.entry_points"]["pytest11"].split()
    assert points == ["hydracache_pytest", "=", "hydracache_pytest"]
    assert setup["options"]["py_modules"] == "hydracache_pytest"


def test_a_start_of_pytest_loads_nothing_of_the_package() -> None:
    program = (
        "import pytest, sys; import hydracache_pytest;"
        "print([name for name in sys.modules if name.startswith('hydracache_sync')])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )

    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_fixtures_may_be_overridden_by_objects_of_settings(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest("""
        import pytest
        from hydracache_sync import InvalidationIntentBatch, MemoryStore
        from hydracache_sync.testing import RecordingOutbox

        OUTBOX, STORE = RecordingOutbox(), MemoryStore()

        @pytest.fixture
        def hydracache_outbox():
            return OUTBOX

        @pytest.fixture
        def hydracache_store():
            return STORE
        """)
    pytester.makepyfile("""
        import pytest
        from conftest import OUTBOX, STORE
        from hydracache_sync import InvalidationIntentBatch

        @pytest.mark.parametrize("run", [1, 2])
        def test_it_begins_with_nothing(hydracache, run):
            assert (hydracache.outbox, hydracache.store) == (OUTBOX, STORE)
            hydracache.refute_invalidated(key="a")
            OUTBOX.enqueue("shop", InvalidationIntentBatch().invalidate_key("a"))
            hydracache.assert_invalidated(key="a")
        """)

    result = pytester.runpytest_subprocess("-p", "hydracache_pytest", "-W", "error")

    result.assert_outcomes(passed=2)


def test_its_fixtures_begin_with_its_name(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("-p", "hydracache_pytest", "--fixtures")

    own = [
        line.split(" ")[0] for line in result.outlines if "hydracache_pytest.py" in line
    ]
    assert own == ["hydracache_outbox", "hydracache_store", "hydracache"]


pytest_plugins = ["pytester"]

"""What tests and programs share: servers, clocks, faults, processes. No tests."""

from pathlib import Path

#: The checkout, and the suite in it.
ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"

"""Fixtures for the tests of the integrations."""

from __future__ import annotations

from pathlib import Path

import pytest
from shop import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A Flask app on a SQLite file with one item, no pool, an in-process cache."""
    return Shop(tmp_path / "shop.db")

"""Fixtures for the tests of apps that use hydracache_sync, see docs/how_to/testing.md.

Beside the package: pytest loads this at each start, also in projects that have no use
for it, and the package only when a test asks for a fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hydracache_sync import MemoryStore
    from hydracache_sync.testing import Invalidations, RecordingOutbox


@pytest.fixture
def hydracache_outbox() -> RecordingOutbox:
    """The outbox of the app under test. Override it where settings have made one."""
    from hydracache_sync.testing import RecordingOutbox

    return RecordingOutbox()


@pytest.fixture
def hydracache_store() -> MemoryStore:
    """The store of the app under test. Override it where settings have made one."""
    from hydracache_sync import MemoryStore

    return MemoryStore()


@pytest.fixture
def hydracache(
    hydracache_outbox: RecordingOutbox, hydracache_store: MemoryStore
) -> Invalidations:
    """What this test's app invalidates: assertions, ``intents``, ``drain()``."""
    from hydracache_sync.testing import Invalidations

    return Invalidations(hydracache_outbox, hydracache_store)

"""For the tests of an app: an outbox that joins any connection, and what asks it.

docs/how_to/testing.md shows the wiring. Needs no pytest; ``hydracache_pytest`` has
fixtures.
"""

from hydracache_sync.testing.invalidations import Invalidations
from hydracache_sync.testing.outbox import RecordingOutbox

__all__ = ["Invalidations", "RecordingOutbox"]

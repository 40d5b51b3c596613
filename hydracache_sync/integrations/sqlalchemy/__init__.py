"""Invalidations in the transactions of SQLAlchemy, 1.4 and 2.x: ORM sessions and Core.

Listens to events and writes, right before a commit, through the connection that is
about to commit: rows and data are one transaction. Commits nothing, and rolls back only
what must not be committed. What belongs to a savepoint that was rolled back is not
written.
"""

from sqlalchemy.engine import Engine

from hydracache_sync.integrations.sqlalchemy.attached import (
    Attached,
    attach,
    attach_to,
    intents_of,
    reads_own_writes,
    snapshot,
    tag_of,
)
from hydracache_sync.integrations.sqlalchemy.rows import cacheable_rows
from hydracache_sync.keys import entity_key

__all__ = [
    "Attached",
    "Engine",
    "attach",
    "attach_to",
    "cacheable_rows",
    "entity_key",
    "intents_of",
    "reads_own_writes",
    "snapshot",
    "tag_of",
]

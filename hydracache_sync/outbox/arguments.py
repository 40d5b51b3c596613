"""What is handed to an outbox: checked, or cut to what a row keeps."""

from __future__ import annotations

from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.keys import checked_namespace
from hydracache_sync.outbox.row import OutboxState, PendingPhase
from hydracache_sync.receipts import CommitPosition

#: Characters of an error that a row keeps; the rest is counted, not kept.
MAX_ERROR = 1000


def checked_position(
    position: CommitPosition | str | None,
) -> tuple[CommitPosition, bool]:
    """Return the position and whether it is a new one, which nothing collides with."""
    if position is None:
        return CommitPosition.generate(), True
    if isinstance(position, CommitPosition):
        return position, False
    return CommitPosition(position), False


def checked_batch(
    namespace: str, batch: InvalidationIntentBatch, limit: int | None = None
) -> InvalidationIntentBatch:
    """Check the arguments of an enqueue; return a copy that the receipt may keep.

    :param limit: intents that it may have, each counted once; None without limit.
    """
    checked_namespace(namespace)
    if not isinstance(batch, InvalidationIntentBatch):
        raise TypeError(
            f"batch must be InvalidationIntentBatch, not {type(batch).__name__}"
        )
    if limit is not None and len(batch) > limit:
        distinct = len(batch.distinct())
        if distinct > limit:
            raise ValueError(
                f"batch has {distinct} intents, limit {limit} (max_batch): split it, or"
                " invalidate a tag or collection in place of so many keys, or flush()"
            )
    return batch.copy()


def checked_count(name: str, value: int) -> int:
    """Check a whole number that is not negative and fits a database's integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if not 0 <= value < 2**63:
        raise ValueError(f"{name} must be 0 or more, not {value}")
    return value


def checked_state(state: OutboxState, phase: PendingPhase | None = None) -> int:
    """Return the code of ``state``, once it is checked that it has such a phase."""
    if not isinstance(state, OutboxState):
        raise TypeError(f"state must be OutboxState, not {type(state).__name__}")
    if phase is not None and state is not OutboxState.PENDING:
        raise ValueError(f"phase is of pending rows, not of {state.value} ones")
    return state.code


def kept_error(error: str) -> str:
    """Return the text that a row keeps: storable, and its cut made visible."""
    text = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) > MAX_ERROR:
        text = f"{text[:MAX_ERROR]} ... ({len(text) - MAX_ERROR} more characters)"
    return text

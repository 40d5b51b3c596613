"""The identity of a committed write, and the receipt that a writer can wait on.

A receipt travels as text, in a cookie or a hidden field, and means the same in every
process. Knows no database.
"""

from __future__ import annotations

import os
import time
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass, field

from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.keys import checked_namespace, checked_text

#: Bytes of a commit position.
MAX_POSITION = 128

#: Names the text form of a receipt and its version.
_SCHEME = "hc1"


#: Nanoseconds of the last generated position. Without a lock, which a fork could leave
#: locked: two threads may draw the same tick, their random bits differ.
_last_tick = 0


@dataclass(frozen=True, order=True)
class CommitPosition:
    """Identity of one committed write: 1 to 128 bytes of UTF-8.

    A write that is retried under the same position while its rows wait is enqueued
    once; after that they are applied again. Immutable.

    Source: ``CommitPosition`` in ``hydracache-db/src/outbox.rs``.
    """

    value: str

    def __post_init__(self) -> None:
        checked_text("commit_position", self.value, minimum=1, maximum=MAX_POSITION)

    @classmethod
    def generate(cls) -> CommitPosition:
        """Return a position that no other call anywhere returns, ordered by time.

        Thread-safe. 16 hex digits of nanoseconds, which rise from call to call even
        when the clock stands still. Then 64 random bits, drawn for each call and so
        different after a fork.
        """
        global _last_tick
        tick = time.time_ns()
        if tick <= _last_tick:
            tick = _last_tick + 1
        _last_tick = tick
        # Not cls(...): what is generated needs no check.
        position = object.__new__(cls)
        value = (tick.to_bytes(8, "big") + os.urandom(8)).hex()
        object.__setattr__(position, "value", value)
        return position

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class InvalidationReceipt:
    """What a writer gets for its batch: enough to wait for it, here or elsewhere.

    :ivar namespace: the batch's cache namespace.
    :ivar commit_position: identity of the write.
    :ivar created_at_ms: Unix milliseconds of the enqueue, by this host's clock.
    :ivar targets: rows the batch stands for, duplicates within it counted once.
    :ivar batch: the batch; None on a receipt that came as text.
    :ivar inserted: rows that the enqueue added; fewer than ``targets`` where the
        position was used before; None on text.
    :ivar strict: whether no read that begins after the commit gets anything older, as
        an app in mode strict knows after its commit; None where nobody has said so.

    Immutable and safe to share. Nothing is known of the commit: the receipt of a
    transaction that was rolled back looks the same. Where the position was used before,
    rows of that enqueue may be taken for its own until its commit. Wait for it after
    the commit has returned, and not where its outcome is unknown.

    Source: ``InvalidationReceipt`` in ``hydracache-db/src/outbox.rs``.
    """

    namespace: str
    commit_position: CommitPosition
    created_at_ms: int
    targets: int
    batch: InvalidationIntentBatch | None = field(
        default=None, compare=False, repr=False
    )
    inserted: int | None = field(default=None, compare=False)
    strict: bool | None = field(default=None, compare=False)
    #: Told by the outbox: true once the transaction is known to be over.
    _over: object = field(default=False, compare=False, repr=False)

    @property
    def is_over(self) -> bool:
        """Whether its transaction has ended, as far as this process knows unasked.

        By a commit or by a rollback. False if that is not known.
        """
        return bool(self._over)

    def to_string(self) -> str:
        """Return the receipt as ASCII text that is safe in a cookie and a URL.

        The batch is left out: the other side needs to know how many rows, not which.
        """
        return ".".join(
            (
                _SCHEME,
                _packed(self.namespace),
                _packed(self.commit_position.value),
                str(self.created_at_ms),
                str(self.targets),
            )
        )

    @classmethod
    def from_string(cls, text: str) -> InvalidationReceipt:
        """Read what :meth:`to_string` wrote.

        Text from a browser may have been changed: the worst that a forged receipt
        does is to make its own bearer wait for another write, or for none.

        :raises ValueError: not a receipt, or one of a version unknown here.
        """
        if not isinstance(text, str):
            raise TypeError(f"receipt must be str, not {type(text).__name__}")
        parts = text.split(".")
        if parts[0] != _SCHEME:
            raise ValueError(
                f"receipt of {len(text)} characters does not begin with {_SCHEME}."
            )
        if len(parts) != 5:
            raise ValueError(f"receipt has {len(parts)} parts, expected 5")
        namespace, position, created_at_ms, targets = parts[1:]
        return cls(
            checked_namespace(_unpacked("namespace", namespace)),
            CommitPosition(_unpacked("commit_position", position)),
            _count("created_at_ms", created_at_ms),
            _count("targets", targets),
        )


def created_ms_of(text: str) -> int:
    """When the receipt was made whose text this is; the rest of it is not looked at.

    :raises ValueError: it is no text of a receipt.
    """
    _, _, _, created_at_ms, _ = text.split(".")
    return int(created_at_ms)


def _packed(text: str) -> str:
    """Letters, digits, "-" and "_": nothing that a cookie or a URL would quote."""
    return urlsafe_b64encode(text.encode("utf-8")).decode("ascii").rstrip("=")


def _unpacked(name: str, text: str) -> str:
    try:
        data = text.encode("ascii")
        raw = b64decode(data + b"=" * (-len(data) % 4), b"-_", validate=True)
        return raw.decode("utf-8")
    except ValueError as exc:
        raise ValueError(f"receipt: {name} is not what was packed: {exc}") from exc


def _count(name: str, text: str) -> int:
    # isdigit alone would admit digits of other scripts and superscripts.
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ValueError(f"receipt: {name} must be 1 to 15 digits")
    return int(text)

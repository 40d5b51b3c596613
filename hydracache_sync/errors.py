"""Every exception of the library, under one root.

Wrong arguments are plain ``ValueError`` and ``TypeError``. Expected outcomes (timed
out, dead-lettered, nothing due) are return values. What is left is here; the facts
of a message are attributes too.
"""

from __future__ import annotations


class HydraCacheError(Exception):
    """Root of everything this library raises on its own account."""


class ConfigurationError(HydraCacheError):
    """A setting is missing, malformed or contradicts another; nothing was connected."""


class OutboxError(HydraCacheError):
    """The outbox's database failed.

    The call changed nothing unless its docstring says otherwise.
    """


class OutboxBusyError(OutboxError):
    """The database stayed locked, or chose this transaction to end a deadlock.

    Or it gave no answer within the time limit that a call was given; or no connection
    came free, of as many as an outbox may have.

    In the caller's own transaction: roll it back and run it again. In a call that
    opens its own transaction the library has already retried within its budget.
    """


class ConnectionLostError(OutboxError):
    """An own connection to the database was lost, and a new one did not help.

    The operation may have been done or not; the outcome of a COMMIT is unknown. Every
    call may be made again, a ``transaction()`` block only if it can be told apart from
    one that was committed.
    """


class ReadOnlyServerError(OutboxError):
    """The server takes no writes: a replica, a primary that was one, a cut off node.

    Nothing was written. An own connection has been dropped, so that the next call goes
    to wherever the name of the server leads by then.
    """


class SchemaError(OutboxError):
    """The outbox's tables are missing, or of another version than this library's.

    :ivar found: version in the database, None where there is none.
    :ivar expected: version this library reads and writes.
    """

    def __init__(
        self, message: str, *, found: int | None = None, expected: int | None = None
    ) -> None:
        super().__init__(message)
        self.found = found
        self.expected = expected


class NotInTransactionError(OutboxError):
    """The rows would not have been part of the caller's transaction.

    The connection commits each statement by itself, or has another database open.
    Nothing was written.
    """


class ApplyError(HydraCacheError):
    """An invalidation could not be applied to the cache.

    Appliers raise or return one of its subclasses.
    """


class ApplyUnavailable(ApplyError):
    """The cache did not answer, or said that it cannot serve now.

    The row waits and counts no attempt: an outage never makes a dead letter.

    :ivar node: the cache node that failed, None if the applier has no nodes.
    :ivar answered: whether the node did answer, and not as it should; its words are in
        the message.
    """

    def __init__(
        self, message: str, *, node: str | None = None, answered: bool = False
    ) -> None:
        super().__init__(message)
        self.node = node
        self.answered = answered


class ApplyTransient(ApplyError):
    """The cache refused and may not refuse again; counts an attempt, is retried."""


class ApplyPermanent(ApplyError):
    """The invalidation can never be applied; its row becomes a dead letter at once."""


class QuarantineError(HydraCacheError):
    """A strict namespace could not be quarantined; the commit must not be sent."""

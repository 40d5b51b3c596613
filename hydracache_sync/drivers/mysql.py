"""What connections to MySQL have in common, whatever their driver."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator, Sequence

from hydracache_sync.errors import NotInTransactionError


def refuse_autocommit() -> NotInTransactionError:
    """Return the error for a connection that would commit our rows at once."""
    return NotInTransactionError(
        "the connection is in autocommit mode and has no transaction open: the"
        " invalidation would be committed without the data. Call begin() first, or"
        " switch autocommit off, or use transaction() of the outbox"
    )


def autocommits(cursor: Any) -> bool:
    """Ask the server whether the session is in autocommit; closes ``cursor``."""
    try:
        cursor.execute("select @@session.autocommit")
        return bool(only_value(cursor.fetchall()))
    finally:
        cursor.close()


def execute(cursor: Any, statement: str) -> None:
    """Run ``statement``; closes ``cursor``."""
    try:
        cursor.execute(statement)
    finally:
        cursor.close()


def only_value(records: Sequence[Any]) -> int:
    """The number in the only record, whatever a driver's converters make of it.

    All of them are fetched before: a connection is not free again until the end of a
    result was read.
    """
    [[value]] = records
    return int(value or 0)


def error_number(exc: BaseException) -> int | None:
    """Return the server's or the client library's number of an error."""
    number = getattr(exc, "errno", None)
    if number is None and exc.args:
        number = exc.args[0]
    return number if isinstance(number, int) else None


class MySQLConnection:
    """What drivers of MySQL do alike, and what those that tell little say.

    See :class:`~hydracache_sync.drivers.connection.CallersConnection`.
    """

    tells_snapshots = False

    def __init__(self, connection: Any, error: type[Exception] | None = None) -> None:
        self.connection = connection
        self.errors: tuple[type[Exception], ...] = (
            connection.Error if error is None else error,
            OSError,
        )

    def has_snapshot(self) -> bool:
        raise NotImplementedError

    def is_reading(self) -> bool:
        return False

    def answered(self) -> object:
        return None

    def changes(self) -> int | None:
        return None

    def completion(self) -> Callable[[], bool] | None:
        return None

    @contextlib.contextmanager
    def noted_end(self) -> Iterator[Callable[[], bool]]:
        # Past the setters of its class: that of mysqlclient takes nothing back.
        own = vars(self.connection)
        before, commit, has_ended = own.get("commit"), self.connection.commit, False

        def noting() -> Any:
            nonlocal has_ended
            # Before: its answer may be lost. One without anything to commit is no end.
            has_ended |= self.has_begun() is not False
            return commit()

        own["commit"] = noting
        try:
            yield lambda: has_ended
        finally:
            if before is None:
                del own["commit"]
            else:
                own["commit"] = before

    def has_begun(self) -> bool | None:
        raise NotImplementedError

    def commit(self) -> None:
        self.connection.commit()

    def roll_back(self) -> None:
        self.connection.rollback()

"""A change of an item, and the connections for it."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Callable

import pymysql

from chaos.app import Settings


class Connection:
    """One to the database, and another when that is lost."""

    def __init__(self, settings: Settings, *, autocommit: bool = False) -> None:
        self._settings = settings
        self._autocommit = autocommit
        self.current: Any = None
        self.renew()

    def renew(self) -> None:
        if self.current is not None:
            with suppress(pymysql.err.Error, OSError):
                self.current.close()
            self.current = None
        while self.current is None:
            # The new one may be cut before it is there.
            with suppress(pymysql.err.OperationalError):
                self.current = self._settings.connect(autocommit=self._autocommit)


def write_one(
    settings: Settings,
    outbox: Any,
    connection: Any,
    cache: Any,
    item: int,
    before_commit: Callable[[], object] = lambda: None,
) -> tuple[int, Any, bool]:
    """Change an item; return its version, the receipt, and whether that was strict."""
    batch = settings.batch(item)
    with connection.cursor() as cursor:
        cursor.execute("update item set version = version + 1 where id = %s", (item,))
        cursor.execute("select version from item where id = %s", (item,))
        [version] = cursor.fetchone()
        receipt = outbox.enqueue_in(connection, settings.namespace(item), batch)
        cursor.execute(
            "insert into history (item, version, position, written_at)"
            " values (%s, %s, %s, %s)",
            (item, version, receipt.commit_position.value, time.monotonic_ns()),
        )
    quarantined = settings.quarantine and not settings.plain_delete
    if not settings.is_strict(item) or not quarantined:
        connection.commit()
        # Without a quarantine nothing is strict, and is judged as if it were.
        return version, receipt, settings.is_strict(item)
    with cache.quarantine(batch) as quarantine:
        before_commit()
        quarantine.check()
        connection.commit()
    return version, receipt, bool(quarantine.strict)

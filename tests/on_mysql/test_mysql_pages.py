"""The Python of docs/operations/databases.md, on each server."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

from mysql_databases import Database

from hydracache_sync import MemoryStore, ReplicaSnapshot, TaggedCache, open_outbox
from outbox_contract.common import SHOP, batch_of
from support.page_blocks import blocks_of

WRITE, _, READ = (block.body for block in blocks_of("docs/operations/databases.md"))


def test_an_outbox_by_its_url(database: Database) -> None:
    with closing(database.outbox()) as outbox:
        outbox.install_schema()
    [shown] = re.findall(r'"(mysql:[^"]*)"', WRITE)
    open_outbox(shown).close()
    code = WRITE.replace(shown, database.server.url(str(database.name)))

    with database.connect() as connection:
        names: dict[str, Any] = {"connection": connection, "batch": batch_of("a")}
        exec(code, names)
        connection.commit()

    with closing(names["outbox"]) as outbox:
        [row] = outbox.rows("shop")
    assert row.commit_position == names["receipt"].commit_position


def test_a_load_on_a_replica(database: Database) -> None:
    with closing(database.outbox()) as outbox:
        outbox.install_schema()
        outbox.write_heartbeat()
        [(beat_ms,)] = database.sql("select beat_ms from hydracache_outbox_heartbeat")
    loads: list[str] = []

    with database.connect() as connection:
        names: dict[str, Any] = {
            "ReplicaSnapshot": ReplicaSnapshot,
            "cache": TaggedCache(MemoryStore(), SHOP),
            "connection": connection,
            "key": "key",
            "loader": lambda: loads.append("loaded"),
            "tags": [],
        }
        exec(READ, names)

        assert names["snapshot"]() == beat_ms / 1000
    assert loads == ["loaded"]

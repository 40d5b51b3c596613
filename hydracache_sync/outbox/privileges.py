"""What a login must be allowed to do with the tables, and how to find out harmlessly.

Each probe is a statement that needs one privilege and touches no row. Asked like this,
and not read from SHOW GRANTS, a privilege is found however it was given: to a role, by
a pattern, by a proxy user.
"""

from __future__ import annotations

from typing import NamedTuple

from hydracache_sync.errors import (
    ConnectionLostError,
    OutboxBusyError,
    OutboxError,
    ReadOnlyServerError,
    SchemaError,
)
from hydracache_sync.outbox.database import Database


class Privilege(NamedTuple):
    """One privilege on one table.

    :ivar verb: "select", "insert", "update" or "delete".
    :ivar suffix: of the table's name: "", "_schema", "_paused" or "_workers".
    """

    verb: str
    suffix: str


_READS = frozenset(
    Privilege("select", suffix) for suffix in ("", "_schema", "_paused", "_workers")
)
_WRITES = frozenset(Privilege(verb, "") for verb in ("insert", "update"))
_CARRIES = frozenset(
    (
        Privilege("delete", ""),
        *(Privilege(verb, "_workers") for verb in ("insert", "update", "delete")),
    )
)

#: What each part that a process may play needs; a later one includes those before it.
#: An app that only calls ``enqueue_in`` needs "insert" on the first table and no more.
ROLES = {
    "producer": _READS | _WRITES,
    "worker": _READS | _WRITES | _CARRIES,
    "operator": _READS
    | _WRITES
    | _CARRIES
    | {Privilege(verb, "_paused") for verb in ("insert", "update", "delete")},
}

PROBES = {
    Privilege("select", ""): "select 1 from {table} limit 0",
    Privilege("select", "_schema"): "select 1 from {table}_schema limit 0",
    Privilege("select", "_paused"): "select 1 from {table}_paused limit 0",
    Privilege("select", "_workers"): "select 1 from {table}_workers limit 0",
    Privilege("insert", ""): """
insert into {table} (
  target_hash, kind, namespace, commit_position, reason, created_at_ms, at_ms
)
select '', '', '', '', '', 0, 0
from (select 1 as one) as source
where 1 = 0
""",
    Privilege("update", ""): "update {table} set attempts = 0 where 1 = 0",
    Privilege("delete", ""): "delete from {table} where 1 = 0",
    Privilege("insert", "_paused"): """
insert into {table}_paused (namespace, since_ms, reason)
select '', 0, ''
from (select 1 as one) as source
where 1 = 0
""",
    Privilege(
        "update", "_paused"
    ): "update {table}_paused set since_ms = 0 where 1 = 0",
    Privilege("delete", "_paused"): "delete from {table}_paused where 1 = 0",
    Privilege("insert", "_workers"): """
insert into {table}_workers (
  owner, kind, host, pid, version, namespaces, started_ms, seen_ms, every_ms, carried,
  caches
)
select '', '', '', 0, '', '', 0, 0, 0, 0, ''
from (select 1 as one) as source
where 1 = 0
""",
    Privilege("update", "_workers"): "update {table}_workers set pid = 0 where 1 = 0",
    Privilege("delete", "_workers"): "delete from {table}_workers where 1 = 0",
}


def missing_privileges(database: Database) -> dict[Privilege, str]:
    """Try each privilege of :data:`PROBES`. Changes nothing.

    :param database: one that does not check the tables first.
    :return: those that this login lacks, and what the database says.
    :raises OutboxError: it is away, locked or read-only; nothing is known.
    """
    missing = {}
    for privilege, probe in PROBES.items():
        try:
            database.change(probe, {})
        except (
            OutboxBusyError,
            ConnectionLostError,
            ReadOnlyServerError,
            SchemaError,
        ):
            raise
        except OutboxError as exc:
            missing[privilege] = str(exc)
    return missing

"""What a login must be allowed to do with the tables, and how to find out harmlessly.

Each probe is a statement that needs one right and touches no row. Asked like this, and
not read from SHOW GRANTS, a right is found however it was given: to a role, by a
pattern, by a proxy user; and a server that is read-only says so.
"""

from __future__ import annotations

from typing import NamedTuple


class Right(NamedTuple):
    """One right on one table.

    :ivar verb: "select", "insert", "update" or "delete".
    :ivar suffix: of the table's name: "", "_schema" or "_paused".
    """

    verb: str
    suffix: str


_READS = frozenset(Right("select", suffix) for suffix in ("", "_schema", "_paused"))
_WRITES = frozenset(Right(verb, "") for verb in ("insert", "update"))

#: What each part that a process may play needs; a later one includes those before it.
#: An app that only calls ``enqueue_in`` needs "insert" on the first table and no more.
ROLES = {
    "producer": _READS | _WRITES,
    "worker": _READS | _WRITES | {Right("delete", "")},
    "operator": _READS
    | _WRITES
    | {Right("delete", "")}
    | {Right(verb, "_paused") for verb in ("insert", "update", "delete")},
}

PROBES = {
    Right("select", ""): "select 1 from {table} limit 0",
    Right("select", "_schema"): "select 1 from {table}_schema limit 0",
    Right("select", "_paused"): "select 1 from {table}_paused limit 0",
    Right("insert", ""): """
insert into {table} (
  target_hash, kind, namespace, commit_position, reason, created_at_ms, at_ms
)
select '', '', '', '', '', 0, 0
from (select 1 as one) as source
where 1 = 0
""",
    Right("update", ""): "update {table} set attempts = 0 where 1 = 0",
    Right("delete", ""): "delete from {table} where 1 = 0",
    Right("insert", "_paused"): """
insert into {table}_paused (namespace, since_ms, reason)
select '', 0, ''
from (select 1 as one) as source
where 1 = 0
""",
    Right("update", "_paused"): "update {table}_paused set since_ms = 0 where 1 = 0",
    Right("delete", "_paused"): "delete from {table}_paused where 1 = 0",
}

"""What ``hydracache doctor`` says of clusters: which one it is, and what it asks for.

A token is replaced after the commit. Whoever loads from a node that does not have the
commit yet may store the old value under the new token, and nothing replaces that.
"""

from __future__ import annotations

from typing import Iterator, Mapping

from hydracache_sync.cli.findings import Finding, ok, warning
from hydracache_sync.outbox.mysql.outbox import Replication

#: What is asked of the server; one that lacks a variable says nothing of it.
VARIABLES = (
    "wsrep_on",
    "wsrep_sync_wait",
    "group_replication_group_name",
    "group_replication_consistency",
    "read_only",
)

#: Levels at which a read on any member sees what was committed before it began.
_FRESH = ("BEFORE", "AFTER", "BEFORE_AND_AFTER")

_OR_ONE_NODE = " in the sessions of loaders, or load from the node of the commits"

_PRIMARY = (
    "name the primary in --outbox; loaders must read it too, since a replica is late"
)


def examine_cluster(
    variables: Mapping[str, str], replication: Replication
) -> Iterator[Finding]:
    """Judge the global settings of the server that the URL leads to.

    :param replication: what its threads tell of it, to a login that may see them.
    """
    cluster = None
    if variables.get("wsrep_on") == "ON":
        wait = int(variables.get("wsrep_sync_wait", "0"))
        cluster = f"Galera, wsrep_sync_wait = {wait}"
        # The lowest bit is of reads.
        fresh, mend = bool(wait & 1), "set wsrep_sync_wait = 1"
    elif variables.get("group_replication_group_name"):
        level = variables.get("group_replication_consistency", "EVENTUAL").upper()
        cluster = f"group replication, group_replication_consistency = {level}"
        fresh, mend = level in _FRESH, "set group_replication_consistency = BEFORE"
    if cluster is not None and fresh:
        yield ok("cluster", f"{cluster}: reads on any node see what was committed")
    elif cluster is not None:
        yield warning(
            "cluster",
            f"{cluster}: a loader on another node than the commit may cache the old"
            " value after its invalidation",
            mend + _OR_ONE_NODE,
        )
    elif replication.replicas:
        yield ok(
            "cluster",
            f"asynchronous replicas: {replication.replicas}. Loaders must read this"
            " server, or say how late theirs may be: HYDRACACHE_SNAPSHOT replica with a"
            " heartbeat, HYDRACACHE_READ_LAG or since=. When one takes over without the"
            " last commits: hydracache flush",
        )
    writable = variables.get("read_only", "OFF") == "OFF"
    if cluster is None and replication.is_replica and writable:
        yield warning(
            "cluster",
            "the server takes writes and is itself a replica of another",
            _PRIMARY,
        )
    elif not writable:
        what = "it is a replica" if replication.is_replica else "a replica?"
        yield warning("cluster", f"the server takes no writes: {what}", _PRIMARY)

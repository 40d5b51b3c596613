"""Whether a server of MySQL shows commits in the order in which they were made.

Only where it does, a snapshot that has one commit has all that came before it. Read
from variables that every login may see.
"""

from __future__ import annotations

import re
from typing import Mapping

#: What is to be asked of the server; one that lacks a variable has not what it is for.
VARIABLES = (
    # MySQL has two names for each, by its age; MariaDB another mode instead.
    "slave_parallel_workers",
    "replica_parallel_workers",
    "slave_preserve_commit_order",
    "replica_preserve_commit_order",
    "slave_parallel_mode",
    "slave_parallel_threads",
    "gtid_slave_pos",
    "group_replication_group_name",
    "group_replication_single_primary_mode",
    "group_replication_consistency",
    "wsrep_on",
    "wsrep_provider_options",
)


def disorder(variables: Mapping[str, str]) -> str | None:
    """Return why commits may be shown out of their order, and the remedy.

    :param variables: those of :data:`VARIABLES` that the server has, in small letters.
    :return: None where they are shown in order.
    """
    if variables.get("wsrep_on") == "ON":
        options = variables.get("wsrep_provider_options", "")
        if not re.search(r"repl\.commit_order\s*=\s*3\b", options):
            return "repl.commit_order of the Galera provider is not 3, its default"
    if "slave_parallel_mode" in variables:
        # MariaDB: in order, but for transactions of several GTID domains.
        domains = variables.get("gtid_slave_pos", "").count(",") + 1
        if domains > 1 and variables.get("slave_parallel_threads", "0") != "0":
            return (
                f"the replica applies {domains} GTID domains in parallel: write all in"
                " one domain, or set slave_parallel_threads = 0"
            )
        return None
    for word in ("replica", "slave"):
        workers = variables.get(f"{word}_parallel_workers", "0")
        kept = variables.get(f"{word}_preserve_commit_order", "OFF")
        if int(workers) > 1 and kept.upper() not in ("ON", "1"):
            return (
                f"the replica applies with {workers} workers and does not keep the"
                f" order of commits: set {word}_preserve_commit_order = ON"
            )
        if f"{word}_parallel_workers" in variables:
            break
    if variables.get("group_replication_group_name"):
        if variables.get("group_replication_single_primary_mode") == "OFF":
            return (
                "several members of the group take writes, and each shows its own"
                " before those of others: use group_replication_single_primary_mode"
            )
        if variables.get("group_replication_consistency", "EVENTUAL") == "EVENTUAL":
            # A new primary takes writes before it has applied what it has received.
            return (
                "group_replication_consistency is EVENTUAL: set it to"
                " BEFORE_ON_PRIMARY_FAILOVER on every member"
            )
    return None

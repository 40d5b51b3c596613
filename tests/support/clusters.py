"""Clusters of servers of our own: Galera, group replication, a replica that is late.

Their nodes are servers as all others of the suite: private, gone afterwards.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import pymysql

from support.servers import (
    SQL_SERVERS,
    MariaDB118,
    MySQL9,
    ServerError,
    SQLServer,
    free_port,
)

#: Seconds until a cluster that has not formed is an error.
PATIENCE = 60.0

#: Folder of the program that transfers a node's state.
SST = Path(__file__).resolve().parent / "galera_sst"

#: Any id will do: the clusters of two tests do not meet, their ports are their own.
NAME = "6f1c3c8e-9c2f-4c0a-8f6e-0d7a3d0e5b11"


def sql(server: SQLServer, statement: str) -> Any:
    """Run one statement on ``server``; return its rows."""
    with pymysql.connect(
        host=server.host, port=server.port, user=server.user, autocommit=True
    ) as connection:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()


def until(fact: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not fact():
        if time.monotonic() > deadline:
            raise ServerError(f"{what} did not come about in {PATIENCE:g} s")
        time.sleep(0.05)


def _status(server: SQLServer, name: str) -> str:
    [(_, value)] = sql(server, f"show global status like '{name}'")
    return str(value)


class GaleraNode(MariaDB118):
    """A node of a Galera.

    :param data: what it begins with: all begin with the same, so that nothing has to
        be sent to one that joins.
    """

    def __init__(
        self, *, arguments: Sequence[str] = (), data: Path | None = None
    ) -> None:
        self._data = data
        super().__init__(arguments=arguments)

    def _prepare(self) -> None:
        if self._data is None:
            super()._prepare()
        else:
            shutil.copytree(self._data, self.directory / "data")

    def end(self) -> Path:
        """Have it write down what it has, and end; return its data."""
        self._send(signal.SIGTERM)
        until(lambda: not self.running, "the end of a server")
        return self.directory / "data"

    @classmethod
    def missing(cls) -> str | None:
        return super().missing() or (
            None if cls.provider() else "galera-4 is not unpacked beside MariaDB 11.8"
        )

    def _command(self, program: str) -> list[str]:
        path = f"{SST}:{os.environ.get('PATH', os.defpath)}"
        return ["env", f"PATH={path}", *super()._command(program)]

    @classmethod
    def provider(cls) -> str:
        found = list(cls.root().glob("usr/lib/**/libgalera_smm.so"))
        return str(found[0]) if found else ""


@contextlib.contextmanager
def galera(count: int) -> Iterator[list[SQLServer]]:
    """A cluster of ``count`` nodes, each of which takes writes."""
    ports = [free_port() for _ in range(count)]
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(GaleraNode(arguments=_galera_arguments(ports[:1])))
        _until_ready(first, 1)
        data = first.end()
        nodes: list[SQLServer] = []
        for n in range(count):
            node = GaleraNode(arguments=_galera_arguments(ports[: n + 1]), data=data)
            nodes.append(stack.enter_context(node))
            _until_ready(node, n + 1)
        yield nodes


def _galera_arguments(ports: Sequence[int]) -> tuple[str, ...]:
    """Arguments of the node with the last of ``ports``; the others are there."""
    *others, port = ports
    options = (
        f"gmcast.listen_addr=tcp://127.0.0.1:{port};"
        f"ist.recv_addr=127.0.0.1:{free_port()};gcache.size=32M"
    )
    return (
        "--wsrep-on=ON",
        f"--wsrep-provider={GaleraNode.provider()}",
        "--wsrep-cluster-address=gcomm://"
        + ",".join(f"127.0.0.1:{other}" for other in others),
        f"--wsrep-provider-options={options}",
        f"--wsrep-node-address=127.0.0.1:{port}",
        "--wsrep-sst-method=alike",
        "--binlog-format=ROW",
        "--innodb-autoinc-lock-mode=2",
    )


def _until_ready(node: SQLServer, size: int) -> None:
    def is_ready() -> bool:
        try:
            return _status(node, "wsrep_ready") == "ON" and _status(
                node, "wsrep_cluster_size"
            ) == str(size)
        except pymysql.Error:
            return False  # it joins

    until(is_ready, f"a Galera of {size}")


@contextlib.contextmanager
def group(count: int, *, multi_primary: bool = False) -> Iterator[list[SQLServer]]:
    """Group replication; the first node is the primary, unless all are."""
    ports = [free_port() for _ in range(count)]
    seeds = ",".join(f"127.0.0.1:{port}" for port in ports)
    with contextlib.ExitStack() as stack:
        nodes: list[SQLServer] = []
        for n, port in enumerate(ports):
            arguments = (
                "--performance-schema=ON",
                f"--server-id={n + 1}",
                "--log-bin=binlog",
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
                "--plugin-load-add=group_replication.so",
                f"--group-replication-group-name={NAME}",
                "--group-replication-start-on-boot=OFF",
                f"--group-replication-local-address=127.0.0.1:{port}",
                f"--group-replication-group-seeds={seeds}",
                "--group-replication-recovery-get-public-key=ON",
                f"--group-replication-single-primary-mode={int(not multi_primary)}",
                "--group-replication-member-expel-timeout=0",
                "--report-host=127.0.0.1",
            )
            node = stack.enter_context(MySQL9(arguments=arguments))
            nodes.append(node)
            # What made the data is not the group's.
            sql(node, "reset binary logs and gtids")
            if n == 0:
                sql(node, "set global group_replication_bootstrap_group = ON")
            sql(node, "start group_replication user='root'")
            if n == 0:
                sql(node, "set global group_replication_bootstrap_group = OFF")
            until(lambda: _online(node) == n + 1, f"a group of {n + 1}")
        yield nodes


def _online(node: SQLServer) -> int:
    [(count,)] = sql(
        node,
        "select count(*) from performance_schema.replication_group_members"
        " where member_state = 'ONLINE'",
    )
    return int(count)


def group_primary(node: SQLServer) -> int | None:
    """Port of the group's primary, as ``node`` sees it; None while there is none."""
    found = sql(
        node,
        "select member_port from performance_schema.replication_group_members"
        " where member_role = 'PRIMARY' and member_state = 'ONLINE'",
    )
    return int(found[0][0]) if len(found) == 1 else None


@contextlib.contextmanager
def replication(
    kind: str, count: int = 2, *, delay: int = 0
) -> Iterator[list[SQLServer]]:
    """Asynchronous replication; the first node is the primary, the others read only.

    :param kind: a MariaDB, or the MySQL that knows global transaction ids.
    :param delay: seconds that a replica waits before it applies what it has received.
    """
    with contextlib.ExitStack() as stack:
        nodes: list[SQLServer] = []
        for n in range(count):
            arguments = [f"--server-id={n + 1}", "--log-bin=binlog"]
            if SQL_SERVERS[kind] is MySQL9:
                arguments += ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"]
            else:
                arguments += ["--log-slave-updates=ON"]
            node = stack.enter_context(SQL_SERVERS[kind](arguments=arguments))
            if not node.is_mariadb:
                # What made the data is not to be replicated.
                sql(node, "reset binary logs and gtids")
            if nodes:
                _follow(node, nodes[0], delay)
            nodes.append(node)
        yield nodes


def _follow(node: SQLServer, primary: SQLServer, delay: int) -> None:
    """Make ``node`` a replica of ``primary``."""
    # MariaDB has kept the word that MySQL has given up.
    word = "master" if node.is_mariadb else "source"
    options = {"host": "'127.0.0.1'", "port": primary.port, "user": "'root'"}
    options.update({"delay": delay, "connect_retry": 1})
    listed = ", ".join(f"{word}_{name} = {value}" for name, value in options.items())
    if node.is_mariadb:
        sql(node, f"change master to {listed}, master_use_gtid = slave_pos")
        sql(node, "start slave")
    else:
        sql(node, f"change replication source to {listed}, source_auto_position = 1")
        sql(node, "start replica")
    take_writes(node, False)


def take_writes(node: SQLServer, value: bool) -> None:
    """Have ``node`` take writes, or refuse those of users of all rights too."""
    name = "read_only" if node.is_mariadb else "super_read_only"
    sql(node, f"set global {name} = {int(not value)}")
    if value:
        sql(node, "set global read_only = 0")


def catch_up(node: SQLServer, primary: SQLServer) -> None:
    """Wait until ``node`` has applied what ``primary`` has committed until now."""
    position = "@@gtid_binlog_pos" if node.is_mariadb else "@@global.gtid_executed"
    [(there,)] = sql(primary, f"select {position}")
    wait = "master_gtid_wait" if node.is_mariadb else "wait_for_executed_gtid_set"
    [(answer,)] = sql(node, f"select {wait}('{there}', {PATIENCE:g})")
    if answer != 0:
        raise ServerError(f"a replica did not catch up with {there}: {answer}")


def promote(node: SQLServer) -> None:
    """Make a primary of a replica, with what it has applied until now."""
    word = "slave" if node.is_mariadb else "replica"
    sql(node, f"stop {word}")
    sql(node, f"reset {word} all")
    take_writes(node, True)

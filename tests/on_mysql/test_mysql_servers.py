"""The private MariaDB and MySQL servers of the suite."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mysql_databases import KINDS, Database

from support import servers
from support.probing import PATIENCE, connect, is_gone
from support.servers import (
    SQL_SERVERS,
    MariaDB,
    MySQL9,
    MySQL56,
    ServerError,
    SQLServer,
    servers_of_this_run,
)
from support.waiting import eventually

TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[SQLServer]:
    return SQL_SERVERS[request.param]


def sql(server: SQLServer, statement: str) -> list[tuple[object, ...]]:
    with closing(Database(server, None)) as database:
        return database.sql(statement)


class TestSQLServers:
    def test_a_crashed_server_is_back_with_what_was_committed(
        self, kind: type[SQLServer]
    ) -> None:
        with kind() as server:
            address, pid = server.address, server.pid
            sql(server, "create database app")
            sql(server, "create table app.notes (note varchar(9)) engine = innodb")
            sql(server, "insert into app.notes values ('kept')")

            server.restart()

            assert (server.address, server.pid == pid) == (address, False)
            assert sql(server, "select note from app.notes") == [("kept",)]

    def test_two_servers_are_two_and_both_are_empty(
        self, kind: type[SQLServer]
    ) -> None:
        with kind() as one, kind() as other:
            sql(one, "create database app")

            databases = sql(other, "show databases")

        assert ("app",) not in databases
        assert ("mysql",) in databases

    def test_arguments_reach_the_server(self, kind: type[SQLServer]) -> None:
        arguments = ("--character-set-server=latin1", "--max-allowed-packet=1M")
        with kind(arguments=arguments) as server:
            assert sql(
                server, "select @@global.character_set_server, @@max_allowed_packet"
            ) == [("latin1", 1 << 20)]

    def test_a_bad_argument_is_told_in_the_servers_own_words(
        self, kind: type[SQLServer]
    ) -> None:
        with pytest.raises(ServerError, match="no-such-option"):
            kind(arguments=("--no-such-option",))

    def test_a_paused_server_goes_on_where_it_was(self, kind: type[SQLServer]) -> None:
        with kind() as server:
            server.pause()
            with connect(server.unix_socket) as connection:
                connection.settimeout(0.2)
                with pytest.raises(socket.timeout):
                    connection.recv(100)

                server.resume()

                connection.settimeout(PATIENCE)
                assert connection.recv(100)

    def test_stop_ends_the_process_and_removes_its_files(
        self, kind: type[SQLServer]
    ) -> None:
        server = kind()
        pid, directory = server.pid, server.directory

        server.stop()

        assert is_gone(pid)
        assert not directory.exists()

    def test_a_checkout_that_cannot_be_written_to_costs_time_only(
        self, kind: type[SQLServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(servers, "TEMPLATES", Path("/proc/nowhere"))

        with kind() as server:
            assert sql(server, "select 1") == [(1,)]

    def test_a_missing_program_names_its_package(
        self, kind: type[SQLServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(MariaDB, "program", "mariadbd-of-nobody")
        monkeypatch.setattr(servers, "CACHE", Path("/proc/nowhere"))

        with pytest.raises(ServerError, match="install"):
            kind()
        assert "install" in (kind.missing() or "")

    def test_a_machine_that_cannot_have_mysql_5_6_is_told_why(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(servers, "CACHE", Path("/proc/nowhere"))
        monkeypatch.setattr("platform.machine", lambda: "aarch64")

        said = MySQL56.missing() or ""
        assert "x86-64 only" in said and "aarch64" in said

    def test_what_a_suite_no_longer_holds_is_missing_for_that_reason(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(servers, "CACHE", tmp_path)
        (tmp_path / "mysql-unstable").mkdir()
        (tmp_path / "mysql-unstable" / "missing").write_text("no package in unstable")

        assert "no package in unstable" in (MySQL9.missing() or "")
        assert "mysql9" not in servers_of_this_run()

    def test_a_run_may_name_its_servers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        everything = list(servers_of_this_run())
        monkeypatch.setenv("HYDRACACHE_TEST_SERVERS", f"{everything[-1]}, mariadb118")
        named = list(servers_of_this_run())
        monkeypatch.setenv("HYDRACACHE_TEST_SERVERS", "postgres")

        assert named[0] == everything[-1]
        assert set(named) <= {everything[-1], "mariadb118"}
        with pytest.raises(ServerError, match="'postgres'.*mysql9"):
            servers_of_this_run()

    def test_an_external_server_is_used_and_never_harmed(
        self, kind: type[SQLServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with kind() as private:
            sql(private, "create user tester@'%' identified by 'p@ss'")
            url = f"mysql://tester:p%40ss@{private.address}"
            monkeypatch.setenv("HYDRACACHE_TEST_MYSQL", url)
            with MariaDB.of_environment() as server:
                assert sql(server, "select 1") == [(1,)]
                assert server.url("app") == f"{url}/app"
                for action in (server.kill, server.restart, server.pause):
                    with pytest.raises(ServerError, match="is not ours"):
                        action()
            assert private.running

    def test_a_suite_that_is_killed_leaves_no_server(
        self, kind: type[SQLServer], tmp_path: Path
    ) -> None:
        folders = [TESTS, TESTS.parent]
        (tmp_path / "conftest.py").write_text(
            f"import sys\nsys.path[:0] = {list(map(str, folders))!r}\n"
            "from tests.conftest import mariadb\n"
        )
        (tmp_path / "test_it.py").write_text(
            "import sys\ndef test(mariadb):\n"
            "    print(mariadb.pid, mariadb.directory, flush=True)\n"
            "    sys.stdin.read()\n"
        )
        suite = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-qs", "-p", "no:cacheprovider", tmp_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "HYDRACACHE_TEST_MYSQL": "",
                "HYDRACACHE_TEST_SERVERS": kind.kind,
            },
        )
        with suite:
            assert suite.stdout is not None
            pid, directory = suite.stdout.readline().split()
            assert not is_gone(int(pid))

            suite.kill()

            assert eventually(lambda: is_gone(int(pid)))
            assert eventually(lambda: not Path(directory).exists())

    def test_a_variable_points_the_tests_at_another_server(
        self, kind: type[SQLServer]
    ) -> None:
        with kind() as private:
            sql(private, "create user tester@'%' identified by 'p@ss'")
            sql(private, "grant all on *.* to tester@'%' with grant option")
            url = f"mysql://tester:p%40ss@{private.address}"
            ended = subprocess.run(
                [sys.executable, "-m", "pytest", "-qrs", "-p", "no:cacheprovider"]
                + [str(TESTS / "on_mysql" / "test_mysql_drivers.py")]
                + ["-k", "no_known_driver or proxy or missing_table"],
                stdout=subprocess.PIPE,
                text=True,
                cwd=TESTS.parent,
                env={**os.environ, "HYDRACACHE_TEST_MYSQL": url, "CI": ""},
            )

            [(_, asked)] = sql(private, "show global status like 'questions'")

        assert ended.returncode == 0, ended.stdout
        assert int(asked) > 100

    @pytest.mark.parametrize(
        "url", ["127.0.0.1:3306", "postgres://root@127.0.0.1", "mysql://127.0.0.1:3306"]
    )
    def test_a_malformed_address_of_an_external_server_is_told(
        self, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        monkeypatch.setenv("HYDRACACHE_TEST_MYSQL", url)

        with pytest.raises(ServerError, match="mysql://user:pass@host:port"):
            MariaDB.of_environment()

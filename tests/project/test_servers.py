"""The test servers keep their own promises: real, private, and gone afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest

from support import TESTS, servers
from support.faulty_memcached import FaultyMemcached, Mode
from support.probing import PATIENCE, ask, connect, is_gone
from support.servers import Memcached, ServerError
from support.waiting import eventually


class TestMemcached:
    def test_a_private_server_answers(self) -> None:
        with Memcached() as server:
            answer = ask(server.address, b"version\r\n")

        assert answer.startswith(b"VERSION ")

    def test_a_server_on_a_unix_socket_answers(self) -> None:
        with Memcached(unix_socket=True) as server:
            answer = ask(server.address, b"version\r\n")

        assert answer.startswith(b"VERSION ")

    def test_arguments_reach_the_server(self) -> None:
        with Memcached(arguments=("-m", "17")) as server:
            answer = ask(server.address, b"stats settings\r\n")

        assert b"STAT maxbytes %d\r\n" % (17 << 20) in answer

    def test_a_bad_argument_is_told_in_the_servers_own_words(self) -> None:
        with pytest.raises(ServerError, match="no-such-option"):
            Memcached(arguments=("--no-such-option",))

    def test_two_servers_are_two(self) -> None:
        with Memcached() as one, Memcached() as other:
            ask(one.address, b"set key 0 0 1\r\n1\r\n")

            answer = ask(other.address, b"get key\r\n")

        assert one.port != other.port
        assert answer == b"END\r\n"

    def test_a_taken_port_leads_to_another_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = servers.free_port()
        with Memcached() as first:
            ports = iter([first.port, free])
            monkeypatch.setattr(servers, "free_port", lambda: next(ports))

            with Memcached() as second:
                assert second.port == free

    def test_stop_ends_the_process_and_removes_its_files(self) -> None:
        server = Memcached()
        pid, directory = server.pid, server.directory

        server.stop()
        server.stop()

        assert is_gone(pid)
        assert not directory.exists()
        assert not server.running

    def test_a_killed_server_refuses_connections(self) -> None:
        with Memcached() as server:
            server.kill()

            with pytest.raises(ConnectionRefusedError):
                connect(server.address)
            with pytest.raises(ServerError, match="not running"):
                server.pid

    def test_a_server_killed_by_others_can_be_started_again(self) -> None:
        with Memcached() as server:
            os.kill(server.pid, signal.SIGKILL)
            assert eventually(lambda: not server.running)

            server.start()

            assert ask(server.address, b"version\r\n").startswith(b"VERSION ")

    def test_a_restarted_server_is_empty_and_has_its_port(self) -> None:
        with Memcached() as server:
            address, pid = server.address, server.pid
            assert ask(address, b"set key 0 0 1\r\n1\r\n") == b"STORED\r\n"

            server.restart()

            assert server.address == address
            assert server.pid != pid
            assert ask(address, b"get key\r\n") == b"END\r\n"

    def test_a_paused_server_is_silent_and_keeps_its_memory(self) -> None:
        with Memcached() as server:
            ask(server.address, b"set key 0 0 1\r\n1\r\n")
            server.pause()
            with connect(server.address) as connection:
                connection.settimeout(0.2)
                connection.sendall(b"get key\r\n")
                with pytest.raises(socket.timeout):
                    connection.recv(100)

                server.resume()

                connection.settimeout(PATIENCE)
                assert connection.recv(100) == b"VALUE key 0 1\r\n1\r\nEND\r\n"

    def test_a_paused_server_can_be_stopped_and_killed(self) -> None:
        with Memcached() as server:
            server.pause()
            server.pause()
            server.kill()
            server.start()
            server.pause()

        assert not server.running

    def test_a_missing_program_names_its_package(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Memcached, "program", "memcached-of-nobody")
        monkeypatch.delenv(servers.SERVERS_VARIABLE, raising=False)

        with pytest.raises(ServerError, match="apt-get install memcached"):
            Memcached()


class TestExternalMemcached:
    @pytest.fixture
    def external(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Memcached]:
        with Memcached() as private:
            monkeypatch.setenv("HYDRACACHE_TEST_MEMCACHED", private.address)
            with Memcached.of_environment() as server:
                assert server.address == private.address
                assert server.port == private.port
                yield server
            assert private.running

    @pytest.mark.parametrize("action", ["kill", "restart", "pause", "resume"])
    def test_it_is_never_harmed(self, external: Memcached, action: str) -> None:
        with pytest.raises(ServerError, match=f"cannot {action} .* is not ours"):
            getattr(external, action)()

        assert ask(external.address, b"version\r\n").startswith(b"VERSION ")

    def test_one_that_does_not_answer_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nobody = f"127.0.0.1:{servers.free_port()}"
        monkeypatch.setenv("HYDRACACHE_TEST_MEMCACHED", nobody)

        with pytest.raises(ServerError, match=f"names {nobody}, which does not answer"):
            Memcached.of_environment()


class TestEndOfTheParent:
    """A server lives as long as the process that started it, and no longer."""

    def start_in_a_child(self, program: str) -> tuple[subprocess.Popen[str], int, Path]:
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        assert child.stdout is not None
        pid, directory = child.stdout.readline().split()
        return child, int(pid), Path(directory)

    START = (
        "import os, sys, threading\n"
        "from support.servers import Memcached\n"
        "server = Memcached()\n"
        "print(server.pid, server.directory, flush=True)\n"
    )

    def test_sigkill_of_the_parent_ends_the_server(self) -> None:
        child, pid, directory = self.start_in_a_child(self.START + "sys.stdin.read()")
        with child:
            assert not is_gone(pid)

            child.kill()

            assert eventually(lambda: is_gone(pid))
            assert eventually(lambda: not directory.exists())

    def test_a_paused_server_ends_too(self) -> None:
        child, pid, directory = self.start_in_a_child(
            self.START + "server.pause()\nprint(flush=True)\nsys.stdin.read()"
        )
        with child:
            assert child.stdout is not None and child.stdout.readline()

            child.kill()

            assert eventually(lambda: is_gone(pid))

    def test_a_parent_that_exits_without_stop_ends_the_server(self) -> None:
        child, pid, directory = self.start_in_a_child(self.START)

        with child:
            assert eventually(lambda: is_gone(pid))
            assert eventually(lambda: not directory.exists())

    def test_forked_children_do_not_keep_the_server_alive(self) -> None:
        child, pid, _ = self.start_in_a_child(
            self.START + "if os.fork():\n    os._exit(0)\nsys.stdin.read()"
        )
        with child:
            assert eventually(lambda: is_gone(pid))

    def test_a_forked_child_does_not_stop_the_server(self) -> None:
        with Memcached() as server:
            child = os.fork()
            if not child:
                server.stop()
                os._exit(0)
            os.waitpid(child, 0)

            answer = ask(server.address, b"version\r\n")

        assert answer.startswith(b"VERSION ")

    def test_the_server_outlives_the_thread_that_started_it(self) -> None:
        started: list[Memcached] = []
        thread = threading.Thread(target=lambda: started.append(Memcached()))
        thread.start()
        thread.join()

        with started[0] as server:
            # Longer than the supervisor takes to look at its parent again.
            time.sleep(servers.SUPERVISOR_LOOK * 2)

            assert ask(server.address, b"version\r\n").startswith(b"VERSION ")


class TestFaultyMemcached:
    @pytest.fixture
    def faulty(self) -> Iterator[FaultyMemcached]:
        with FaultyMemcached() as server:
            yield server

    @pytest.mark.parametrize(
        "request_, answer",
        [
            (b"get key\r\n", b"VALUE key 3 5\r\nvalue\r\nEND\r\n"),
            (b"gets key x\r\n", b"VALUE key 3 5 1\r\nvalue\r\nEND\r\n"),
            (b"get x\r\n", b"END\r\n"),
            (b"set x 0 0 2\r\n\r\n\r\n", b"STORED\r\n"),
            (b"set x 0 0 1 noreply\r\n1\r\nget x\r\n", b"VALUE x 0 1\r\n1\r\nEND\r\n"),
            (b"set x 0 -1 1\r\n1\r\nget x\r\n", b"STORED\r\nEND\r\n"),
            (b"add key 0 0 1\r\n1\r\n", b"NOT_STORED\r\n"),
            (b"add x 0 0 1\r\n1\r\n", b"STORED\r\n"),
            (b"delete key\r\n", b"DELETED\r\n"),
            (b"delete x\r\n", b"NOT_FOUND\r\n"),
            (b"nonsense\r\n", b"ERROR\r\n"),
        ],
    )
    def test_working_it_answers_like_a_real_one(
        self, faulty: FaultyMemcached, request_: bytes, answer: bytes
    ) -> None:
        with Memcached() as real:
            for server in (faulty, real):
                stored = ask(server.address, b"set key 3 0 5\r\nvalue\r\n")
                assert stored == b"STORED\r\n"

            answers = [ask(each.address, request_) for each in (faulty, real)]

        assert answers[0] == answer
        if not request_.startswith(b"gets"):  # the two count differently
            assert answers[1] == answer

    @pytest.mark.parametrize(
        "mode, answer",
        [
            (Mode.SERVER_ERROR, b"SERVER_ERROR out of memory\r\n"),
            (Mode.CLOSE_MID_REPLY, b"VALUE key 0 4"),
            (Mode.WRONG_KEY, b"VALUE other:key 0 4\r\n1234\r\nEND\r\n"),
            (Mode.TRUNCATED_VALUE, b"VALUE key 0 4\r\n12\r\nEND\r\n"),
            (Mode.SLOW, b"VALUE key 0 4\r\n1234\r\nEND\r\n"),
        ],
    )
    def test_a_mode_can_be_taken_at_run_time_and_left_again(
        self, faulty: FaultyMemcached, mode: Mode, answer: bytes
    ) -> None:
        faulty.delay = 0.01
        ask(faulty.address, b"set key 0 0 4\r\n1234\r\n")

        faulty.mode = mode
        broken = ask(faulty.address, b"get key\r\n")
        faulty.mode = Mode.WORKING
        whole = ask(faulty.address, b"get key\r\n")

        assert broken == answer
        assert whole == b"VALUE key 0 4\r\n1234\r\nEND\r\n"

    def test_garbage_is_no_reply(self, faulty: FaultyMemcached) -> None:
        faulty.mode = Mode.GARBAGE

        assert b"\r\n" not in ask(faulty.address, b"get key\r\n")

    def test_close_in_mid_reply_closes(self, faulty: FaultyMemcached) -> None:
        faulty.mode = Mode.CLOSE_MID_REPLY
        with connect(faulty.address) as connection:
            connection.sendall(b"set key 0 0 1\r\n1\r\n")

            assert connection.recv(100) == b"STOR"
            assert connection.recv(100) == b""
        assert "key" in faulty.items

    def test_hanging_it_sees_requests_and_changes_nothing(
        self, faulty: FaultyMemcached
    ) -> None:
        faulty.mode = Mode.HANG
        with connect(faulty.address) as connection:
            connection.sendall(b"set key 0 0 1\r\n1\r\n")
            assert faulty.wait_for_requests(1)

            connection.settimeout(0.1)
            with pytest.raises(socket.timeout):
                connection.recv(100)

        assert faulty.items == {}
        assert faulty.round_trips == 0

    def test_refusing_it_closes_and_comes_back_on_its_port(
        self, faulty: FaultyMemcached
    ) -> None:
        address = faulty.address
        with connect(address) as connection:
            connection.sendall(b"version\r\n")
            connection.recv(100)

            faulty.mode = Mode.REFUSE

            assert connection.recv(100) == b""
            with pytest.raises(ConnectionRefusedError):
                connect(address)

        faulty.mode = Mode.WORKING
        assert ask(address, b"version\r\n").startswith(b"VERSION ")

    def test_it_can_refuse_from_the_start(self) -> None:
        with FaultyMemcached(Mode.REFUSE) as faulty:
            with pytest.raises(ConnectionRefusedError):
                connect(faulty.address)

    def test_modes_for_once_are_taken_in_order(self, faulty: FaultyMemcached) -> None:
        faulty.once(Mode.WORKING, Mode.SERVER_ERROR)

        answers = [ask(faulty.address, b"get key\r\n") for _ in range(3)]

        assert answers == [b"END\r\n", b"SERVER_ERROR out of memory\r\n", b"END\r\n"]

    def test_a_restart_leaves_it_empty(self, faulty: FaultyMemcached) -> None:
        ask(faulty.address, b"set key 0 0 1\r\n1\r\n")

        faulty.restart()

        assert ask(faulty.address, b"get key\r\n") == b"END\r\n"

    def test_one_pipelined_write_is_one_round_trip(
        self, faulty: FaultyMemcached
    ) -> None:
        sets = b"".join(
            b"set key%d 0 0 500\r\n%s\r\n" % (number, b"x" * 500)
            for number in range(1000)
        )
        with connect(faulty.address) as connection:
            connection.sendall(sets + b"get ")
            connection.sendall(b"key7\r\n")
            answer = b""
            while not answer.endswith(b"END\r\n"):
                answer += connection.recv(65536)

        assert answer.startswith(b"STORED\r\n" * 1000 + b"VALUE key7 0 500\r\n")
        assert faulty.round_trips == 1
        assert faulty.connections == 1
        assert len(faulty.requests) == 1001
        assert faulty.requests[-1] == "get key7"

    def test_stop_ends_its_threads(self) -> None:
        before = set(threading.enumerate())
        faulty = FaultyMemcached(Mode.SLOW, delay=3600.0)
        with connect(faulty.address) as connection:
            connection.sendall(b"version\r\n")
            assert faulty.wait_for_requests(1)

            faulty.stop()
            faulty.stop()

        assert set(threading.enumerate()) == before

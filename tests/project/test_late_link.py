"""The link delivers late what a test holds, and keeps each connection's order."""

from __future__ import annotations

import contextlib
import socket
from typing import Iterator

import pytest

from support.late_link import PATIENCE, REPLIES, Link
from support.servers import Memcached


@pytest.fixture
def server() -> Iterator[Memcached]:
    with Memcached() as server:
        yield server


@pytest.fixture
def link(server: Memcached) -> Iterator[Link]:
    with Link(server.address, seed=1) as link:
        yield link


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.settimeout(PATIENCE)
    return connection


def ask(port: int, request: bytes) -> bytes:
    """The first bytes of the answer on a new connection; empty if it is closed."""
    with connect(port) as connection:
        try:
            connection.sendall(request)
            return connection.recv(65536)
        except ConnectionError:
            # Reset: closed before the request was read.
            return b""


def value(server: Memcached, key: bytes = b"k") -> bytes:
    return ask(server.port, b"get %b\r\n" % key)


def test_without_a_hold_it_is_a_way_to_the_server(link: Link) -> None:
    assert ask(link.port, b"set k 0 0 1\r\n1\r\n") == b"STORED\r\n"
    assert ask(link.port, b"get k\r\n") == b"VALUE k 0 1\r\n1\r\nEND\r\n"


def test_a_large_value_passes_both_ways(link: Link) -> None:
    large = b"." * 900_000
    with connect(link.port) as connection:
        connection.sendall(b"set k 0 0 %d\r\n%b\r\nget k\r\n" % (len(large), large))
        answer = b""
        while not answer.endswith(b"END\r\n"):
            answer += connection.recv(65536)

    assert large in answer


def test_what_a_client_sent_before_it_gave_up_acts_after_the_release(
    server: Memcached, link: Link
) -> None:
    with connect(link.port) as connection:
        connection.sendall(b"version\r\n")
        connection.recv(100)
        link.hold()
        connection.sendall(b"set k 0 0 1\r\n1\r\n")
        assert link.wait_until_held(b"set k")
    assert link.wait_until_given_up()
    ask(server.port, b"set k 0 0 1\r\n2\r\n")

    link.release()
    assert link.wait_until_delivered()

    assert b"\r\n1\r\n" in value(server)
    assert link.counts["late set"] == 1


def test_a_connection_that_is_made_during_a_hold_is_held_too(
    server: Memcached, link: Link
) -> None:
    link.hold()
    with connect(link.port) as connection:
        connection.sendall(b"set k 0 0 1\r\n1\r\n")
        assert link.wait_until_held(b"set k")
        assert value(server) == b"END\r\n"
        link.release()
        assert connection.recv(100) == b"STORED\r\n"


def test_each_connection_keeps_its_order_and_they_come_in_any(
    server: Memcached, link: Link
) -> None:
    """The last of its own each time; which connection is last differs."""
    last = set()
    for _ in range(20):
        connections = [connect(link.port) for _ in range(4)]
        link.hold()
        for number, connection in enumerate(connections):
            connection.sendall(b"set k 0 0 2\r\n%da\r\n" % number)
            connection.sendall(b"set k 0 0 2\r\n%db\r\n" % number)
            assert link.wait_until_held(b"%db" % number)
        link.release(spread=0.005)
        for connection in connections:
            answer = b""
            while answer != b"STORED\r\n" * 2:
                answer += connection.recv(100)
            connection.close()
        last.add(value(server))

    assert len(last) > 1
    assert all(b"b\r\n" in each for each in last)


def test_what_comes_after_a_release_overtakes_what_was_held(
    server: Memcached, link: Link
) -> None:
    with connect(link.port) as connection:
        link.hold()
        connection.sendall(b"set k 0 0 1\r\n1\r\n")
        assert link.wait_until_held(b"set k")
        link.release(spread=PATIENCE)
        assert ask(link.port, b"set k 0 0 1\r\n2\r\n") == b"STORED\r\n"
        assert b"\r\n2\r\n" in value(server)
        link.release()
        assert connection.recv(100) == b"STORED\r\n"

    assert b"\r\n1\r\n" in value(server)


def test_replies_can_be_held_while_requests_act(server: Memcached, link: Link) -> None:
    link.hold(REPLIES)
    with connect(link.port) as connection:
        connection.sendall(b"set k 0 0 1\r\n1\r\n")
        assert link.wait_until_held(b"STORED")
        assert b"\r\n1\r\n" in value(server)
        link.release()
        assert connection.recv(100) == b"STORED\r\n"


def test_a_hold_after_the_first_reply_begins_between_two_trips(
    server: Memcached, link: Link
) -> None:
    ask(server.port, b"set k 0 0 1\r\n1\r\n")
    link.hold_after_reply()
    with connect(link.port) as connection:
        connection.sendall(b"get k\r\n")
        assert connection.recv(100).endswith(b"END\r\n")
        assert not link.holds
        connection.sendall(b"gets k\r\n")
        found = connection.recv(100)
        assert link.holds
        cas = found.split(b"\r\n")[0].split()[-1]
        connection.sendall(b"cas k 0 0 1 %b\r\n2\r\n" % cas)
        assert link.wait_until_held(b"cas k")
    assert link.wait_until_given_up()
    assert b"\r\n1\r\n" in value(server)

    link.release()
    assert link.wait_until_delivered()

    assert b"\r\n2\r\n" in value(server)
    assert link.counts["late cas"] == 1
    assert link.counts["holds after the first reply"] == 1


def test_a_server_that_is_away_ends_the_connection(
    server: Memcached, link: Link
) -> None:
    server.kill()
    assert ask(link.port, b"version\r\n") == b""
    server.start()
    assert ask(link.port, b"version\r\n").startswith(b"VERSION")


def test_a_server_that_restarts_gets_nothing_of_what_was_sent_to_the_one_before(
    server: Memcached, link: Link
) -> None:
    with connect(link.port) as connection:
        link.hold()
        connection.sendall(b"set k 0 0 1\r\n1\r\n")
        assert link.wait_until_held(b"set k")
        server.restart()
        link.release()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""

    assert value(server) == b"END\r\n"

"""Server lists: what is understood, and that the rest is refused by name."""

from __future__ import annotations

import pytest

from hydracache_sync.errors import ConfigurationError
from hydracache_sync.memcached.server_list import parse_server, parse_servers


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("127.0.0.1:11211", "127.0.0.1:11211"),
        ("Cache-1.Example.com:1", "cache-1.example.com:1"),
        ("my_cache:65535", "my_cache:65535"),
        ("[::1]:11211", "[::1]:11211"),
        ("[0:0:0:0:0:0:0:1]:11211", "[::1]:11211"),
        ("[2001:DB8:0::0:10]:11211", "[2001:db8::10]:11211"),
        ("[::ffff:127.0.0.1]:11211", "[::ffff:127.0.0.1]:11211"),
        ("[::FFFF:7f00:1]:11211", "[::ffff:127.0.0.1]:11211"),
        ("127.0.0.1:00080", "127.0.0.1:80"),
        ("[FE80::1%eth0]:11211", "[fe80::1%eth0]:11211"),
        ("unix:/run/memcached.sock", "unix:/run/memcached.sock"),
        ("/run/memcached.sock", "unix:/run/memcached.sock"),
    ],
)
def test_a_server_is_named_the_same_in_each_spelling(entry: str, name: str) -> None:
    assert parse_server(entry).name == name


@pytest.mark.parametrize(
    "entry",
    ["", "localhost", "localhost:", ":11211", "localhost:port", "localhost:0"]
    + ["localhost:65536", "::1:11211", "[::1]", "[]:11211", "[zz]:11211", "a b:11211"]
    + ["host\n:11211", "host:11211\n", "http://host:11211", "unix:", "unix:relative"]
    + ["/with\0nul", "a..b:11211", "a" * 64 + ".b:11211", ".:1"]
    + [None, 11211, ("localhost", 11211), b"localhost:11211"],
)
def test_anything_else_is_refused_and_shown(entry: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_server(entry)

    assert repr(entry) in str(caught.value)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_server("memcached://user:hunter2@host:11211")

    assert "hunter2" not in str(caught.value)
    assert "host:11211" in str(caught.value)


def test_a_single_text_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(ConfigurationError, match="must be a list"):
        parse_servers("localhost:11211")


@pytest.mark.parametrize("entries", [[], ()])
def test_an_empty_list_is_refused(entries: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        parse_servers(entries)


def test_a_server_named_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        parse_servers(["Localhost:11211", "localhost:11211"])

"""The rows that own connections read, which are those that PyMySQL reads."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Iterator

import pymysql
import pytest
from mysql_databases import Database

from hydracache_sync.drivers.pymysql_own import connect
from hydracache_sync.drivers.pymysql_rows import plain_rows

#: Lengths around those from which a length takes more than one byte.
LENGTHS = [0, 1, 250, 251, 252, 65535, 65536, 200_000]

CONVERTERS = [("ascii", int), ("utf8", None), (None, None)]


@pytest.fixture
def own(database: Database) -> Iterator[Any]:
    connection = connect(
        time.monotonic() + 60.0,
        autocommit=True,
        connect_timeout=60.0,
        read_timeout=60.0,
        write_timeout=60.0,
        **database.options,
    )
    connection.until = None
    with contextlib.closing(connection):
        yield connection


@pytest.fixture
def plain(database: Database) -> Iterator[Any]:
    with contextlib.closing(pymysql.connect(**database.options)) as connection:
        yield connection


def read(connection: Any, statement: str) -> Any:
    with contextlib.closing(connection.cursor()) as cursor:
        count = cursor.execute(statement)
        return count, cursor.fetchall(), cursor.description


def filled(connection: Any) -> None:
    """Make rows of all lengths, of which 600 are more than a packet's number counts."""
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(
            "create table some (id int primary key, word longtext, data longblob,"
            " amount decimal(9, 2), day date) charset utf8mb4"
        )
        lengths = LENGTHS + [n % 7 for n in range(600)]
        for id, length in enumerate(lengths):
            data = None if length == 3 else b"\xff" * length
            values = (id, "\u00e4" * (length // 2), data, length / 4, "2026-11-29")
            cursor.execute("insert into some values (%s, %s, %s, %s, %s)", values)
    connection.commit()


class TestOnAServer:
    def test_rows_of_all_lengths_and_types_are_as_pymysql_reads_them(self, own, plain):
        filled(plain)
        for order in ("id", "id desc"):
            statement = f"select * from some order by {order}"
            assert read(own, statement) == read(plain, statement)

    def test_no_rows(self, own, plain):
        filled(plain)
        statement = "select * from some where id < 0"
        assert read(own, statement) == read(plain, statement)

    def test_an_error_after_some_rows_is_raised_and_the_next_answer_is_right(
        self, own, plain
    ):
        filled(plain)
        # Rows are sent as they are found: the hundredth has two values for one.
        failing = (
            "select a.id, (select b.id from some as b where b.id = a.id"
            " or (a.id = 100 and b.id < 3)) from some as a order by a.id"
        )
        with pytest.raises(pymysql.err.OperationalError) as error:
            read(own, failing)
        assert error.value.args[0] == 1242
        assert read(own, "select 17") == read(plain, "select 17")


def packet_of(number: int, *columns: bytes | None) -> bytes:
    body = b"".join(
        b"\xfb" if data is None else bytes((len(data),)) + data for data in columns
    )
    return len(body).to_bytes(3, "little") + bytes((number,)) + body


class TestTakingRows:
    def test_every_beginning_of_an_answer_gives_the_rows_that_are_there(self):
        packets = [
            packet_of(5, b"17", b"word", b"\xff"),
            packet_of(6, None, None, None),
            packet_of(7, b"18", b"", b""),
        ]
        rows = [(17, "word", b"\xff"), (None, None, None), (18, "", b"")]
        answer = b"old" + b"".join(packets)
        ends = [3, 3 + len(packets[0]), 3 + len(packets[0] + packets[1]), len(answer)]
        for length in range(3, len(answer) + 1):
            whole = sum(end <= length for end in ends) - 1
            taken = plain_rows(answer[:length], 3, 5, CONVERTERS)
            assert taken == (rows[:whole], ends[whole], 5 + whole)

    def test_numbers_of_packets_begin_again(self):
        answer = packet_of(255, b"1", b"", b"") + packet_of(0, b"2", b"", b"")
        rows, at, number = plain_rows(answer, 0, 255, CONVERTERS)
        assert [row[0] for row in rows] == [1, 2]
        assert (at, number) == (len(answer), 1)

    @pytest.mark.parametrize(
        "packet",
        [
            packet_of(2, b"1", b"", b""),  # out of turn
            packet_of(1, b"1", b""),  # a column is missing
            packet_of(1, b"1", b"", b"", b""),  # and one too many
            b"\x05\0\0\x01\xfe\0\0\0\0",  # the end
            b"\x0a\0\0\x01\xff\x15\x04#HY000no",  # an error
            b"\x04\0\0\x01\x01" b"1" b"\0\x05",  # longer than its packet
        ],
    )
    def test_what_is_not_plain_is_left(self, packet):
        first = packet_of(0, b"1", b"", b"")
        for more in (b"", bytes(8)):
            taken = plain_rows(first + packet + more, 0, 0, CONVERTERS)
            assert taken == ([(1, "", b"")], len(first), 1)

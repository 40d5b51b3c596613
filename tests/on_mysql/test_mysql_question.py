"""The look for due rows, which reads its answer without PyMySQL.

The answers, errors and ends that a server has are had from servers; what none of them
says is said by the other end of a socket.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterator

import pymysql
import pytest
from mysql_databases import Database

from hydracache_sync import MySQLOutbox, OutboxError, SchemaError
from hydracache_sync.drivers.pymysql_own import connect
from hydracache_sync.drivers.pymysql_poll import (
    UnexpectedReplyError,
    encode_query,
    poll,
    poll_again,
)
from hydracache_sync.outbox.lent_connections import keep_apart
from hydracache_sync.outbox.mysql import poll as mysql_poll
from outbox_contract.common import SHOP, batch_of

#: What a server says to a select of 17: how many columns, the column, their end, the
#: record, its end.
ANSWER = [
    b"\x01",
    b"\x03def" + bytes(20),
    b"\xfe" + bytes(4),
    b"\x0217",
    b"\xfe\0\0\0\0",
]


def connected(database: Database, read_timeout: float = 60.0) -> Any:
    """Connect as an outbox does."""
    return connect(
        time.monotonic() + 60.0,
        autocommit=True,
        connect_timeout=60.0,
        read_timeout=read_timeout,
        write_timeout=60.0,
        **database.options,
    )


@pytest.fixture
def connection(database: Database) -> Iterator[Any]:
    with contextlib.closing(connected(database)) as connection:
        connection.until = None
        yield connection


@pytest.fixture
def outbox(database: Database) -> Iterator[MySQLOutbox]:
    with contextlib.closing(database.outbox()) as outbox:
        outbox.install_schema()
        yield outbox


def packets_of(*bodies: bytes) -> bytes:
    return b"".join(
        struct.pack("<i", len(body))[:3] + bytes((place,)) + body
        for place, body in enumerate(bodies, 1)
    )


class Strange:
    """A connection whose other end says ``parts``, one send each, and closes."""

    def __init__(self, *parts: bytes) -> None:
        self._sock, self._other = socket.socketpair()
        self._sock.settimeout(60.0)
        self.hydracache_empty_reply: bytes | None = None
        self.asked_at: float | None = None
        self.closed = False
        self._thread = threading.Thread(target=self._say, args=(parts,))
        self._thread.start()

    def _say(self, parts: tuple[bytes, ...]) -> None:
        with self._other:
            self._other.recv(4096)
            for part in parts:
                self._other.sendall(part)

    def _write_bytes(self, data: bytes) -> None:
        self._sock.sendall(data)

    def receive(self) -> bytes:
        return self._sock.recv(1 << 16)

    def note_question(self, now: float) -> None:
        self.asked_at = now

    def _force_close(self) -> None:
        self.closed = True

    def end(self) -> None:
        self._sock.close()
        self._thread.join(60.0)


@pytest.fixture
def strange() -> Iterator[Callable[..., Any]]:
    made: list[Strange] = []

    def make(*parts: bytes) -> Strange:
        made.append(Strange(*parts))
        return made[-1]

    yield make
    for each in made:
        each.end()


class TestAsking:
    @pytest.mark.parametrize("texts", [["0"], ["", "a" * 250], ["b"] * 40])
    def test_the_texts_come_back(self, connection, texts):
        rows = " union all ".join(f"select '{text}' as t" for text in texts)

        assert poll(connection, encode_query(rows)) == [t.encode() for t in texts]

    def test_the_connection_is_as_it_was(self, connection):
        poll(connection, encode_query("select 1 as n"))

        with connection.cursor() as cursor:
            cursor.execute("select 17, 'text'")
            assert list(cursor.fetchall()) == [(17, "text")]
        assert poll(connection, encode_query("select 2 as n")) == [b"2"]

    def test_answers_that_are_known_by_their_bytes_are_told_from_others(
        self, connection
    ):
        answers = []
        for limit in (0, 0, 5, 0, 10, 1, 0):
            rows = f"select n from (select 1 as n union all select 2) t limit {limit}"
            answers.append(len(poll(connection, encode_query(rows))))
        with pytest.raises(pymysql.ProgrammingError):
            poll(connection, encode_query("select n from no_such_table"))
        answers.append(len(poll(connection, encode_query("select 0 as n limit 0"))))

        assert answers == [0, 0, 2, 0, 2, 1, 0, 0]

    def test_an_error_is_pymysqls_and_the_connection_stays(self, connection):
        with pytest.raises(pymysql.ProgrammingError) as caught:
            poll(connection, encode_query("select n from no_such_table"))

        assert caught.value.args[0] == 1146
        assert poll(connection, encode_query("select 3 as n")) == [b"3"]

    def test_an_error_in_place_of_the_record_is_raised_too(self, connection):
        # The column has been told when the server finds more than one row.
        with pytest.raises(pymysql.Error) as caught:
            poll(connection, encode_query("select (select 1 union select 2) as n"))

        assert caught.value.args[0] == 1242
        assert poll(connection, encode_query("select 3 as n")) == [b"3"]

    def test_a_connection_that_is_gone_says_so(self, database, connection):
        database.kill(connection.thread_id())

        with pytest.raises((pymysql.OperationalError, OSError)):
            poll(connection, encode_query("select 1 as n"))
        with pytest.raises(pymysql.InterfaceError):
            poll(connection, encode_query("select 1 as n"))

    def test_a_server_that_hangs_is_given_up(self, database):
        with contextlib.closing(connected(database, read_timeout=0.05)) as connection:
            with pytest.raises(OSError):
                poll(connection, encode_query("select sleep(60) as n"))

            assert not connection.open


class TestStrangeAnswers:
    def test_a_known_answer_with_more_behind_it_is_not_taken_for_it(self, strange):
        empty = [*ANSWER[:3], ANSWER[4]]
        connection = strange(packets_of(*empty, ANSWER[4]))
        connection.hydracache_empty_reply = packets_of(*empty)

        with pytest.raises(UnexpectedReplyError):
            poll(connection, b"?")
        assert connection.closed

    def test_an_answer_may_come_in_pieces(self, strange):
        whole = packets_of(*ANSWER)
        connection = strange(*(whole[n : n + 1] for n in range(len(whole))))

        assert poll(connection, b"?") == [b"17"]
        assert not connection.closed

    def test_asked_again_an_answer_may_come_in_pieces(self, strange):
        whole = packets_of(*ANSWER)
        connection = strange(*(whole[n : n + 1] for n in range(len(whole))))

        assert poll_again(connection, b"?", 5.0) == [b"17"]
        assert connection.asked_at == 5.0  # the limit of time for all of it
        assert not connection.closed

    def test_asked_again_an_end_is_a_lost_connection(self, strange):
        connection = strange()

        with pytest.raises(pymysql.OperationalError) as caught:
            poll_again(connection, b"?", 5.0)

        assert caught.value.args[0] == 2013
        assert connection.closed

    @pytest.mark.parametrize(
        "bodies",
        [
            pytest.param([b"\x02", *ANSWER[1:]], id="two columns"),
            pytest.param([*ANSWER[:3], b"\xfb", ANSWER[4]], id="null"),
            pytest.param([*ANSWER[:3], b"\x0217\x011", ANSWER[4]], id="two fields"),
            pytest.param([*ANSWER[:2], *ANSWER[3:]], id="columns without end"),
            pytest.param(
                [*ANSWER[:3], b"\xfc\xfb\0" + bytes(251), ANSWER[4]], id="long"
            ),
            pytest.param([*ANSWER, ANSWER[4]], id="one packet more"),
            pytest.param([ANSWER[0], bytes(5000)], id="too long"),
        ],
    )
    def test_what_is_not_one_short_text_is_refused(self, strange, bodies):
        connection = strange(packets_of(*bodies))

        with pytest.raises(UnexpectedReplyError):
            poll(connection, b"?")

        assert connection.closed

    def test_garbage_is_refused(self, strange):
        chance = random.Random(7)
        for _ in range(300):
            bodies = [
                bytes(chance.choices([0, 1, 2, 48, 0xFB, 0xFE, 0xFF, 0x15], k=size))
                for size in chance.choices([0, 1, 2, 3, 9], k=chance.randint(1, 5))
            ]
            connection = strange(packets_of(*bodies))

            with contextlib.suppress(UnexpectedReplyError, pymysql.Error):
                assert all(isinstance(text, bytes) for text in poll(connection, b"?"))

    def test_packets_out_of_turn_are_refused(self, strange):
        connection = strange(packets_of(*ANSWER)[len(packets_of(ANSWER[0])) :])

        with pytest.raises(UnexpectedReplyError):
            poll(connection, b"?")

        assert connection.closed

    def test_an_end_in_the_middle_is_a_lost_connection(self, strange):
        connection = strange(packets_of(*ANSWER)[:-1])

        with pytest.raises(pymysql.OperationalError) as caught:
            poll(connection, b"?")

        assert caught.value.args[0] == 2013
        assert connection.closed


class TestLook:
    def test_it_finds_what_is_due(self, outbox):
        names = [f"shop{n}" for n in range(60)]
        assert outbox.due_namespaces(names) == []
        for n in (0, 31, 59):
            outbox.enqueue(f"shop{n}", batch_of("a"))

        assert outbox.due_namespaces(names) == ["shop0", "shop31", "shop59"]
        assert outbox.due_namespaces(names[::-1]) == ["shop59", "shop31", "shop0"]

    def test_many_rows_of_one_do_not_hide_those_of_another(self, outbox):
        names = ["first", "second", "third"]
        assert outbox.due_namespaces(names) == []
        outbox.enqueue("first", batch_of(*map(str, range(mysql_poll.MAX_ROWS))))
        outbox.enqueue("third", batch_of("a"))

        assert outbox.due_namespaces(names) == ["first", "third"]

    def test_an_index_of_another_name_will_do(self, database, outbox):
        columns = "(namespace, state, at_ms, created_at_ms)"
        database.sql(
            "alter table hydracache_outbox drop index hydracache_outbox_state,"
            f" add index renamed {columns}"
        )
        for _ in range(3):
            assert outbox.due_namespaces(["other", SHOP]) == []
        # The question of its own has the answer, not the usual one in its place.
        [packet] = outbox._poll.queries.values()
        with outbox._sessions.lend() as connection:
            assert poll(connection, packet) == []
            outbox.enqueue(SHOP, batch_of("a"))
            assert poll(connection, packet) == [b"0" + SHOP.encode()]

        assert outbox.due_namespaces(["other", SHOP]) == [SHOP]

    def test_a_pause_is_seen(self, outbox):
        names = ["paused", SHOP]
        assert outbox.due_namespaces(names) == []
        for name in names:
            outbox.enqueue(name, batch_of("a"))

        outbox.pause("paused")

        assert outbox.due_namespaces(names) == [SHOP]

    def test_a_connection_that_was_lost_is_replaced(self, database, outbox):
        assert outbox.due_namespaces([SHOP]) == []
        outbox.enqueue(SHOP, batch_of("a"))
        [(id,)] = database.sql(
            "select id from information_schema.processlist where command = 'Sleep'"
            f" and db = '{database.name}' order by id desc limit 1"
        )
        database.kill(id)

        assert outbox.due_namespaces([SHOP]) == [SHOP]

    def test_a_server_that_is_not_understood_is_asked_in_the_usual_way(
        self, outbox, monkeypatch
    ):
        def misunderstand(connection: Any, packet: bytes) -> list[bytes]:
            connection._force_close()
            raise UnexpectedReplyError("of another protocol")

        assert outbox.due_namespaces(["other", SHOP]) == []
        outbox.enqueue(SHOP, batch_of("a"))
        monkeypatch.setattr(mysql_poll, "poll", misunderstand)

        assert outbox.due_namespaces(["other", SHOP]) == [SHOP]

    def test_an_error_is_an_outbox_error(self, database, outbox):
        assert outbox.due_namespaces([SHOP]) == []
        database.sql("drop table hydracache_outbox")

        with pytest.raises(SchemaError):
            outbox.due_namespaces([SHOP])

    def test_inside_a_block_it_is_refused(self, outbox):
        assert outbox.due_namespaces([SHOP]) == []

        with outbox.transaction():
            with pytest.raises(OutboxError, match="inside a transaction"):
                outbox.due_namespaces([SHOP])


class Asking:
    """Asks as a pool does: for little, while it has found nothing."""

    def __init__(self, outbox: MySQLOutbox, thread: ThreadPoolExecutor) -> None:
        self.outbox = outbox
        self.look: Any = None
        self._thread = thread

    def __call__(self) -> list[str]:
        return self._thread.submit(self.ask).result(60.0)

    def ask(self) -> list[str]:
        if self.look is not None:
            now = time.monotonic()
            if now < self.look.until and self.look.is_quiet(now):
                return []
        due = self.outbox.due_namespaces([SHOP])
        self.look = None if due else self.outbox.quiet_look([SHOP])
        return due


class TestAThreadThatCarriesRows:
    """It asks on the connection that it had a moment ago, without checks."""

    @pytest.fixture
    def asking(self, outbox: MySQLOutbox) -> Iterator[Asking]:
        """Asks in such a thread, which has asked before."""
        with ThreadPoolExecutor(1, initializer=keep_apart) as thread:
            asking = Asking(outbox, thread)
            for _ in range(3):
                assert asking() == []
            yield asking

    @pytest.fixture
    def asked_on(self, asking: Asking, outbox: MySQLOutbox) -> Any:
        """The thread's connection, which needs no check for a while."""
        asking.look = asking.look._replace(until=asking.look.until + 60.0)
        return outbox._poll._checked.connection

    def test_it_keeps_its_connection(self, asking, asked_on):
        used_at = asked_on.used_at

        assert asking() == []

        assert asked_on.open
        assert asked_on.used_at == used_at  # lent as usual, it would be now

    def test_it_sees_what_was_committed_since(self, asking, asked_on, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        assert asking() == [SHOP]

    def test_what_it_has_found_for_little_is_not_asked_for_again(
        self, asking, asked_on, outbox, monkeypatch
    ):
        def ask(*args: Any) -> None:
            raise AssertionError("it was asked again")

        outbox.enqueue(SHOP, batch_of("a"))
        monkeypatch.setattr(mysql_poll, "poll", ask)
        monkeypatch.setattr(outbox._poll._usual, "due", ask)

        assert asking() == [SHOP]

    def test_an_error_for_little_is_told_by_the_usual_way(
        self, asking, asked_on, database
    ):
        database.sql("drop table hydracache_outbox")

        with pytest.raises(SchemaError):
            asking()

    def test_another_thread_does_not_ask_on_it(self, asking, asked_on):
        used_at = asked_on.used_at

        assert not asking.look.is_quiet(time.monotonic())

        assert asked_on.used_at == used_at

    def test_where_the_server_has_ended_it_another_answers(
        self, asking, asked_on, outbox, database
    ):
        outbox.enqueue(SHOP, batch_of("a"))
        database.sql(f"kill {asked_on.thread_id()}")

        assert asking() == [SHOP]
        assert asking() == [SHOP]
        assert not asked_on.open

    def test_closed_with_the_outbox_another_answers(self, asking, asked_on, outbox):
        outbox.close()

        assert asking() == []
        assert not asked_on.open

    def test_in_a_while_it_is_checked(self, asking, outbox):
        checked = outbox._poll._checked
        checked.connection.ends_at = time.monotonic()
        assert asking.look.until <= time.monotonic() + mysql_poll.CHECK_EVERY
        asking.look = asking.look._replace(until=time.monotonic())

        assert asking() == []

        assert not checked.connection.open


class TestManyQuestions:
    def test_those_who_ask_for_others_each_time_are_answered(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        for n in range(3 * mysql_poll.MAX_QUERIES):
            assert outbox.due_namespaces([f"other{n}", SHOP]) == [SHOP]

        assert len(outbox._poll.queries) <= mysql_poll.MAX_QUERIES

"""The reply parser: any cut gives the same answer, anything else is refused."""

from __future__ import annotations

import time
from typing import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pymemcache.client.base import Client

from hydracache_sync import MemcachedStore
from hydracache_sync.memcached.replies import (
    MAX_LINE,
    BrokenReply,
    Replies,
    Unanswered,
)
from support.servers import Memcached

keys = st.from_regex(rb"[!-~]{1,20}", fullmatch=True)
contents = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"\r\n", b"END\r\n", b"\r\nEND\r\n", b"VALUE a 0 1\r\nx\r\n", b"\r"]
    ),
    # Longer than the answers that are compared whole.
    st.sampled_from([b"\r\n" * 2500, bytes(5000)]),
)
found = st.dictionaries(keys, st.one_of(st.none(), contents), min_size=1, max_size=6)
cuts = st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=10)


def reply(items: dict[bytes, bytes | None], flags: bytes = b"0") -> bytes:
    blocks = [
        b"VALUE %b %b %d\r\n%b\r\n" % (key, flags, len(value), value)
        for key, value in items.items()
        if value is not None
    ]
    return b"".join(blocks) + b"END\r\n"


def stream(*pieces: bytes) -> Callable[[int], bytes]:
    """A ``recv`` that gives these pieces, then the end of the stream."""
    left = [piece for piece in pieces if piece]
    return lambda size: left.pop(0) if left else b""


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    turn = 0
    while data:
        size = sizes[turn % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
        turn += 1
    return pieces


@given(found, cuts)
@example({b"k": b"\r\n"}, [1])
@example({b"k": b""}, [1])
def test_every_cut_of_an_answer_reads_the_same(
    items: dict[bytes, bytes | None], sizes: list[int]
) -> None:
    data = reply(items)

    in_pieces = Replies(stream(*cut(data, sizes))).values(list(items))
    in_one = Replies(stream(data)).values(list(items))

    assert in_pieces == in_one == list(items.values())


@given(found, st.data())
def test_an_answer_cut_off_anywhere_is_refused(
    items: dict[bytes, bytes | None], data: st.DataObject
) -> None:
    whole = reply(items)
    length = data.draw(st.integers(min_value=0, max_value=len(whole) - 1))

    with pytest.raises(ConnectionError):
        Replies(stream(whole[:length])).values(list(items))


@given(found, st.binary(min_size=1, max_size=20))
def test_bytes_after_the_end_are_refused(
    items: dict[bytes, bytes | None], more: bytes
) -> None:
    with pytest.raises(BrokenReply):
        Replies(stream(reply(items) + more)).values(list(items))


@given(found, st.data())
def test_an_answer_with_one_byte_changed_is_refused_or_changes_only_values(
    items: dict[bytes, bytes | None], data: st.DataObject
) -> None:
    whole = bytearray(reply(items))
    at = data.draw(st.integers(min_value=0, max_value=len(whole) - 1))
    whole[at] ^= data.draw(st.integers(min_value=1, max_value=255))

    try:
        values = Replies(stream(bytes(whole))).values(list(items))
    except ConnectionError:
        return

    # A key may have become another one that has the same value. Then it is missing.
    for value, sent in zip(values, items.values()):
        assert value is None or (sent is not None and len(value) == len(sent))


@given(found, st.binary(max_size=200))
def test_garbage_never_ends_in_anything_but_an_answer_or_a_refusal(
    items: dict[bytes, bytes | None], garbage: bytes
) -> None:
    try:
        values = Replies(stream(garbage)).values(list(items))
    except ConnectionError:
        return

    assert garbage.endswith(b"END\r\n")
    assert len(values) == len(items)


@pytest.mark.parametrize(
    "data",
    [
        reply({b"other": b"x"}),
        reply({b"k": b"x", b"other": b"y"}),
        reply({b"k" * 2: b"x"}),
        b"VALUE k 0 1 5\r\nx\r\nEND\r\n",
        b"VALUE k 0\r\nx\r\nEND\r\n",
        b"VALUE  k 0 1\r\nx\r\nEND\r\n",
        b"VALUE k 0 -1\r\nx\r\nEND\r\n",
        b"VALUE k 0 +1\r\nx\r\nEND\r\n",
        b"VALUE k 0 1_0\r\n0123456789\r\nEND\r\n",
        b"VALUE k zero 1\r\nx\r\nEND\r\n",
        b"VALUE k 0 2\r\nx\r\nEND\r\n",
        b"VALUE k 0 1\r\nxy\r\nEND\r\n",
        b"VALUE k 0 1\r\nxyzEND\r\n",
        b"VALUE k 0 1\r\nx\r\nVALUE \r\n",
        b"VALUE k 0 99999999999\r\nx\r\nEND\r\n",
        b"VALUE k 0 9999999999\r\nx\r\nEND\r\n",
        b"STORED\r\nEND\r\n",
        b"END \r\n",
        b"END\n\r\n",
        b"\r\n",
        b"ERROR\r\n",
        b"SERVER_ERROR out of memory\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
@pytest.mark.parametrize("one_by_one", [False, True])
def test_what_memcached_would_not_answer_is_refused(
    data: bytes, one_by_one: bool
) -> None:
    pieces = cut(data, [1]) if one_by_one else [data]

    with pytest.raises(ConnectionError):
        Replies(stream(*pieces)).values([b"k"])


def test_values_stored_by_others_with_flags_are_read() -> None:
    assert Replies(stream(reply({b"k": b"x"}, flags=b"5"))).values([b"k"]) == [b"x"]


def test_a_key_asked_for_twice_is_answered_twice() -> None:
    data = b"VALUE k 0 1\r\nx\r\n" * 2 + b"END\r\n"

    assert Replies(stream(data)).values([b"k", b"k"]) == [b"x", b"x"]
    assert Replies(stream(*cut(data, [3]))).values([b"k", b"k"]) == [b"x", b"x"]


@given(st.lists(st.from_regex(rb"[A-Z_ ]{1,20}", fullmatch=True), min_size=1), cuts)
def test_lines_are_read_one_by_one_however_cut(
    lines: list[bytes], sizes: list[int]
) -> None:
    data = b"".join(line + b"\r\n" for line in lines)
    replies = Replies(stream(*cut(data, sizes)))

    assert [replies.line() for _ in lines] == lines
    replies.finish()


@given(st.lists(st.sampled_from([b"STORED", b"STORED2", b"X"]), min_size=1), cuts)
@example([b"STORED"] * 100, [33])
def test_alike_lines_are_skipped_and_never_one_too_many(
    lines: list[bytes], sizes: list[int]
) -> None:
    data = b"".join(line + b"\r\n" for line in lines)
    replies = Replies(stream(*cut(data, sizes)))

    read: list[bytes] = []
    while len(read) < len(lines):
        alike = replies.skip(b"STORED", len(lines) - len(read))
        read += [b"STORED"] * alike or [replies.line()]

    assert read == lines
    replies.finish()


def test_lines_and_values_of_one_round_trip_are_read_in_turn() -> None:
    data = b"STORED\r\nNOT_STORED\r\n" + reply({b"a": b"1", b"b": b"2"})
    for size in (1, 7, 1000):
        replies = Replies(stream(*cut(data, [size])))

        assert [replies.line(), replies.line()] == [b"STORED", b"NOT_STORED"]
        assert replies.values([b"a", b"b"]) == [b"1", b"2"]


def test_a_line_without_an_end_is_not_collected_for_ever() -> None:
    with pytest.raises(BrokenReply):
        Replies(lambda size: b"x" * 1000).line()
    with pytest.raises(BrokenReply):
        Replies(lambda size: b"x" * (MAX_LINE + 1)).values([b"k"])


def test_one_answer_too_many_is_refused() -> None:
    replies = Replies(stream(b"STORED\r\nSTORED\r\n"))
    replies.line()

    with pytest.raises(BrokenReply):
        replies.finish()


def test_an_end_before_the_first_byte_is_told_from_one_in_the_middle() -> None:
    with pytest.raises(Unanswered):
        Replies(stream()).values([b"k"])
    with pytest.raises(ConnectionResetError):
        Replies(stream(b"VALUE k 0 5\r\nab")).values([b"k"])


def test_a_server_that_drips_is_left_at_the_deadline() -> None:
    replies = Replies(lambda size: b"x")
    replies.deadline = time.monotonic() - 1

    with pytest.raises(TimeoutError):
        replies.values([b"k"])
    with pytest.raises(TimeoutError):
        replies.line()


def test_a_value_is_not_in_the_error() -> None:
    data = b"VALUE k 0 3\r\nsecret\r\nEND\r\n"

    with pytest.raises(BrokenReply) as caught:
        Replies(stream(data)).values([b"k"])

    assert "secret" not in str(caught.value)


class Recorded:
    """A socket module whose sockets say what they are told, in pieces."""

    timeout = TimeoutError

    def __init__(self, pieces: list[bytes]) -> None:
        self._receive = stream(*pieces)

    def socket(self, *arguments: object) -> Recorded:
        return self

    def getaddrinfo(self, *arguments: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("127.0.0.1", 1))]

    def recv(self, size: int) -> bytes:
        return self._receive(size)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **named: None


@given(found, cuts)
def test_an_answer_is_read_as_pymemcache_reads_it(
    items: dict[bytes, bytes | None], sizes: list[int]
) -> None:
    pieces = cut(reply(items), sizes)
    client = Client(("127.0.0.1", 1), socket_module=Recorded(pieces))

    theirs = client.get_many(list(items))

    assert Replies(stream(*pieces)).values(list(items)) == [
        theirs.get(key) for key in items
    ]


def test_a_real_servers_answers_are_read_as_pymemcache_reads_them(
    memcached: Memcached, unique: str
) -> None:
    store = MemcachedStore([memcached.address], timeout=10, connect_timeout=10)
    client = Client(memcached.address, default_noreply=False)
    prefix = unique.encode()
    values = [b"", b"\r\n", b"END\r\n", b"\x00\xff" * 40, bytes(70_000), b"VALUE a 0 1"]
    keys = [b"%b:%d" % (prefix, number) for number in range(len(values) + 2)]
    for key, value in zip(keys, values):
        assert client.set(key, value)

    ours = store.get_many([(key, key) for key in keys])

    theirs = client.get_many(keys)
    client.close()
    assert ours == [theirs.get(key) for key in keys] == values + [None, None]


tokens = st.one_of(
    st.binary(min_size=17, max_size=17),
    st.sampled_from(
        [
            b"\r\n".ljust(17),
            b"END\r\n".rjust(17),
            b"\r\nEND\r\n0123456789",
            b"short",
            b"",
        ]
    ),
)
versioned = st.dictionaries(
    keys,
    st.one_of(st.none(), st.tuples(tokens, st.integers(1, 2**64 - 1))),
    min_size=1,
    max_size=6,
)


@given(items=versioned, sizes=cuts)
def test_values_with_versions_are_read_however_they_come(
    items: dict[bytes, tuple[bytes, int] | None], sizes: list[int]
) -> None:
    answer = b"".join(
        b"VALUE %b 0 %d %d\r\n%b\r\n" % (key, len(item[0]), item[1], item[0])
        for key, item in items.items()
        if item is not None
    )
    wanted = [item or (None, None) for item in items.values()]

    for pieces in [answer + b"END\r\nSTORED\r\n"], cut(answer + b"END\r\n", sizes):
        replies = Replies(stream(*pieces))
        values, uniques = replies.versions(list(items))

        assert list(values) == [value for value, _ in wanted]
        assert list(uniques) == [
            b"" if version is None else b"%d" % version for _, version in wanted
        ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"VALUE a 0 17", b"1 VALUE b 0 17 2"),
        (b"VALUE a 0 17 1 VALUE", b"b 0 17 2"),
        (b"VALUE a 0 17 1", b"VALUE c 0 17 2"),
        (b"VALUE a 0 17 1", b"VALUES b 0 17 2"),
        (b"VALUE a 0 17 1", b"VALUE b 0 16 2"),
        (b"VALUE a 0 17 1", b"VALUE b 0 17 -2"),
        (b"VALUE a 0 17 1", b"VALUE b 0 17 2 3"),
        (b"VALUE a 0 17 1", b"VALUE b\n\r\n2"),
        (b"VALUE a 0 17 1 0 17 VALUE b", b"2"),
    ],
)
def test_versions_of_tokens_with_a_wrong_head_are_refused(
    first: bytes, second: bytes
) -> None:
    token = bytes(17)
    answer = b"%b\r\n%b\r\n%b\r\n%b\r\nEND\r\n" % (first, token, second, token)

    with pytest.raises(BrokenReply):
        Replies(stream(answer)).versions([b"a", b"b"])


@pytest.mark.parametrize("part", [b" 0 17 ", b"\r\n", b"END\r\n", b"\n"])
@pytest.mark.parametrize("at", [0, 5, -1])
def test_a_token_is_any_bytes(part: bytes, at: int) -> None:
    token = (bytes(17 - len(part)) + part) if at < 0 else bytes(at) + part
    token += bytes(17 - len(token))
    answer = b"VALUE a 0 17 1\r\n%b\r\nVALUE b 0 17 2\r\n%b\r\nEND\r\n"

    replies = Replies(stream(answer % (token, bytes(17))))

    found = replies.versions([b"a", b"b"])
    assert tuple(map(list, found)) == ([token, bytes(17)], [b"1", b"2"])

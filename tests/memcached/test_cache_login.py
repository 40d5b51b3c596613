"""MemcachedStore on a memcached that wants a login (its option ``-Y``)."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, Iterator

import pytest

from hydracache_sync import (
    ApplyUnavailable,
    ConfigurationError,
    InvalidationIntent,
    MemcachedApplier,
    MemcachedStore,
    TaggedCache,
)
from hydracache_sync.cache import Keyspace
from support.faulty_memcached import FaultyMemcached, Mode
from support.memcached_with_login import MemcachedWithLogin
from support.servers import Memcached

SPACE = Keyspace("1", "store")
ONE = SPACE.entry("one")

#: A line is 254 bytes long at most, its colon included.
LONGEST = "p" * (253 - len("long"))

LOGINS = [
    ("shop", "secret"),
    ("colon", "a:b"),
    ("umlaut", "p\u00e4ssw\u00f6rd"),
    ("tab", "a\tb"),
    ("long", LONGEST),
    ("last", "secret"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemcachedWithLogin]:
    lines = [":".join(login) for login in LOGINS]
    with MemcachedWithLogin(tmp_path_factory.mktemp("logins"), *lines) as server:
        yield server


def store_on(server: Memcached, auth: Any = ("shop", "secret")) -> MemcachedStore:
    return MemcachedStore(
        [server.address], auth=auth, retry_after=0, timeout=10, connect_timeout=10
    )


@pytest.mark.parametrize("auth", LOGINS, ids=[user for user, _ in LOGINS])
def test_a_login_of_the_file_reads_and_writes(
    server: MemcachedWithLogin, auth: tuple[str, str]
) -> None:
    with store_on(server, auth) as store:
        assert store.set_many([(ONE, auth[0].encode(), None)]) == {}
        assert store.get_many([ONE]) == [auth[0].encode()]


def test_a_cache_and_its_applier_log_in(
    server: MemcachedWithLogin, unique: str
) -> None:
    with store_on(server) as store:
        cache = TaggedCache(store, unique)
        cache.get_or_load("one", lambda: "old", tags=["all"])
        assert cache.get("one", tags=["all"]) == "old"

        MemcachedApplier(store, unique).apply_invalidation(
            InvalidationIntent.tag("all")
        )

        assert cache.get("one", tags=["all"]) is None


def test_every_new_connection_logs_in_anew(tmp_path: Path) -> None:
    with MemcachedWithLogin(tmp_path, "shop:secret") as server:
        with store_on(server) as store:
            store.set_many([(ONE, b"old", None)])
            server.restart()
            assert store.get_many([ONE]) == [None]
            server.restart()
            assert store.set_many([(ONE, b"new", None)]) == {}


def test_over_a_unix_socket(tmp_path: Path) -> None:
    with MemcachedWithLogin(tmp_path, "shop:secret", unix_socket=True) as server:
        with store_on(server) as store:
            assert store.set_many([(ONE, b"one", None)]) == {}
            assert store.get_many([ONE]) == [b"one"]
        with store_on(server, None) as store:
            with pytest.raises(ApplyUnavailable, match="needs a login"):
                store.get_many([ONE])
            [failure] = store.set_many([(ONE, b"one", None)]).values()

    assert "needs a login" in str(failure)
    assert isinstance(failure, ApplyUnavailable) and failure.answered


@pytest.mark.parametrize(
    "auth", [None, ("shop", "Secret"), ("nobody", "secret")], ids=["no", "pw", "user"]
)
def test_a_server_that_refuses_says_what_it_needs_and_counts_as_away(
    server: MemcachedWithLogin, auth: tuple[str, str] | None
) -> None:
    with store_on(server, auth) as store:
        with pytest.raises(ApplyUnavailable) as read:
            store.get_many([ONE])
        [written] = store.set_many([(ONE, b"one", None)]).values()
        [replaced] = store.replace_many(
            store.copies([ONE]), [b"p"], lambda *given: [b"x"]
        )

    for error in (read.value, written, replaced):
        assert isinstance(error, ApplyUnavailable) and error.answered
        assert "needs a login of its file (its option -Y)" in str(error)
        assert "HYDRACACHE_MEMCACHED_USER and HYDRACACHE_MEMCACHED_PASSWORD" in str(
            error
        )
        assert "ecret" not in "".join(
            traceback.format_exception_only(type(error), error)
        )


def test_a_server_without_logins_keeps_no_trace_of_the_password(
    memcached: Memcached,
) -> None:
    with store_on(memcached) as store:
        assert store.set_many([(ONE, b"one", None)]) == {}
        assert store.get_many([(None, b"hc1::login")]) == [None]


def test_a_server_that_is_silent_at_the_login_holds_up_for_the_timeout_only() -> None:
    with FaultyMemcached() as node:
        node.mode = Mode.HANG
        store = MemcachedStore(
            [node.address], auth=("shop", "secret"), timeout=0.05, retry_after=0
        )

        with pytest.raises(ApplyUnavailable, match="no answer in time"):
            store.get_many([ONE])


@pytest.mark.parametrize(
    "auth, complaint",
    [
        (("shop", "two words"), "the password of 9 characters has a blank"),
        (("shop", "line\nline"), "the password of 9 characters has a line's end"),
        (("shop", "line\r"), "the password of 5 characters has a line's end"),
        (("shop", "nul\0"), "the password of 4 characters has a NUL"),
        (("shop", "\udcff"), "the password of 1 characters is not text in UTF-8"),
        (("shop", ""), "the password is empty"),
        (("shop", "p" * 253), "the password has 253 bytes of UTF-8, over"),
        (("long", LONGEST + "p"), "user and password have 254 bytes of UTF-8 toget"),
        (("sh:op", "secret"), "the user of 5 characters has a colon"),
        (("sh op", "secret"), "the user of 5 characters has a blank"),
        (("", "secret"), "the user is empty"),
        (("shop", b"secret"), "the password must be text, not bytes"),
        (("shop", None), "the password must be text, not NoneType"),
        ("shop:secret", "auth must be a pair of user and password"),
        (("shop", "secret", "more"), "auth must be a pair of user and password"),
    ],
    ids=lambda value: value[:40] if " " in value else "",
)
def test_what_cannot_be_sent_is_refused_by_its_name_and_not_shown(
    auth: Any, complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        MemcachedStore(["127.0.0.1:1"], auth=auth)

    assert complaint in str(refused.value)
    shown = "".join(traceback.format_exception_only(refused.type, refused.value))
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None or refused.value.__suppress_context__
    for word in ("secret", "words", "line\n", "pppp"):
        assert word not in shown

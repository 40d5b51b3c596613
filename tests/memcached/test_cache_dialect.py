"""What is said to memcached is what proxies know, and what it answers is told."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import (
    ApplyUnavailable,
    InvalidationIntent,
    MemcachedApplier,
    MemcachedStore,
    TaggedCache,
)
from hydracache_sync.cli.cache_checks import examine_nodes
from hydracache_sync.cli.findings import Level
from support.memcached_forwarder import Forwarder
from support.memcached_with_login import MemcachedWithLogin
from support.servers import Memcached

#: The commands that docs/operations/nodes.md says a proxy must know.
COMMANDS = {b"get", b"gets", b"set", b"add", b"cas", b"delete"}

#: A command that stores, with its key, flags, expiry and length.
STORAGE = re.compile(rb"(set|add|cas) (\S+) (\S+) (\S+) (\S+)( \S+)?")

#: As twemproxy does with what it does not know.
NO_STATS = (b"stats",)
NO_QUESTIONS = (b"stats", b"version")


@pytest.fixture
def with_login(tmp_path: Path) -> Iterator[MemcachedWithLogin]:
    with MemcachedWithLogin(tmp_path, "user:password") as server:
        yield server


@pytest.fixture(params=[NO_STATS, NO_QUESTIONS], ids=["no stats", "no version"])
def proxy(request: pytest.FixtureRequest, memcached: Memcached) -> Iterator[Forwarder]:
    with Forwarder([memcached.port], request.param) as forwarder:
        yield forwarder


def test_only_common_commands_and_expiries_are_sent(
    memcached: Memcached, unique: str
) -> None:
    with Forwarder([memcached.port]) as forwarder:
        store = MemcachedStore([forwarder.address])
        cache = TaggedCache(store, unique)
        applier = MemcachedApplier(store, unique)
        for ttl in (0, 60, 90 * 24 * 3600):
            cache.get_or_load("k", lambda: "value", tags=["t"], ttl=ttl)
            applier.apply_invalidation(InvalidationIntent.tag("t"))
        with pytest.raises(LookupError):
            # Its lock is given back alone.
            cache.get_or_load("k", failing, tags=["t"])
        cache.delete("k")
        store.close()
        lines = list(forwarder.lines)

    verbs = {line.partition(b" ")[0] for line in lines if re.match(rb"[a-z]+ ", line)}
    stored = [found for found in map(STORAGE.fullmatch, lines) if found]
    assert verbs <= COMMANDS and {b"get", b"add", b"set", b"delete"} <= verbs
    assert len(stored) >= 10
    assert all(int(found[4]) >= 0 for found in stored)


def failing() -> str:
    raise LookupError


def test_a_load_lock_is_given_back_at_once(memcached: Memcached, unique: str) -> None:
    store = MemcachedStore([memcached.address])
    cache = TaggedCache(store, unique)
    cache.get_or_load("k", lambda: "value")

    assert store.get_many([cache._keyspace.load_lock("k")]) == [None]


def test_an_optional_question_that_fails_is_no_failure_of_the_node(
    proxy: Forwarder, unique: str
) -> None:
    with MemcachedStore([proxy.address]) as store:
        cache = TaggedCache(store, unique)
        cache.get_or_load("k", lambda: "value")

        asked = [store.stats()[proxy.address], store.ping()[proxy.address]]
        value = cache.get_or_load("k", lambda: "loaded again")

    assert isinstance(asked[0], ApplyUnavailable)
    assert value == "value"


def test_doctor_blames_no_node_for_its_own_question(
    proxy: Forwarder, unique: str
) -> None:
    with MemcachedStore([proxy.address]) as store:
        TaggedCache(store, unique).get_or_load("k", lambda: "value")

        findings = list(examine_nodes(store, [unique], []))

    assert [each.level for each in findings] == [Level.WARNING, Level.OK]
    assert "proxy" in (findings[0].mend or "")


def test_what_a_node_says_is_told_and_the_advice_fits(
    with_login: MemcachedWithLogin, unique: str
) -> None:
    with MemcachedStore([with_login.address]) as store:
        error = store.ping()[with_login.address]
        [finding] = examine_nodes(store, [unique], [])

    assert isinstance(error, ApplyUnavailable) and error.answered
    assert "CLIENT_ERROR unauthenticated" in str(error)
    assert "CLIENT_ERROR unauthenticated" in finding.text
    assert "login" in (finding.mend or "") and "start it" not in (finding.mend or "")


def test_a_node_that_is_gone_has_not_answered(unique: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with MemcachedStore([address]) as store:
        error = store.ping()[address]
        [finding] = examine_nodes(store, [unique], [])

    assert isinstance(error, ApplyUnavailable) and not error.answered
    assert (finding.mend or "").startswith("start it")

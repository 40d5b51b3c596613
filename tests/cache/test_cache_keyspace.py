"""Names in memcached: valid for it, readable where possible, never two alike."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync.cache import Keyspace, app_address
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.intents import EntityIntents, InvalidationIntent
from hydracache_sync.keys import entity_tag

rings = st.from_regex(r"[A-Za-z0-9._-]{1,16}", fullmatch=True)
odd = st.sampled_from(["", "a", ":", "%", "%3A", "%25", "%%", "e", "E", "hc1:1:a:ea"])
texts = st.one_of(odd, st.text(alphabet=":%aE=~ ü", max_size=6), st.text(max_size=300))
namespaces = texts.filter(lambda text: 1 <= len(text.encode("utf-8", "replace")) <= 64)
roles = st.sampled_from(["entry", "key_token", "tag_token", "namespace_token"])
names = st.tuples(rings, namespaces, roles, texts)


def physical(ring: str, namespace: str, role: str, name: str) -> bytes:
    keyspace = Keyspace(ring, namespace)
    if role == "namespace_token":
        return keyspace.namespace_token()[1]
    return getattr(keyspace, role)(name)[1]


@given(names)
def test_every_name_is_a_valid_memcached_key(name: tuple[str, str, str, str]) -> None:
    assert re.fullmatch(rb"[!-~]{1,250}", physical(*name))


@given(names, names)
def test_different_names_never_share_a_key(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    # The namespace's token has no name of its own.
    same = one[:3] == other[:3] and (one[2] == "namespace_token" or one[3] == other[3])

    assert (physical(*one) == physical(*other)) == same


@given(rings, namespaces, texts)
def test_a_name_never_takes_the_key_of_a_hashed_one(
    ring: str, namespace: str, text: str
) -> None:
    keyspace = Keyspace(ring, namespace)
    hashed = keyspace.entry("x" * 181)[1]
    digest = hashed.rpartition(b":")[2][1:].decode("ascii")

    assert keyspace.entry(digest)[1] != hashed
    assert keyspace.entry(text)[1] != hashed


def test_a_namespace_never_takes_the_prefix_of_a_hashed_one() -> None:
    hashed = Keyspace("1", "n" * 64).namespace_token()[1].split(b":")[2].decode("ascii")

    taken = Keyspace("1", hashed).namespace_token()[1].split(b":")[2].decode("ascii")

    assert taken != hashed


def test_plain_names_stay_readable() -> None:
    keyspace = Keyspace("2", "shop")

    assert keyspace.entry("user:42")[1] == b"hc1:2:shop:euser:42"
    assert keyspace.key_token("user:42")[1] == b"hc1:2:shop:kuser:42"
    assert keyspace.tag_token("user:42")[1] == b"hc1:2:shop:tuser:42"
    assert keyspace.namespace_token()[1] == b"hc1:2:shop:n"
    assert Keyspace("2", "shop:eu").entry("a")[1] == b"hc1:2:shop%3Aeu:ea"


def test_the_longest_readable_name_fits() -> None:
    keyspace = Keyspace("r" * 16, "n" * 44)

    assert len(keyspace.entry("k" * 180)[1]) == 247
    assert keyspace.entry("k" * 180)[1].endswith(b":e" + b"k" * 180)
    assert b":E" in keyspace.entry("k" * 181)[1]


def test_an_entry_and_its_tokens_go_to_one_node_and_a_tag_to_its_own() -> None:
    keyspace = Keyspace("1", "shop")

    entry, namespace_copy, key_token = keyspace.of_key("user:42")

    assert entry[0] == namespace_copy[0] == key_token[0]
    assert keyspace.entry("user:42") == entry
    assert keyspace.key_token("user:42") == key_token
    assert namespace_copy[1] == keyspace.namespace_token()[1]
    assert keyspace.namespace_token()[0] is None
    assert keyspace.tag_token("a")[0] != keyspace.tag_token("b")[0]


@pytest.mark.parametrize("ring", ["", "a b", "a:b", "ü", "x" * 17, "1\n", None, 1])
def test_a_ring_that_cannot_be_part_of_a_key_is_refused(ring: str) -> None:
    with pytest.raises(ConfigurationError, match="ring"):
        Keyspace(ring, "shop")


@pytest.mark.parametrize("namespace", ["", "n" * 65, "ü" * 33])
def test_a_namespace_out_of_its_limits_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Keyspace("1", namespace)


@pytest.mark.parametrize(
    ("role", "length"), [("entry", 4096), ("key_token", 4096), ("tag_token", 24577)]
)
def test_a_name_over_its_limit_is_refused(role: str, length: int) -> None:
    physical("1", "shop", role, "x" * length)

    with pytest.raises(ValueError, match=f"{length + 1} bytes"):
        physical("1", "shop", role, "x" * (length + 1))


@pytest.mark.parametrize("role", ["entry", "key_token", "tag_token"])
def test_a_name_that_no_utf_8_can_hold_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match="lone surrogate"):
        physical("1", "shop", role, "\ud800")


def test_the_tag_of_the_longest_entity_has_a_key() -> None:
    tag = entity_tag(":" * 4096, "%" * 4096)

    assert Keyspace("1", "shop").tag_token(tag)[1].startswith(b"hc1:1:shop:T")


@pytest.mark.parametrize("role", ["entry", "key_token", "tag_token"])
@pytest.mark.parametrize("name", [b"bytes", None, True, 42.0, ("tuple",)])
def test_a_name_that_is_no_id_is_refused(role: str, name: str) -> None:
    with pytest.raises(TypeError, match="must be str, int or UUID, not"):
        physical("1", "shop", role, name)


@pytest.mark.parametrize("role", ["entry", "key_token", "tag_token"])
@pytest.mark.parametrize("name", [42, uuid.UUID(int=42)], ids=repr)
def test_an_id_is_the_name_that_its_text_is(role: str, name: Any) -> None:
    assert physical("1", "shop", role, name) == physical("1", "shop", role, str(name))


def test_a_text_of_a_subclass_is_the_same_name() -> None:
    class Slug(str):
        pass

    keyspace = Keyspace("1", "shop")

    assert keyspace.entry(Slug("user:42")) == keyspace.entry("user:42")


@pytest.mark.parametrize("key", ["", "a b", "a\r\nb", "\x00", "k" * 251, b"\x7f"])
def test_an_application_key_that_would_break_out_of_its_command_is_refused(
    key: str | bytes,
) -> None:
    with pytest.raises(ValueError, match="no memcached key"):
        app_address(key)


@pytest.mark.parametrize(
    "odd",
    [
        ("user", "4:2"),
        ("us:er", "42"),
        ("user", "100%"),
        ("user", "4 2"),
        ("user", "4\n2"),
        ("us\ner:", "42"),
        ("user", "Zoë"),
        ("user", "x" * 180),
        ("", ""),
    ],
)
def test_targets_of_many_are_those_of_each(odd: tuple[str, str]) -> None:
    keyspace = Keyspace("r1", "shop")
    plain = [InvalidationIntent.entity("user", n) for n in range(3)]
    others = [
        InvalidationIntent.key("user:1"),
        InvalidationIntent.tag("users"),
        InvalidationIntent.collection("users"),
        InvalidationIntent.flush(),
    ]
    for intents in (
        plain,
        [InvalidationIntent.entity(*odd)],
        [*plain, InvalidationIntent.entity(*odd), *plain],
        [*others, *plain],
        [plain[0], *others, InvalidationIntent.entity(*odd), plain[1]],
        [],
    ):
        wanted = [
            keyspace.target(*intent.to_cache_invalidation()) for intent in intents
        ]
        assert keyspace.targets(intents) == wanted
        if {intent.kind for intent in intents} == {"entity"}:
            _, values, entities = zip(*intents)
            assert keyspace.targets(EntityIntents(entities, values)) == wanted

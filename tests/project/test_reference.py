"""The formats and fields of the reference, and the policies, are those in use."""

from __future__ import annotations

import re
from dataclasses import fields

from hydracache_sync import (
    CommitPosition,
    InvalidationIntent,
    InvalidationReceipt,
    entity_tag,
    events,
)
from hydracache_sync.cache.codecs import codec
from hydracache_sync.cache.entry_format import token_prefix_of
from hydracache_sync.cache.keyspace import SCHEME, Keyspace
from hydracache_sync.cache.tokens.token import COLD, LIVE, TOKEN_SIZE
from hydracache_sync.outbox.schema import SCHEMA_VERSION
from support import ROOT

REFERENCE = ROOT / "docs" / "reference"
EVENTS = (REFERENCE / "events.md").read_text("utf-8")
FORMATS = (REFERENCE / "formats.md").read_text("utf-8")
POLICIES = (ROOT / "docs" / "project" / "policies.md").read_text("utf-8")


def table(page: str, first: str) -> dict[str, str]:
    """The table whose first head is ``first``, without the marks of code."""
    [text] = re.findall(rf"^\| {first} \|.*\n\|[ |-]+\|\n((?:\|.*\n)+)", page, re.M)
    rows = (line.strip("| ").split(" | ") for line in text.splitlines())
    return {row[0].strip("`"): row[1] for row in rows}


def test_the_fields_of_log_records_are_those_of_the_events() -> None:
    rows = table(EVENTS, "event")
    shown = {
        name: re.findall(r"`hydracache_(\w+)`", text) for name, text in rows.items()
    }

    assert shown.pop("each of them") == ["event", "namespace"]
    assert shown == {
        name: [
            each.name
            for each in fields(getattr(events, name))
            if each.name != "namespace"
        ]
        for name in shown
    }


def test_the_keys_are_those_that_are_used() -> None:
    shop = Keyspace("1", "shop")

    page = FORMATS.split("\n## Keys\n")[1].split("\n## ")[0]
    assert [key.strip("`") for key in table(page, "what").values()] == [
        address[1].decode()
        for address in (
            shop.entry("profile:42"),
            shop.key_token("profile:42"),
            shop.tag_token(entity_tag("user", 42)),
            shop.namespace_token(),
            shop.load_lock("profile:42"),
            shop.watermark(),
        )
    ]


def test_the_numbers_of_forms_and_tokens_are_those_that_are_used() -> None:
    forms = table(FORMATS, "form")

    assert list(forms) == [
        str(number) for number in range(1, codec.COMPRESSED_ZSTD + 1)
    ]
    for number, word in {
        codec.BYTES: "bytes",
        codec.TEXT: "text",
        codec.JSON: "JSON",
        codec.NONE: "None",
        codec.WIDE_JSON: "JSON with a number",
        codec.SIGNED: "signed",
        codec.PICKLE: "pickle",
        codec.TYPED: "MessagePack",
        codec.COMPRESSED: "compressed",
        codec.COMPRESSED_ZSTD: "compressed",
    }.items():
        assert forms[str(number)].startswith(word)
    assert f"A token is {TOKEN_SIZE} bytes" in FORMATS
    assert f"`{LIVE.decode()}` live, `{COLD.decode()}` cooling" in FORMATS


def test_hashes_and_the_receipt_are_those_that_are_made() -> None:
    receipt = InvalidationReceipt("shop", CommitPosition("tx:7"), 1_700_000_000_000, 2)

    assert f"`{receipt.to_string()}`" in FORMATS
    for intent in (
        InvalidationIntent.key("user:42"),
        InvalidationIntent.entity("user", 42),
    ):
        assert f"`{intent.target_hash_hex()}`" in FORMATS


def test_the_policies_name_the_versions_that_are_in_use() -> None:
    versions = table(POLICIES, "format")
    receipt = InvalidationReceipt("shop", CommitPosition("tx:7"), 0, 1).to_string()
    entry = codec.Codec().encode("value", token_prefix_of(bytes(16), []))

    assert versions["tables"].startswith(f"{SCHEMA_VERSION},")
    assert versions["keys and tokens"].startswith(f"`{SCHEME}`")
    assert versions["entries"].startswith(f"{entry[2]},")
    assert versions["receipts"].startswith(f"`{receipt.split('.')[0]}`")


def test_the_policies_name_the_pythons_that_the_package_does() -> None:
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    minors = [int(minor) for minor in re.findall(r"Python :: 3\.(\d+)$", setup, re.M)]
    [text] = re.findall(r"\n## What is supported\n(.*)", POLICIES, re.S)
    supported = table(text, "what")

    assert supported["Python"] == f"3.{min(minors)} to 3.{max(minors)}"

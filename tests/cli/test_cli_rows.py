"""``hydracache rows``: what waits is found by what it waits for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import InvalidationIntentBatch
from hydracache_sync.cli import ExitCode
from support.commands import Ended, Shop, run


@pytest.fixture
def shop(tmp_path: Path, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, "127.0.0.1:1") as shop:
        yield shop


def rows(shop: Shop, *arguments: str, **values: object) -> Ended:
    return run("rows", *arguments, **{**shop.settings, **values})


def values(shown: Ended) -> list[str]:
    """Keys of the rows that were printed as JSON."""
    return [json.loads(line)["value"] for line in shown.out.splitlines()]


@pytest.fixture
def mixed(shop: Shop) -> Shop:
    """A shop with a row in each state and phase."""
    for key in ("dead", "published", "backoff", "claimed", "due"):
        batch = InvalidationIntentBatch().invalidate_key(key)
        shop.outbox.enqueue(shop.namespace, batch, commit_position=f"tx:{key}")
    dead, published, backoff, claimed = shop.outbox.claim(
        shop.namespace, "host/1", limit=4, claim_ttl=600
    )
    shop.outbox.mark_failed([dead], "boom", backoff=0, dead=True)
    shop.outbox.mark_published([published])
    shop.outbox.mark_failed([backoff], "not yet", backoff=600, dead=False)
    return shop


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ("pending", ["backoff", "claimed", "due"]),
        ("due", ["due"]),
        ("claimed", ["claimed"]),
        ("backoff", ["backoff"]),
        ("published", ["published"]),
        ("dead", ["dead"]),
        ("all", ["dead", "published", "backoff", "claimed", "due"]),
    ],
)
def test_rows_are_found_by_their_state(
    mixed: Shop, state: str, found: list[str]
) -> None:
    shown = rows(mixed, "--state", state, "--json")

    assert values(shown) == found
    assert shown.code == ExitCode.DONE


def test_rows_that_wait_are_shown_by_default(mixed: Shop) -> None:
    shown = rows(mixed)

    headings, backoff, claimed, due, count = shown.out.splitlines()
    assert headings.split()[:4] == ["id", "namespace", "invalidates", "state"]
    assert " key backoff  backoff " in backoff and backoff.endswith("not yet")
    assert " key claimed  claimed " in claimed
    assert " key due      due " in due
    assert count == "3 rows"


def test_rows_of_a_commit_are_shown_whatever_their_state(mixed: Shop) -> None:
    dead = rows(mixed, "--position", "tx:dead", "--json")
    not_due = rows(mixed, "--position", "tx:dead", "--state", "due", "--json")
    due = rows(mixed, "--position", "tx:due", "--state", "due", "--json")

    assert values(dead) == ["dead"]
    assert values(not_due) == []
    assert values(due) == ["due"]


def test_rows_of_namespaces_are_shown_in_the_order_of_their_enqueues(
    shop: Shop,
) -> None:
    for n in range(6):
        batch = InvalidationIntentBatch().invalidate_key(str(n))
        shop.outbox.enqueue(f"n{n % 2}", batch)

    first = rows(shop, "--limit", "4", "--json", namespace="n0,n1")
    text = rows(shop, "--limit", "4", namespace="n0,n1")
    rest = rows(shop, "--after", "4", "--json", namespace="n0,n1")

    assert values(first) == ["0", "1", "2", "3"]
    assert text.out.endswith("4 rows; there are more, go on with --after 4\n")
    assert values(rest) == ["4", "5"]


@pytest.mark.parametrize("state", ["pending", "due"])
def test_more_rows_than_a_page_are_shown(shop: Shop, state: str) -> None:
    shop.invalidate(1201)

    shown = rows(shop, "--state", state, "--limit", "1200", "--json")
    all_of_them = rows(shop, "--state", state, "--limit", "1201")

    assert values(shown) == [f"product:{n}" for n in range(1200)]
    assert all_of_them.out.endswith("1201 rows\n")


def test_no_rows_are_shown_as_none(shop: Shop) -> None:
    shown, quiet = rows(shop), rows(shop, "--quiet")

    assert (shown.code, shown.out) == (ExitCode.DONE, "no rows\n")
    assert shown.err == (
        f"Warning: the outbox has no row of namespace {shop.namespace} yet:"
        " it is new, or misspelt\n"
    )
    assert quiet == Ended(ExitCode.DONE, "", "")


def test_a_bad_position_is_refused(shop: Shop) -> None:
    refused = rows(shop, "--position", "")

    assert refused.code == ExitCode.USAGE
    assert "1 to 128" in refused.err


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--state", "all"), ["due", "claimed"]),
        (("--state", "pending"), ["due", "claimed"]),
        (("--state", "claimed"), ["claimed"]),
        (("--position", "tx:dead"), ["dead"]),
    ],
)
def test_the_newest_are_the_last_ones_latest_first(
    mixed: Shop, arguments: tuple[str, ...], found: list[str]
) -> None:
    shown = rows(mixed, *arguments, "--newest", "--limit", "2", "--json")

    assert values(shown) == found


def test_the_newest_of_several_namespaces_come_together(mixed: Shop) -> None:
    other = mixed.namespace + "b"
    batch = InvalidationIntentBatch().invalidate_key("other")
    mixed.outbox.enqueue(other, batch)
    both = {"namespace": f"{mixed.namespace},{other}"}

    shown = rows(mixed, "--newest", "--limit", "2", "--json", **both)
    table = rows(mixed, "--newest", "--limit", "2", **both)

    assert values(shown) == ["other", "due"]
    assert table.out.endswith("the newest: 2 rows\n")


def test_the_newest_have_no_page_after_them(mixed: Shop) -> None:
    refused = rows(mixed, "--newest", "--after", "1")

    assert refused.code == ExitCode.USAGE
    assert "--newest" in refused.err

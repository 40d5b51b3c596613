"""``hydracache pause``, ``resume`` and ``paused``."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import InvalidationIntentBatch
from hydracache_sync.cli import ExitCode
from support.commands import Ended, Shop, run
from support.servers import Memcached


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


def command(shop: Shop, *arguments: str) -> Ended:
    return run(*arguments, outbox=shop.settings["outbox"])


def test_a_paused_namespace_is_drained_after_its_resume_only(shop: Shop) -> None:
    shop.invalidate(2)

    paused = command(shop, "pause", shop.namespace, "--reason", "moving")
    held = shop.drain()
    resumed = command(shop, "resume", shop.namespace)
    drained = shop.drain()

    assert paused.out.startswith(f"{shop.namespace} is paused; ")
    assert (paused.code, paused.err) == (ExitCode.DONE, "")
    assert held.code == ExitCode.WAITING
    assert resumed.out == f"{shop.namespace} is resumed\n"
    assert drained.code == ExitCode.DONE


def test_what_is_paused_is_listed_with_its_reason(shop: Shop) -> None:
    nothing = command(shop, "paused")
    command(shop, "pause", "b", "a", "--reason", "two\nlines")

    shown, found = command(shop, "paused"), command(shop, "paused", "--json")

    assert nothing.out == "no namespace is paused\n"
    a, b = shown.out.splitlines()
    assert a.startswith("a since 20") and a.endswith(": two\\nlines")
    assert b.startswith("b since ")
    assert [each["namespace"] for each in found.json["namespaces"]] == ["a", "b"]
    assert found.json["namespaces"][0]["reason"] == "two\nlines"


def test_a_namespace_that_was_not_paused_is_told(shop: Shop) -> None:
    resumed = command(shop, "resume", "shop")

    assert resumed == Ended(ExitCode.DONE, "shop was not paused\n", "")


def test_a_resume_of_a_misspelt_namespace_names_the_one_that_is_paused(
    shop: Shop,
) -> None:
    command(shop, "pause", "shop")

    resumed = command(shop, "resume", "shpo", "--quiet")

    assert resumed.out == ""
    assert resumed.err == (
        "Warning: shpo was not paused; did you mean shop, which is?\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("dead", "list"),
        ("dead", "retry", "--all"),
        ("dead", "discard", "--all"),
        ("rows",),
        ("rows", "--newest"),
        ("purge",),
    ],
)
def test_a_command_that_finds_nothing_of_a_misspelt_namespace_says_so(
    shop: Shop, arguments: tuple[str, ...]
) -> None:
    shop.invalidate(1)
    known, misspelt = shop.namespace, shop.namespace[:-1]

    of_known = command(shop, *arguments, "--namespace", known)
    of_misspelt = command(shop, *arguments, "--namespace", misspelt)

    assert of_known.err == ""
    assert of_misspelt.err == (
        f"Warning: the outbox has no row of namespace {misspelt};"
        f" did you mean {known}?\n"
    )


def test_a_namespace_without_rows_is_paused_with_a_warning(shop: Shop) -> None:
    shop.invalidate(1)

    paused = command(shop, "pause", shop.namespace + "x", "--quiet")

    assert paused.code == ExitCode.DONE
    assert paused.out == ""
    assert paused.err == (
        f"Warning: the outbox has no row of namespace {shop.namespace}x"
        f"; did you mean {shop.namespace}?\n"
    )
    assert f"did you mean {shop.namespace}?" in paused.err


def test_a_name_from_the_outbox_moves_no_cursor(shop: Shop) -> None:
    name = f"{shop.namespace}\x1b[2J"
    shop.outbox.enqueue(name, InvalidationIntentBatch().flush())
    shop.outbox.pause(name)

    listed = command(shop, "paused")
    guessed = command(shop, "pause", shop.namespace)

    assert f"{shop.namespace}\\x1b[2J since " in listed.out
    assert f"did you mean {shop.namespace}\\x1b[2J?" in guessed.err


def test_a_bad_namespace_or_reason_pauses_nothing(shop: Shop) -> None:
    refused = command(shop, "pause", "shop", "n" * 65)
    too_long = command(shop, "pause", "shop", "--reason", "r" * 256)

    assert refused.code == too_long.code == ExitCode.USAGE
    assert "1 to 64" in refused.err
    assert "0 to 255" in too_long.err
    assert shop.outbox.paused() == {}

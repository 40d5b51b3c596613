"""``hydracache dead``: what is listed, shown, retried and discarded."""

from __future__ import annotations

import json
import os
import pty
import pwd
import re
import socket
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import InvalidationIntentBatch, OutboxState
from hydracache_sync.cli import ExitCode
from support import ROOT
from support.commands import (
    PATIENCE,
    PROGRAM,
    Ended,
    Shop,
    ended,
    environment,
    run,
    start,
)
from support.servers import Memcached


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


def dead(shop: Shop, *arguments: str, **values: object) -> Ended:
    return run("dead", *arguments, **{**shop.settings, **values})


def kill(shop: Shop, key: str, error: str = "boom", namespace: str = "") -> int:
    """Make a dead letter; return its id."""
    name = namespace or shop.namespace
    shop.outbox.enqueue(name, InvalidationIntentBatch("why").invalidate_key(key))
    [row] = shop.outbox.claim(name, "test", limit=1, claim_ttl=30)
    shop.outbox.mark_failed([row], error, backoff=0, dead=True)
    return row.id


def plant(shop: Shop, count: int) -> None:
    """Make many dead letters at once."""
    connection = sqlite3.connect(shop.path)
    connection.execute(
        "insert into hydracache_outbox (namespace, commit_position, target_hash, kind,"
        " value, reason, created_at_ms, state, at_ms, attempts, last_error)"
        " with recursive n(i) as (select 1 union all select i + 1 from n where i < ?)"
        " select ?, 'tx:' || i, randomblob(32), 'key', 'k' || i, '', 1, 2, 1, 5, 'e'"
        " from n",
        (count, shop.namespace),
    )
    connection.commit()
    connection.close()


def states(shop: Shop) -> dict[int, OutboxState | None]:
    return {row.id: row.state for row in shop.outbox.rows(shop.namespace)}


# Looking


def test_the_newest_are_listed_latest_first(shop: Shop) -> None:
    ids = [kill(shop, f"product:{number}") for number in range(3)]

    shown = dead(shop, "list", "--newest", "--limit", "2")
    refused = dead(shop, "list", "--newest", "--after", "1")

    listed = re.findall(r"^(\d+) ", shown.out, re.M)
    assert listed == [str(ids[2]), str(ids[1])]
    assert shown.out.endswith("the newest: 2 of 3 dead letters\n")
    assert refused.code == 2 and "--newest" in refused.err


def test_dead_letters_are_listed_with_what_they_invalidate_and_why(shop: Shop) -> None:
    shop.invalidate(1)
    shop.outbox.mark_published(
        shop.outbox.claim(shop.namespace, "w", limit=1, claim_ttl=30)
    )
    first = kill(shop, "product:7", "node said no")

    listed = dead(shop, "list")

    headings, line, count = listed.out.splitlines()
    assert headings.split()[:3] == ["id", "namespace", "invalidates"]
    assert line.split() == [
        *(str(first), shop.namespace, "key", "product:7", "dead"),
        *line.split()[5:7],
        *("1", "node", "said", "no"),
    ]
    assert count == "1 of 1 dead letter"
    assert listed.code == ExitCode.DONE


def test_no_dead_letters_are_listed_as_none(shop: Shop) -> None:
    shop.invalidate(1)

    assert dead(shop, "list") == Ended(ExitCode.DONE, "no dead letters\n", "")
    assert dead(shop, "list", "--json").out == ""


def test_a_list_is_read_page_by_page_over_namespaces(shop: Shop) -> None:
    other = f"{shop.namespace}-2"
    ids = [kill(shop, str(n), namespace=other if n % 2 else "") for n in range(5)]
    names = f"{shop.namespace},{other}"

    first = dead(shop, "list", "--limit", "3", namespace=names)
    last = dead(shop, "list", "--after", str(ids[2]), namespace=names)

    assert [int(line.split()[0]) for line in first.out.splitlines()[1:-1]] == ids[:3]
    assert first.out.endswith(f"3 of 5 dead letters; go on with --after {ids[2]}\n")
    assert [int(line.split()[0]) for line in last.out.splitlines()[1:-1]] == ids[3:]
    assert last.out.endswith("2 of 5 dead letters\n")


def test_a_list_can_be_filtered_and_read_by_programs(shop: Shop) -> None:
    kill(shop, "a", "timed out")
    found = kill(shop, "b\x1b[2J", "100% full\nnow")

    as_text = dead(shop, "list", "--error", "100%*now")
    as_json = dead(shop, "list", "--error", "100%*now", "--json")

    assert "key b\\x1b[2J" in as_text.out and "\x1b" not in as_text.out
    assert "100% full\\nnow" in as_text.out
    [row] = map(json.loads, as_json.out.splitlines())
    assert (row["id"], row["value"], row["state"]) == (found, "b\x1b[2J", "dead")
    assert (row["attempts"], row["last_error"]) == (1, "100% full\nnow")


def test_everything_about_a_row_is_shown(shop: Shop) -> None:
    id = kill(shop, "product:7", "node\tsaid no")

    shown = dead(shop, "show", str(id))
    found = json.loads(dead(shop, "show", str(id), "--json").out)

    for text in (
        f"row {id}\n",
        "key product:7\n",
        " dead\n",
        " why\n",
        "node\\tsaid no\n",
        found["commit_position"],
        found["row_id"],
    ):
        assert text in shown.out
    # Once in local time, once in UTC; above, and in the history.
    assert shown.out.count("(20") == 4 and shown.out.count("Z), ") == 4
    assert shown.code == ExitCode.DONE


def test_the_history_of_a_row_has_its_failures_and_who_retried_it(shop: Shop) -> None:
    id = kill(shop, "product:7", "node\tsaid \x1b[2J no")
    user = f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"

    dead(shop, "retry", str(id), "--yes")
    [row] = shop.outbox.claim(shop.namespace, "web1/7", limit=1, claim_ttl=30)
    shop.outbox.mark_published([row])
    shown = dead(shop, "show", str(id))
    found = json.loads(dead(shop, "show", str(id), "--json").out)
    listed = run("rows", "--state", "all", "--json", **shop.settings)

    said = shown.out[shown.out.index("  history\n") :]
    told = [
        ", by ".join(line.split("ago  ", 1)[1].split(", by ")[:2])
        for line in said.splitlines()[1:]
    ]
    assert [line.partition(",")[0] for line in told] == [
        "enqueued",
        "attempt failed",
        "retried by an operator",
        "published",
    ]
    assert "node\\tsaid \\x1b[2J no" in told[1]
    assert told[2] == f"retried by an operator, by {user}"
    assert "\x1b" not in shown.out
    assert [(each["kind"], each["who"]) for each in found["history"]] == [
        ("dead", "test"),
        ("retried", user),
    ]
    assert found["history_is_whole"] is True
    assert "history" not in json.loads(listed.out)


def test_a_history_that_was_cut_says_so(shop: Shop) -> None:
    id = kill(shop, "product:7")
    for _ in range(40):
        shop.outbox.reset_dead_letters(shop.namespace, by="x" * 100)
        again = shop.outbox.claim(shop.namespace, "w", limit=1, claim_ttl=30)
        shop.outbox.mark_failed(again, "no", backoff=0, dead=True)

    shown = dead(shop, "show", str(id))
    found = json.loads(dead(shop, "show", str(id), "--json").out)

    assert "Older entries were dropped" in shown.out
    assert found["history_is_whole"] is False


def test_a_row_that_is_not_there_is_an_error_and_the_others_are_shown(
    shop: Shop,
) -> None:
    id = kill(shop, "a")

    shown = dead(shop, "show", "4711", str(id))

    assert shown.code == ExitCode.FAILED
    assert shown.err == "Error: there is no row 4711\n"
    assert shown.out.startswith(f"row {id}\n")


# Retrying and discarding


@pytest.mark.parametrize(
    ("verb", "left"), [("retry", OutboxState.PENDING), ("discard", None)]
)
def test_a_dead_letter_is_changed_by_its_id(
    shop: Shop, verb: str, left: OutboxState | None
) -> None:
    one, two = kill(shop, "a"), kill(shop, "b")

    changed = dead(shop, verb, str(one), "--yes")

    assert changed.code == ExitCode.DONE
    past = {"retry": "retried", "discard": "discarded"}[verb]
    assert changed.out == f"{shop.namespace}: 1 {past}\n"
    assert states(shop).get(one) is left
    assert states(shop)[two] is OutboxState.DEAD


def test_a_retried_dead_letter_is_published_by_the_next_drain(shop: Shop) -> None:
    id = kill(shop, "a")

    dead(shop, "retry", str(id), "--yes")
    drained = shop.drain()

    assert drained.code == ExitCode.DONE
    assert states(shop) == {id: OutboxState.PUBLISHED}


def test_dead_letters_are_chosen_by_error_age_and_namespace(shop: Shop) -> None:
    old = kill(shop, "a", "timed out")
    connection = sqlite3.connect(shop.path)
    connection.execute("update hydracache_outbox set at_ms = at_ms - 7200000")
    connection.commit()
    connection.close()
    kill(shop, "b", "timed out")
    kill(shop, "c", "refused")
    kill(shop, "d", "timed out", namespace="other")

    by_both = dead(shop, "retry", "--error", "timed", "--older-than", "1h", "--yes")
    by_error = dead(shop, "discard", "--error", "timed", "--yes", "--json")

    assert by_both.out == f"{shop.namespace}: 1 retried\n"
    assert states(shop)[old] is OutboxState.PENDING
    assert by_error.json == {
        "exit_code": 0,
        "namespaces": [{"namespace": shop.namespace, "discarded": 1}],
    }
    assert len(shop.outbox.dead_letters("other")) == 1
    assert len(shop.outbox.dead_letters(shop.namespace)) == 1


@pytest.mark.parametrize("verb", ["retry", "discard"])
def test_a_count_that_was_not_expected_changes_nothing(shop: Shop, verb: str) -> None:
    kill(shop, "a")
    kill(shop, "b")

    refused = dead(shop, verb, "--all", "--expect", "1")
    none = dead(shop, verb, "--error", "nowhere", "--expect", "1")
    done = dead(shop, verb, "--all", "--expect", "2")

    assert (refused.code, refused.out) == (ExitCode.USAGE, "")
    assert "--expect 1, but it is 2: nothing was done" in refused.err
    assert none.code == ExitCode.USAGE
    assert done.code == ExitCode.DONE
    assert shop.outbox.dead_letters(shop.namespace) == []


def test_without_an_answer_nothing_is_done(shop: Shop) -> None:
    id = kill(shop, "a")

    # In a process: click's own runner tells no end of the input from an empty line.
    asked = ended(start("dead", "discard", "--all", **shop.settings))

    assert asked.code == ExitCode.FAILED
    assert "Discard 1 dead letter?" in asked.err
    assert f"  {id}  key a  boom\n" in asked.err
    assert "nothing was done. Say --yes, or --expect" in asked.err
    assert states(shop) == {id: OutboxState.DEAD}


@pytest.mark.parametrize(("answer", "left"), [("y", 0), ("n", 4)])
def test_a_person_is_shown_how_many_and_asked(
    shop: Shop, answer: str, left: int
) -> None:
    for key in "abcd":
        kill(shop, key)
    screen, terminal = pty.openpty()
    process = start_on(terminal, "dead", "retry", "--all", **shop.settings)
    os.close(terminal)

    shown = read_until(screen, "[y/N]: ")
    os.write(screen, f"{answer}\n".encode())
    process.wait(PATIENCE)
    os.close(screen)

    assert f"{shop.namespace}: 4\r\n" in shown
    assert "  and 1 more\r\n" in shown
    assert "Retry 4 dead letters? [y/N]: " in shown
    assert len(shop.outbox.dead_letters(shop.namespace)) == left
    assert process.returncode == (0 if answer == "y" else 1)


def start_on(
    terminal: int, *arguments: str, **values: object
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        env=environment(**values),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )


def read_until(screen: int, end: str) -> str:
    shown, deadline = "", time.monotonic() + PATIENCE
    while end not in shown:
        assert time.monotonic() < deadline, shown
        shown += os.read(screen, 1000).decode()
    return shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say which dead letters"),
        (["1", "--all"], "name ids, or --all"),
        (["1", "--error", "x"], "name ids, or --all"),
        (["4711"], "no dead letters of .*: 4711; nothing was done"),
        (["--older-than", "soon"], "'soon' is not allowed"),
        (["x"], "'x' is not a valid integer"),
        ([str(2**63)], "is not in the range"),
        (["--error", ""], "error is 0 bytes"),
    ],
)
def test_what_is_not_clear_is_refused(
    shop: Shop, arguments: list[str], said: str
) -> None:
    id = kill(shop, "a")

    refused = dead(shop, "retry", "--yes", *arguments)

    assert refused.code == ExitCode.USAGE
    assert re.search(said, " ".join(refused.err.split()))
    assert states(shop) == {id: OutboxState.DEAD}


def test_an_id_that_no_row_can_have_is_refused(shop: Shop) -> None:
    shown = dead(shop, "show", str(2**63))
    listed = dead(shop, "list", "--after", str(2**63))

    assert shown.code == listed.code == ExitCode.USAGE
    assert "is not in the range" in shown.err
    assert "is not in the range" in listed.err


def test_an_id_that_is_not_dead_stops_the_others_too(shop: Shop) -> None:
    id = kill(shop, "a")
    shop.invalidate(1)
    pending = max(states(shop))

    refused = dead(shop, "retry", "--yes", str(id), str(pending))

    assert refused.code == ExitCode.USAGE
    assert f": {pending}; nothing was done" in " ".join(refused.err.split())
    assert states(shop)[id] is OutboxState.DEAD


def test_ten_thousand_are_listed_and_retried(shop: Shop) -> None:
    plant(shop, 10_000)

    page = dead(shop, "list", "--after", "9000", "--limit", "2")
    listed = ended(start("dead", "list", "--json", "--limit", "20000", **shop.settings))
    retried = dead(shop, "retry", "--all", "--expect", "10000")

    assert page.out.endswith("2 of 10000 dead letters; go on with --after 9002\n")
    assert listed.out.count("\n") == 10_000
    assert json.loads(listed.out[: listed.out.index("\n")])["value"] == "k1"
    assert retried.out == f"{shop.namespace}: 10000 retried\n"
    assert shop.outbox.dead_letters(shop.namespace) == []


def test_the_operators_page_mends_a_dead_letter_as_it_shows(shop: Shop) -> None:
    page = (ROOT / "docs" / "operations" / "operating.md").read_text()
    [block] = re.findall(
        r"A dead letter, from the alert to its end:\n\n```console\n(.*?)```",
        page,
        re.S,
    )
    steps = [step.split("\n", 1) for step in block.split("$ hydracache ")[1:]]
    id = kill(shop, "user:42", "RuntimeError: the audit service said 403")
    shop.outbox.reset_dead_letters(shop.namespace, [id])
    for attempt in range(5):
        rows = shop.outbox.claim(shop.namespace, "w", limit=1, claim_ttl=30)
        error = "RuntimeError: the audit service said 403"
        shop.outbox.mark_failed(rows, error, backoff=0, dead=attempt == 4)

    for line, expected in steps:
        arguments = line.split("#")[0].replace("17", str(id)).split()
        if "retry" in arguments:
            # The question is answered by a test of its own.
            arguments.append("--yes")
            expected = expected.splitlines()[-1]
        shown = run(*arguments, **shop.settings)
        assert like(expected, shop) in like(shown.out, shop)

    assert shop.published() == 1


def like(text: str, shop: Shop) -> str:
    """Text without what differs from run to run."""
    text = text.replace(shop.namespace, "shop")
    text = re.sub(r"20[0-9-]+ [0-9:]+Z|none kept", "MOMENT", text)
    text = re.sub(r"[0-9.]+ (?:min|s)\b", "AGE", text)
    text = re.sub(r"\bAGE AGE\b", "AGE", text)
    return re.sub(r"\b\d+(?= shop)", "ID", " ".join(text.split()))

"""What an operator changes by the console."""

from __future__ import annotations

import logging
import re

import pytest
from console_site import SHOP, Page, Site

from hydracache_sync import OutboxError
from hydracache_sync.console.changes import MOST_ROWS
from support import ROOT


@pytest.fixture
def site() -> Site:
    return Site()


def test_dead_letters_are_retried_after_a_question(site: Site) -> None:
    first, second, third = site.kill("a", "b", "c", error="node said no")

    asked = site.of("confirm", action="retry", id=[first, third])
    unchanged = site.states()
    done = site.answer(asked)

    assert "Retry 2 dead letters?" in asked.said
    assert "key a: node said no" in asked.said
    assert set(unchanged.values()) == {"dead"}
    assert "shop: 2 dead letters retried." in done.said
    assert site.states() == {first: "pending", second: "dead", third: "pending"}


def test_dead_letters_are_discarded(site: Site) -> None:
    first, second = site.kill("a", "b")

    done = site.answer(site.of("confirm", action="discard", id=first))

    assert "shop: 1 dead letter discarded." in done.said
    assert site.states() == {second: "dead"}


def test_all_that_match_are_retried(site: Site) -> None:
    refused = site.kill("a", "b", error="refused")
    [late] = site.kill("c", error="timed out")

    listed = site.of("rows", state="dead", by="error", q="refused")
    [link] = [each for each in listed.links() if "action=retry" in each]
    asked = Page(site.client.get(link))
    site.answer(asked)

    assert "Retry 2 dead letters?" in asked.said
    assert site.states() == {**dict.fromkeys(refused, "pending"), late: "dead"}


def test_of_very_many_some_are_retried_at_a_time(site: Site) -> None:
    site.kill(*map(str, range(MOST_ROWS + 1)))

    asked = site.of("confirm", action="retry", all=1, state="dead")
    site.answer(asked)

    assert f"Retry {MOST_ROWS} dead letters?" in asked.said
    assert "These are not all" in asked.said
    assert site.outbox.status(SHOP).dead_lettered == 1


def test_where_the_first_ones_do_not_match_the_pages_are_named(site: Site) -> None:
    site.kill(*map(str, range(MOST_ROWS + 1)))
    site.kill("d", error="refused")

    asked = site.of(
        "confirm",
        action="retry",
        all=1,
        state="dead",
        by="error",
        q="refused",
        order="oldest",
    )

    assert "Retry 0 dead letters?" in asked.said
    assert f"None of the {MOST_ROWS} that were looked at match" in asked.said
    assert "again" not in asked.said


def test_a_form_that_is_sent_twice_discards_no_other_rows(site: Site) -> None:
    site.kill(*map(str, range(MOST_ROWS + 2)))
    asked = site.of("confirm", action="discard", all=1, state="dead")

    site.answer(asked)
    left = site.states()
    again = site.answer(asked)

    assert again.status == 409
    assert "Nothing was done." in again.said
    assert site.states() == left
    assert len(left) == 2


def test_nothing_is_done_if_there_are_others_meanwhile(site: Site) -> None:
    site.kill("a")

    asked = site.of("confirm", action="discard", all=1, state="dead")
    site.kill("b")
    again = site.answer(asked)

    assert again.status == 409
    assert "Nothing was done." in again.said
    assert "Discard 2 dead letters?" in again.said
    assert len(site.states()) == 2
    site.answer(again)
    assert site.states() == {}


def test_a_batch_is_drained(site: Site) -> None:
    site.enqueue("a", "b")

    done = site.answer(site.of("confirm", action="drain"))

    assert "one batch drained, 2 published." in done.said
    assert set(site.states().values()) == {"published"}


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ({"kind": "key", "value": "a b"}, ("key", "a b", None)),
        ({"kind": "tag", "value": "t"}, ("tag", "t", None)),
        (
            {"kind": "entity", "entity": "user", "value": "42"},
            ("entity", "42", "user"),
        ),
        ({"kind": "collection", "value": "c"}, ("collection", "c", None)),
    ],
)
def test_what_is_invalidated_by_hand(
    site: Site, asked: dict[str, str], target: tuple[str, str, str]
) -> None:
    site.enqueue("earlier")

    site.answer(site.of("confirm", action="invalidate", reason="bad price", **asked))

    [_, row] = site.outbox.rows(SHOP)
    assert tuple(row.intent or ()) == target
    assert row.reason == "bad price"


def test_a_flush_by_hand_says_by_whom(site: Site) -> None:
    site.enqueue("earlier")

    site.answer(site.of("confirm", action="flush"))

    [_, row] = site.outbox.rows(SHOP)
    assert row.intent is not None and row.intent.kind == "flush"
    assert row.reason == "by hand: ada"


def test_a_namespace_is_paused_and_resumed(site: Site) -> None:
    site.enqueue("a")

    paused = site.answer(site.of("confirm", action="pause", reason="a migration"))
    pauses = site.outbox.paused()
    resumed = site.answer(site.of("confirm", action="resume"))

    assert "a migration" in paused.said
    assert pauses[SHOP].reason == "a migration"
    assert "shop: resumed." in resumed.said
    assert site.outbox.paused() == {}


def test_each_change_is_logged_with_who_made_it(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    [id] = site.kill("a")
    site.who = "grace"

    asked = site.of("confirm", action="retry", id=id)
    before = list(caplog.messages)
    site.answer(asked)

    assert before == []
    assert caplog.messages == [
        "console: outbox outbox, namespace shop: 1 dead letter retried by grace;"
        f" rows {id}"
    ]
    page = (ROOT / "docs" / "operations" / "console.md").read_text("utf-8")
    [line] = re.findall(r"^console: .*$", page, re.M)
    shown = line.replace("2 dead letters", "1 dead letter").replace("ada", "grace")
    assert shown.replace("17, 18", str(id)) == caplog.messages[0]
    # Seen also where logging was not set up.
    assert caplog.records[0].levelno == logging.WARNING


def test_a_change_that_fails_is_logged_and_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    [id] = site.kill("a")
    asked = site.of("confirm", action="retry", id=id)

    def away(*args: object, **options: object) -> int:
        raise OutboxError("gone")

    monkeypatch.setattr(site.outbox, "reset_dead_letters", away)
    answer = site.answer(asked)

    assert answer.status == 503
    assert "gone" in answer.said
    assert caplog.messages[0] == (
        "console: outbox outbox, namespace shop: retry of rows"
        f" {id} by ada failed: OutboxError: gone"
    )


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"action": "invalidate", "kind": "key", "value": "a"}, "invalidate of key a"),
        ({"action": "flush"}, "flush"),
    ],
)
def test_the_log_names_what_could_not_be_invalidated(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: dict[str, str],
    said: str,
) -> None:
    site.enqueue("earlier")
    form = site.of("confirm", **asked)

    def away(*args: object) -> None:
        raise OutboxError("gone")

    monkeypatch.setattr(site.outbox, "enqueue", away)
    site.answer(form)

    assert caplog.messages[0] == (
        f"console: outbox outbox, namespace shop: {said} by ada failed:"
        " OutboxError: gone"
    )


def test_the_log_names_what_was_invalidated_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.enqueue("earlier")

    site.answer(site.of("confirm", action="invalidate", kind="key", value="a"))

    [_, row] = site.outbox.rows(SHOP)
    assert caplog.messages == [
        "console: outbox outbox, namespace shop: key a enqueued at"
        f" {row.commit_position} by ada"
    ]


def test_what_is_dead_no_more_is_left_alone(site: Site) -> None:
    [id] = site.kill("a")
    asked = site.of("confirm", action="retry", id=id)
    site.outbox.reset_dead_letters(SHOP)

    again = site.answer(asked)

    assert again.status == 409
    assert "There is nothing to do." in again.said


@pytest.mark.parametrize(
    ("query", "status", "why"),
    [
        ({"action": "retry"}, 400, "No dead letter is chosen"),
        ({"action": "retry", "all": "1", "state": "pending"}, 400, "Only dead"),
        ({"action": "invalidate", "kind": "key", "value": ""}, 400, "is empty"),
        ({"action": "invalidate", "kind": "flush", "value": "x"}, 400, "no kind"),
        (
            {"action": "invalidate", "kind": "key", "value": "k" * 5000},
            400,
            "key is 5000 bytes of UTF-8, allowed are 0 to 4096",
        ),
        ({"action": "flush", "reason": "r" * 256}, 400, "reason is 256 bytes"),
        ({"action": "pause", "reason": "r" * 256}, 400, "reason is 256 bytes"),
        ({"action": "drop"}, 404, "no such action"),
    ],
)
def test_what_makes_no_sense_is_refused_before_it_is_asked(
    site: Site, query: dict[str, str], status: int, why: str
) -> None:
    site.enqueue("a")

    page = site.of("confirm", **query)

    assert page.status == status
    assert why in page.said


def test_without_a_worker_nothing_is_drained() -> None:
    site = Site(workers=[])
    site.enqueue("a")

    assert site.of("confirm", action="drain").status == 404
    assert "no worker for this namespace" in site.of("act").said

"""Which rollback to a savepoint undoes rows whose data may stay."""

from __future__ import annotations

from typing import Any

import pytest

from hydracache_sync.app import savepoints
from hydracache_sync.app.savepoints import REMEMBERED, note_statement


def test_intents_from_before_the_savepoint_are_of_data_that_stays() -> None:
    is_undone = savepoints.undone_after(savepoints.number())
    note_statement("SAVEPOINT a")

    assert not is_undone()
    note_statement("ROLLBACK TO SAVEPOINT a")
    assert is_undone()


def test_intents_from_within_the_savepoint_are_undone_with_their_data() -> None:
    note_statement("SAVEPOINT a")
    is_undone = savepoints.undone_after(savepoints.number())
    note_statement("SAVEPOINT b")
    note_statement("RELEASE SAVEPOINT b")
    note_statement("ROLLBACK TO SAVEPOINT a")

    assert not is_undone()


def test_a_rollback_before_the_write_is_no_matter() -> None:
    collected_at = savepoints.number()
    note_statement("SAVEPOINT a")
    note_statement("ROLLBACK TO a")

    assert not savepoints.undone_after(collected_at)()


@pytest.mark.parametrize(
    ("sets", "goes_back"),
    [
        ("savepoint a", "rollback to a"),
        ("# set\nsavepoint a", "# back\nrollback to a"),
        ('SAVEPOINT "s1_x1"', 'ROLLBACK TO SAVEPOINT "s1_x1"'),
        ("SAVEPOINT `s1_x1`;", "  Rollback Work To Savepoint `s1_x1`;"),
        (b"SAVEPOINT a", b"ROLLBACK TRANSACTION TO A"),
        ("/* view=rename */ SAVEPOINT a", "-- rename\nROLLBACK TO a"),
    ],
)
def test_it_is_seen_however_it_is_written(
    sets: str | bytes, goes_back: str | bytes
) -> None:
    before = savepoints.undone_after(savepoints.number())
    note_statement(sets)
    within = savepoints.undone_after(savepoints.number())
    note_statement(goes_back)

    assert before() and not within()


def test_a_name_that_is_used_again_is_the_newest() -> None:
    note_statement("SAVEPOINT a")
    is_undone = savepoints.undone_after(savepoints.number())
    note_statement("SAVEPOINT a")
    note_statement("ROLLBACK TO a")

    assert is_undone()


def test_one_that_is_not_known_counts_as_the_newest() -> None:
    is_undone = savepoints.undone_after(savepoints.number())
    note_statement("ROLLBACK TO nobody_has_seen_it")

    assert is_undone()


def test_more_rollbacks_than_are_remembered_count_as_one_to_the_newest() -> None:
    note_statement("SAVEPOINT a")
    is_undone = savepoints.undone_after(savepoints.number())
    for _ in range(REMEMBERED):
        note_statement("ROLLBACK TO a")
    assert not is_undone()

    note_statement("ROLLBACK TO a")
    assert is_undone()


@pytest.mark.parametrize(
    "statement", ["ROLLBACK", "select 'SAVEPOINT a'", "select 1; select 2", None, 7]
)
def test_other_statements_are_none_of_them(statement: object) -> None:
    is_undone = savepoints.undone_after(savepoints.number())
    before = savepoints.number()
    note_statement(statement)

    assert savepoints.number() == before
    assert not is_undone()


@pytest.mark.parametrize(
    ("statement", "goes_on"),
    [
        ("update item set n = 1", True),
        (b"/* audit */ insert into log values (1)", True),
        ("call spend()", True),
        ("set statement max_statement_time = 1 for update item set n = 1", True),
        (b"set @n = 1; update item set n = @n", True),
        ("SELECT 1;", False),
        ("rollback", False),
        ("start transaction", False),
    ],
)
def test_after_an_error_that_may_have_ended_it_what_is_changed_counts(
    statement: Any, goes_on: bool
) -> None:
    is_undone = savepoints.undone_after(savepoints.number())
    savepoints.note_end()
    ended = is_undone()
    savepoints.note_statement(statement)
    later = savepoints.undone_after(savepoints.number())

    assert (ended, is_undone(), later()) == (False, goes_on, False)
    savepoints.note_statement("update item set n = 2")
    assert is_undone()


def test_that_error_has_ended_what_a_savepoint_without_a_name_came_before() -> None:
    savepoints.note_set(None)
    is_undone = savepoints.undone_after(savepoints.number())
    savepoints.note_end()
    savepoints.note_statement("update item set n = 1")

    assert is_undone()

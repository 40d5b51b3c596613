"""The judge sees each kind of stale read, and none where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.judge import Verdict, judge
from chaos.records import CACHED, LOADED, LOADED_IN_OLD_SNAPSHOT, Log

STRICT_FROM = 10


class Diary:
    """What one process writes down; moments in milliseconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._log = Log(self._folder, "writer-0-0")

    def fact(self, kind: str, version: int, at: int, item: int = 1) -> None:
        self._log.fact(kind, item, version, at * 1_000_000)

    def read(self, version: int, began: int, item: int = 1, how: int = CACHED) -> None:
        self._log.read(item, version, began * 1_000_000, (began + 1) * 1_000_000, how)

    def judged(self) -> Verdict:
        self._log.flush()
        return judge(self._folder, strict_from=STRICT_FROM)


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("published", "stale after publish"),
        ("waited", "stale after wait"),
        ("inline", "stale after inline publish"),
        ("strict", "strict violations"),
    ],
)
@pytest.mark.parametrize("how", [CACHED, LOADED])
def test_a_read_that_is_older_than_it_may_be_is_counted(
    diary: Diary, kind: str, named: str, how: int
) -> None:
    diary.fact("committed", 1, at=90)
    diary.fact(kind, 1, at=100)
    diary.read(0, began=101, how=how)
    diary.read(1, began=102, how=how)

    verdict = diary.judged()

    assert verdict.stale[named] == 1
    assert sum(verdict.stale.values()) == 1
    assert not verdict.good
    assert "item 1" in verdict.stories[0]


def test_what_became_known_after_the_read_began_is_not_held_against_it(
    diary: Diary,
) -> None:
    diary.fact("published", 1, at=100)
    diary.read(0, began=99)

    assert diary.judged().good


def test_an_older_version_that_is_published_later_lowers_nothing(
    diary: Diary,
) -> None:
    diary.fact("published", 2, at=100)
    diary.fact("published", 1, at=110)
    diary.read(1, began=120)

    assert diary.judged().stale["stale after publish"] == 1


def test_other_items_do_not_matter(diary: Diary) -> None:
    diary.fact("published", 5, at=100, item=2)
    diary.read(0, began=120, item=1)

    assert diary.judged().good


def test_what_is_loaded_in_an_old_snapshot_is_what_was_asked_for(diary: Diary) -> None:
    diary.fact("published", 1, at=100)
    diary.read(0, began=120, how=LOADED_IN_OLD_SNAPSHOT)

    assert diary.judged().good


def test_the_window_is_the_time_since_the_first_newer_commit(diary: Diary) -> None:
    diary.fact("committed", 1, at=100)
    diary.fact("committed", 2, at=150)
    diary.read(0, began=170)
    diary.read(2, began=171)
    diary.fact("committed", 1, at=100, item=STRICT_FROM)
    diary.read(0, began=170, item=STRICT_FROM)

    verdict = diary.judged()

    assert verdict.windows == [70.0]
    assert verdict.default_reads == 2
    assert verdict.good


def test_a_line_that_a_kill_cut_off_is_passed_over(
    diary: Diary, tmp_path: Path
) -> None:
    diary.fact("published", 1, at=100)
    with (tmp_path / "writer-0-0.facts").open("ab") as file:
        file.write(b'["published", 1, 9')
    (tmp_path / "reader-0-0.reads").write_bytes(b"\x01" * 7)
    diary.read(1, began=120)

    verdict = diary.judged()

    assert verdict.reads == 1
    assert verdict.facts["published"] == 1

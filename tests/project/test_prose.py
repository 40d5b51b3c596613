"""What looks at the project's English finds each kind of fault, where it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prose.__main__ import complaints, files
from prose.rules import AVOIDED, MAX_WORDS, faults, word_list
from prose.texts import Text, texts
from support import ROOT, TESTS

#: A file of each kind, with one text to be found in line 3.
FOUND_IN = {
    "page.md": "# A page\n\n{}\n",
    "item.md": "- one\n\n- {}\n",
    "cell.md": "| a | b |\n| --- | --- |\n| c | {} |\n",
    "docstring.py": 'def f():\n    """Do.\n\n    {}"""\n',
    "field.py": 'def f(a):\n    """Do.\n    :param a: {}"""\n',
    "comment.py": "a = 1\nb = 2\n#: {}\n",
    "behind.py": "a = 1\nb = 2\nc = 3  # {}\n",
    "message.py": "a = 1\nb = 2\nlog.warning('{} %s', a)\n",
    "help.py": "import click\n\n@click.option('--a', help='''{}''')\ndef f(): pass\n",
    "placeholder.py": "a = 1\n\nraise ValueError(f'{{a!r}} {}')\n",
    "template.html": "<p>\n<b>one</b></p>\n<p>{} <i>two</i></p>\n",
    "schema.sql": "create table a (b int);\n\n-- {}\n",
    "crontab": "A=1\n\n# {}\n",
}


@pytest.mark.parametrize("name", FOUND_IN)
def test_a_fault_is_found_in_each_kind_of_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FOUND_IN[name].format("the work of a night shift"))
    line = 4 if name == "docstring.py" else 3

    found = list(complaints([path]))

    assert len(found) == 1, found
    assert found[0].startswith(f'{path}:{line}: "night shift": ')


@pytest.mark.parametrize(
    "name, text",
    [
        ("fence.md", "```\na night shift\n```\n"),
        ("code.md", "Say `night shift` to it.\n"),
        ("address.md", "[There](https://a.example/night shift).\n"),
        ("part.md", "<!-- settings of apps -->\na night shift\n<!-- end -->\n"),
        ("code.py", '"""Say ``night shift`` to it."""\n'),
        ("below.py", '"""Do::\n\n    a night shift\n\nDone."""\n'),
        ("usage.py", '"""Do.\n\n    night shift\n    night shift\n\nDone."""\n'),
        ("statement.py", 'A = "select night shift from workers"\n'),
        (
            "template.html",
            "{# night shift #}{{ night shift }}<a title='night shift'>\n",
        ),
    ],
)
def test_code_is_not_prose(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)

    assert list(complaints([path])) == []


def test_a_word_of_the_list_is_found_wherever_a_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("Work for the Night\nshift.\n")

    assert len(list(complaints([path]))) == 1


def test_each_word_of_the_list_is_one_and_has_another_to_take() -> None:
    assert AVOIDED
    for avoided, instead in AVOIDED:
        again = [each for each in faults(Text(1, instead)) if avoided.search(each)]
        assert not again, f"what to say instead of it has it: {avoided.pattern}"
    with pytest.raises(ValueError, match="without a word"):
        word_list("lest |")


def test_sentences_have_an_end() -> None:
    sentence = " ".join(["word"] * MAX_WORDS)

    assert list(faults(Text(1, f"{sentence}. {sentence}: {sentence.title()}"))) == []
    assert list(faults(Text(1, f"{sentence} CODE CODE"))) == []
    [fault] = faults(Text(1, f"{sentence} more"))
    assert fault.startswith(f"{MAX_WORDS + 1} words in ")
    [fault] = faults(Text(1, f"{sentence}: e.g. this"))
    assert fault.startswith(f"{MAX_WORDS + 2} words in ")


def test_a_message_is_one_text_with_its_placeholders_as_code(tmp_path: Path) -> None:
    path = tmp_path / "message.py"
    path.write_text(
        'raise ValueError(\n    f"no {a} here: "\n    f"take %d or {{}}")\n'
    )

    assert [text.words for text in texts(path)] == ["no CODE here: take CODE or CODE"]


def test_all_that_people_read_is_looked_at() -> None:
    looked_at = {str(path.relative_to(ROOT)) for path in files()}

    assert {
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/concepts/tags.md",
        "docs/index.md",
        "examples/README.md",
        "examples/cron/crontab",
        "examples/cron/README.md",
        "examples/shop_pymysql/templates/home.html",
        "examples/systemd/hydracache-worker.service",
        "hydracache_pytest.py",
        "hydracache_sync/cli/doctor.py",
        "hydracache_sync/console/templates/overview.html",
        "hydracache_sync/outbox/schema/mysql.sql",
        "tests/README.md",
    } <= looked_at


def test_the_program_ends_with_1_where_there_is_a_fault(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    good.write_text("A worker applies the row.\n")
    bad.write_text("A row for the night shift.\n")

    def ran(path: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "prose", str(path)],
            cwd=ROOT,
            env={"PYTHONPATH": str(TESTS)},
            stdout=subprocess.PIPE,
            text=True,
        )

    assert (ran(good).returncode, ran(good).stdout) == (0, "")
    assert (ran(bad).returncode, ran(bad).stdout.count("\n")) == (1, 1)

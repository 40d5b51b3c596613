"""``hydracache schema``: shown, made and checked."""

from __future__ import annotations

import sqlite3
from importlib import resources
from pathlib import Path

import pytest

from hydracache_sync.cli import ExitCode
from hydracache_sync.cli.schema import DATABASES
from support.commands import Ended, run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


def schema(command: str, path: Path, *arguments: str) -> Ended:
    return run("schema", command, *arguments, outbox=f"sqlite:///{path}")


def test_what_show_prints_is_what_a_dba_can_install(path: Path) -> None:
    shown = run("schema", "show", "--database", "sqlite")
    connection = sqlite3.connect(path)
    connection.executescript(shown.out)
    connection.close()

    checked = schema("check", path)

    assert shown.code == ExitCode.DONE
    assert checked.code == ExitCode.DONE


def test_show_takes_the_database_from_the_outbox_and_does_not_connect(
    path: Path,
) -> None:
    shown = schema("show", path)

    assert shown.out == run("schema", "show", "--database", "sqlite").out
    assert not path.exists()


def test_show_takes_every_spelling_of_mysql() -> None:
    expected = run("schema", "show", "--database", "mysql")

    for scheme in ("mysql", "mariadb", "mysql+pymysql"):
        url = f"{scheme}://user:s3cr3t@127.0.0.1:1/db"
        assert run("schema", "show", outbox=url) == expected


def test_show_names_the_table_that_was_asked_for() -> None:
    shown = run("schema", "show", "--database", "sqlite", "--table", "shop_outbox")

    assert "create table if not exists shop_outbox (" in shown.out
    assert "hydracache_outbox" not in shown.out


def test_show_asks_which_database() -> None:
    refused = run("schema", "show")

    assert refused.code == ExitCode.USAGE
    assert "--database mysql or sqlite" in " ".join(refused.err.split())
    assert "HYDRACACHE_OUTBOX" in refused.err


def test_every_packaged_ddl_can_be_shown() -> None:
    files = resources.files("hydracache_sync.outbox.schema").iterdir()
    packaged = {file.name for file in files if file.name.endswith(".sql")}

    assert packaged == {f"{database}.sql" for database in DATABASES}
    for database in DATABASES:
        assert "create table" in run("schema", "show", "--database", database).out


def test_install_creates_the_file_and_may_be_repeated(path: Path) -> None:
    first, second = schema("install", path), schema("install", path)

    assert (first.code, second.code) == (ExitCode.DONE, ExitCode.DONE)
    assert "has the tables of version 1" in first.out
    assert schema("check", path).code == ExitCode.DONE


def test_install_and_check_can_be_silent(path: Path) -> None:
    assert schema("install", path, "-q").out == ""
    assert schema("check", path, "-q").out == ""


def test_install_in_a_directory_that_is_not_there_says_so(tmp_path: Path) -> None:
    failed = schema("install", tmp_path / "none" / "shop.db")

    assert failed.code == ExitCode.OUTBOX_AWAY
    assert "unable to open database file" in failed.err
    assert failed.err.count("\n") == 1


def test_check_of_a_file_that_is_not_there_does_not_create_it(path: Path) -> None:
    failed = schema("check", path)

    assert failed.code == ExitCode.OUTBOX_AWAY
    assert not path.exists()


def test_check_of_a_file_that_is_no_database_says_so(path: Path) -> None:
    path.write_text("This is a text, and long enough to be no database at all." * 20)

    failed = schema("check", path)

    assert failed.code == ExitCode.OUTBOX_AWAY
    assert "not a database" in failed.err


def test_check_names_the_command_that_installs_what_is_missing(path: Path) -> None:
    sqlite3.connect(path).execute("create table product (id)").connection.close()

    failed = schema("check", path)

    assert failed.code == ExitCode.SCHEMA
    assert "hydracache schema install" in failed.err


@pytest.mark.parametrize("command", ["install", "check"])
@pytest.mark.parametrize("version, says", [(0, "older"), (99, "newer")])
def test_tables_of_another_version_are_refused(
    path: Path, command: str, version: int, says: str
) -> None:
    schema("install", path)
    connection = sqlite3.connect(path)
    connection.execute("update hydracache_outbox_schema set version = ?", [version])
    connection.commit()
    connection.close()

    failed = schema(command, path)

    assert failed.code == ExitCode.SCHEMA
    assert f"version {version}, {says} than" in failed.err


def test_a_table_that_was_altered_is_refused(path: Path) -> None:
    schema("install", path)
    connection = sqlite3.connect(path)
    connection.execute("drop index hydracache_outbox_commit")
    connection.close()

    failed = schema("check", path)

    assert failed.code == ExitCode.SCHEMA
    assert "hydracache schema show" in failed.err

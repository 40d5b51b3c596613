"""The command line as a whole: settings, errors, passwords."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

from hydracache_sync import (
    MemcachedStore,
    OutboxWorker,
    SQLiteOutbox,
    WorkerPool,
)
from hydracache_sync.app import app_settings, build, settings
from hydracache_sync.cli import ExitCode, hydracache
from support import ROOT
from support.commands import (
    PATIENCE,
    PROGRAM,
    SECRET,
    Shop,
    ended,
    run,
    start,
    wait_until_it_handles_signals,
)


@pytest.fixture
def shop(tmp_path: Path, unique: str) -> Iterator[Shop]:
    """A shop whose memcached is away."""
    with Shop(tmp_path / "shop.db", unique, "127.0.0.1:1") as shop:
        yield shop


# Help


def test_help_lists_every_command_and_every_exit_code() -> None:
    shown = run("--help")

    assert shown.code == 0
    commands = re.findall(r"^  ([a-z][a-z-]*)  ", shown.out, re.M)
    assert commands == sorted(hydracache.commands)
    for code in ExitCode:
        assert f"{code.value}  {code.meaning}" in shown.out


def test_help_of_drain_names_the_variable_of_every_setting_it_takes() -> None:
    shown = run("drain", "--help")

    words = "".join(shown.out.split())
    of_others = ("max_age", "max_pending", "max_dead")
    of_others += ("purge_every", "threads", "poll_interval")
    of_others += ("metrics_port", "health_port", "health_host")
    for setting in settings.SETTINGS:
        if setting.name not in of_others:
            assert setting.option in words
            assert setting.variable in words


def test_module_and_version_work_as_a_program() -> None:
    shown = ended(start("--version"))

    assert shown.code == 0
    assert shown.out.startswith("hydracache_sync, version ")


# Settings


def test_every_setting_of_a_worker_has_the_workers_own_default() -> None:
    own = inspect.signature(OutboxWorker).parameters

    for name in ("batch_size", "claim_ttl", "backoff", "max_backoff", "max_attempts"):
        assert getattr(settings, name.upper()).default == own[name].default
    assert settings.ESCALATE.default is own["escalate"].default


def test_every_setting_of_a_store_has_the_stores_own_default() -> None:
    own = inspect.signature(MemcachedStore).parameters

    for name in ("ring", "connect_timeout", "timeout"):
        assert getattr(settings, name.upper()).default == own[name].default


def test_every_setting_of_an_outbox_has_the_outboxs_own_default() -> None:
    own = inspect.signature(SQLiteOutbox).parameters

    for name in ("table", "busy_timeout"):
        assert getattr(settings, name.upper()).default == own[name].default


def test_every_setting_reaches_the_worker_and_its_store(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, object]] = []

    def recording(made: Any) -> Any:
        def make(*arguments: Any, **keywords: Any) -> Any:
            given.append(keywords)
            return made(*arguments, **keywords)

        return make

    for name in ("open_outbox", "MemcachedStore", "OutboxWorker"):
        monkeypatch.setattr(build, name, recording(getattr(build, name)))
    values = {
        "table": "hydracache_outbox",
        "busy_timeout": 1.5,
        "ring": "blue",
        "weights": f"{shop.settings['memcached']}=2",
        "connect_timeout": 2.5,
        "timeout": 3.5,
        "call_timeout": 12.5,
        "retry_after": 13.5,
        "max_value": 14,
        "batch_size": 7,
        "claim_ttl": 8.5,
        "backoff": 9.5,
        "max_backoff": 10.5,
        "max_attempts": 11,
        "escalate": "no",
        "max_staleness": 12.5,
    }

    shop.drain(**values)

    taken = {name: value for keywords in given for name, value in keywords.items()}
    weights = {str(shop.settings["memcached"]): 2.0}
    more = {"escalate": False, "weights": weights, "tls_context": None}
    more.update(tls_name=None, auth=None, pool_size=settings.CONNECTIONS.default)
    del values["max_staleness"]  # to a worker it says that there are such readers
    assert taken == {**values, **more, "watermark": True}


def test_every_setting_of_a_pool_has_the_pools_own_default() -> None:
    own = inspect.signature(WorkerPool).parameters

    for name in (
        "threads",
        "poll_interval",
        "keep_published",
        "purge_every",
        "heartbeat",
    ):
        assert getattr(settings, name.upper()).default == own[name].default


def test_the_table_of_settings_is_complete() -> None:
    defined = [
        value
        for module in (settings, app_settings)
        for value in vars(module).values()
        if type(value) is settings.Setting
    ]

    assert [*settings.SETTINGS, *app_settings.APP_SETTINGS] == defined
    assert len({setting.name for setting in defined}) == len(defined)


@pytest.mark.parametrize(
    "setting",
    [setting for setting in settings.SETTINGS if setting.default is not None],
    ids=lambda setting: setting.name,
)
def test_every_default_is_what_its_setting_reads(setting: settings.Setting) -> None:
    text = str(setting.default)
    if isinstance(setting.default, bool):
        text = "yes" if setting.default else "no"

    assert setting.parse(text) == setting.default


def test_the_docs_list_every_exit_code() -> None:
    commands = (ROOT / "docs" / "operations" / "operating.md").read_text()

    codes = re.findall(r"^\| (\d+) \| (.)", commands, re.M)
    assert [int(code) for code, _ in codes] == list(ExitCode)


def test_an_option_wins_over_its_variable(shop: Shop, tmp_path: Path) -> None:
    shop.invalidate(3)
    other = f"sqlite:///{tmp_path}/other.db"

    found = run(
        *("status", "--json", "--outbox", f"sqlite:///{shop.path}"),
        outbox=other,
        namespace=shop.namespace,
    )

    assert found.json["namespaces"][0]["pending"] == 3


def test_the_variable_of_namespaces_takes_several() -> None:
    parsed = run("status", outbox="sqlite:////nowhere/x.db", namespace=" a, ,b ")

    # Past the options: what fails is the database.
    assert parsed.code == ExitCode.OUTBOX_AWAY


BAD_VALUES = [
    ("outbox", "nonsense", "sqlite:///"),
    ("outbox", "sqlite://shop.db", "names no file"),
    ("outbox", "sqlite:///:memory:", "names no file"),
    ("outbox", "postgres://host/db", "has the scheme 'postgres'"),
    ("table", "drop table", "letters, digits and underscores"),
    ("busy_timeout", "-1", "seconds, 0 to"),
    ("namespace", "n" * 65, "allowed are 1 to 64"),
    ("memcached", "localhost", "expected 'host:port'"),
    ("memcached", "localhost:99999", "expected 'host:port'"),
    ("memcached", ",", "name at least one"),
    ("memcached", "a:1,a:1", "the same one twice"),
    ("ring", "ring one", "1 to 16 characters"),
    ("timeout", "0", "seconds, 0.001 to"),
    ("connect_timeout", "soon", "seconds, 0.001 to"),
    ("batch_size", "0", "a whole number, 1 to 100000"),
    ("batch_size", "many", "a whole number, 1 to 100000"),
    ("claim_ttl", "0", "seconds, 0.001 to"),
    ("claim_ttl", "nan", "seconds, 0.001 to"),
    ("claim_ttl", "inf", "seconds, 0.001 to"),
    ("backoff", "-0.1", "seconds, 0 to"),
    ("max_attempts", "0", "a whole number, 1 to"),
    ("max_attempts", "1.5", "a whole number, 1 to"),
    ("escalate", "maybe", "yes or no"),
    ("max_seconds", "0", "seconds, 0.001 to"),
]


@pytest.mark.parametrize("name, value, allowed", BAD_VALUES)
@pytest.mark.parametrize("by_option", [True, False], ids=["option", "variable"])
def test_a_bad_value_is_refused_by_name_with_what_is_allowed(
    shop: Shop, name: str, value: str, allowed: str, by_option: bool
) -> None:
    shop.invalidate(1)
    option = "--" + name.replace("_", "-")

    if by_option:
        refused = shop.drain(option, value)
    else:
        refused = shop.drain(**{name: value})

    assert refused.code == ExitCode.USAGE
    assert option in refused.err
    assert f"HYDRACACHE_{name.upper()}" in refused.err
    assert allowed in " ".join(refused.err.split())
    assert "Traceback" not in refused.err
    assert shop.pending() == 1


@pytest.mark.parametrize("name", ["outbox", "namespace", "memcached"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_setting_is_named_with_its_variable(
    shop: Shop, name: str, empty: bool
) -> None:
    values = {key: value for key, value in shop.settings.items() if key != name}
    if empty:
        values[name] = ""

    refused = run("drain", **values)

    assert refused.code == ExitCode.USAGE
    assert f"--{name}" in refused.err
    assert f"HYDRACACHE_{name.upper()}" in refused.err


def test_a_backoff_over_its_maximum_is_refused(shop: Shop) -> None:
    refused = shop.drain("--backoff", "10", "--max-backoff", "5")

    assert refused.code == ExitCode.USAGE
    assert "--max-backoff 5 is below --backoff 10" in refused.err


def test_quiet_and_verbose_contradict_each_other(shop: Shop) -> None:
    refused = shop.drain("-q", "-v")

    assert refused.code == ExitCode.USAGE
    assert "contradicts" in refused.err


@pytest.mark.parametrize(
    "misspelt, meant",
    [
        ("HYDRACACHE_MEMCACHD", "HYDRACACHE_MEMCACHED"),
        ("HYDRACACHE_OUTBOX_URL", "HYDRACACHE_OUTBOX"),
        ("HYDRA_CACHE_OUTBOX", "HYDRACACHE_OUTBOX"),
        ("hydracache_namespace", "HYDRACACHE_NAMESPACE"),
        ("HYDRACACHE_CLAIM_TLL", "HYDRACACHE_CLAIM_TTL"),
    ],
)
def test_a_misspelt_variable_is_reported_with_the_one_that_was_meant(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, misspelt: str, meant: str
) -> None:
    found = list(app_settings.misspelt(["PATH", misspelt, "HYDRACACHE_RING"]))

    assert found == [(misspelt, meant)]


def test_a_misspelt_variable_is_a_warning_also_for_a_quiet_command(shop: Shop) -> None:
    warned = shop.drain("--quiet", memcachd=f"user:{SECRET}@host")

    assert warned.code == 0
    assert (
        "Warning: there is no setting HYDRACACHE_MEMCACHD: did you mean"
        " HYDRACACHE_MEMCACHED?\n"
    ) == warned.err


def test_an_unknown_variable_is_reported_too(shop: Shop) -> None:
    warned = shop.drain(purple="1")

    assert "there is no setting HYDRACACHE_PURPLE: it has no effect" in warned.err


def test_variables_of_the_test_suite_and_of_others_are_no_settings(shop: Shop) -> None:
    silent = shop.drain(test_memcached="127.0.0.1:1")

    assert silent.err == ""
    assert not list(
        app_settings.misspelt(["HYDRACACHED_FROB", "PATH", "XHYDRACACHE_X"])
    )


# Errors


def test_an_expected_error_is_one_line(tmp_path: Path) -> None:
    failed = run("status", outbox=f"sqlite:///{tmp_path}/none.db", namespace="n")

    assert failed.code == ExitCode.OUTBOX_AWAY
    assert failed.err.startswith("Error: SQLiteOutbox(")
    assert failed.err.count("\n") == 1
    assert "hydracache schema install" in failed.err
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("option", ["--debug", "-vv"])
def test_the_traceback_of_an_expected_error_is_there_for_the_asking(
    tmp_path: Path, option: str
) -> None:
    failed = run(
        "status", option, outbox=f"sqlite:///{tmp_path}/none.db", namespace="n"
    )

    assert failed.code == ExitCode.OUTBOX_AWAY
    assert "Traceback" in failed.err
    assert failed.err.splitlines()[-1].startswith("Error: SQLiteOutbox(")


def test_log_lines_have_their_time_and_come_as_asked_for(shop: Shop) -> None:
    shop.invalidate(1)

    normal = ended(shop.start_drain())
    shop.invalidate(1, first=1)
    quiet = ended(shop.start_drain("-q"))

    [warning] = normal.err.splitlines()
    assert warning[:4].isdigit() and " WARNING the cache of namespace" in warning
    assert quiet.err == ""


def test_without_click_the_command_names_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None\n"
    code += "from hydracache_sync.__main__ import main; main()"

    failed = ended(start(program=(sys.executable, "-c", code)))

    assert failed.code == ExitCode.USAGE
    assert failed.out == ""
    assert failed.err == (
        "hydracache needs click: install hydracache_sync with its extra 'cli'\n"
    )


def test_any_namespace_is_printed_on_any_terminal(shop: Shop) -> None:
    program = ("/usr/bin/env", "PYTHONIOENCODING=latin-1", *PROGRAM)
    values = {**shop.settings, "namespace": "caf\u00e9\U0001f6d2"}

    shown = ended(start("status", program=program, **values))

    assert shown.code == 0
    assert "\\U0001f6d2" in shown.out


# Passwords


PASSWORDS = [
    SECRET,
    f"{SECRET}/x",
    f"x#{SECRET}",
    f"x?{SECRET}",
    f"x@{SECRET}",
    f"x/@{SECRET}",
    f"x:{SECRET}",
    f"x {SECRET}",
    f"x[{SECRET}",
    f"\u2100{SECRET}",
    f"%2F{SECRET}",
]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("more", [(), ("--debug",)], ids=["plain", "debug"])
def test_a_password_in_the_variable_is_never_shown(
    password: str, more: tuple[str, ...]
) -> None:
    refused = run(
        *("status", "--namespace", "n", *more),
        outbox=f"mysql://user:{password}@127.0.0.1:1/db",
    )

    assert refused.code != 0
    assert SECRET not in refused.out + refused.err


def test_without_an_outbox_a_command_names_those_that_have_an_apps() -> None:
    refused = run("status", "--namespace", "n")

    assert refused.code == ExitCode.USAGE
    assert refused.err.endswith(
        "Error: Missing option '--outbox' (env var: 'HYDRACACHE_OUTBOX')."
        " `flask hydracache` and `manage.py hydracache` take it from their app\n"
    )


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("glued", [True, False])
def test_a_password_on_the_command_line_is_refused(password: str, glued: bool) -> None:
    url = f"mysql://user:{password}@127.0.0.1:1/db"
    option = [f"--outbox={url}"] if glued else ["--outbox", url]

    refused = run("status", "--namespace", "n", *option)

    assert refused.code == ExitCode.USAGE
    assert "put it into the variable HYDRACACHE_OUTBOX" in refused.err
    assert SECRET not in refused.out + refused.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["{url}"],
        ["status", "{url}"],
        ["status", "--outbux", "{url}"],
        ["status", "--namespace", "n", "--table", "{url}", "--outbox", "sqlite:///x"],
        ["drain", "--memcached", "{url}"],
        ["drain", "--batch-size", "{url}"],
        ["schema", "{url}"],
        ["schema", "show", "--database", "{url}"],
    ],
)
def test_a_password_in_the_wrong_place_is_not_repeated(arguments: list[str]) -> None:
    url = f"mysql://user:{SECRET}@127.0.0.1:1/db"

    refused = run(*(argument.format(url=url) for argument in arguments))

    assert refused.code == ExitCode.USAGE
    assert SECRET not in refused.out + refused.err


@pytest.mark.parametrize("name", ["password", "passwd", "Pass"])
@pytest.mark.parametrize("by_option", [True, False], ids=["option", "variable"])
def test_a_password_in_the_query_of_a_url_is_refused_and_not_shown(
    name: str, by_option: bool
) -> None:
    url = f"mysql://127.0.0.1:1/db?user=shop&{name}={SECRET}"

    if by_option:
        refused = run("status", "--namespace", "n", "--outbox", url)
        misplaced = run("status", url)
    else:
        refused = run("status", "--namespace", "n", outbox=url)
        misplaced = run("status", "--namespace", "n", table=url, outbox=url)

    assert refused.code == misplaced.code == ExitCode.USAGE
    assert SECRET not in refused.err + misplaced.err


def test_a_path_may_hold_what_looks_like_a_password(tmp_path: Path) -> None:
    path = tmp_path / "a:b@c" / "x.db"
    path.parent.mkdir()

    done = run("schema", "install", "--outbox", f"sqlite:///{path}")

    assert done.code == 0
    assert path.exists()


def test_a_process_shows_nothing_of_its_variables_in_its_title(
    shop: Shop, tmp_path: Path
) -> None:
    # Held up at the locked database long enough to be looked at.
    shop.invalidate(1)
    with shop.outbox.transaction():
        process = shop.start_drain(busy_timeout=PATIENCE)
        wait_until_it_handles_signals(process)
        title = Path(f"/proc/{process.pid}/cmdline").read_bytes()

    assert ended(process).code == ExitCode.CACHE_AWAY
    # Before it stands the interpreter, which may be run by a loader.
    assert title.partition(b"\0-m\0hydracache_sync\0")[2] == b"drain\0"

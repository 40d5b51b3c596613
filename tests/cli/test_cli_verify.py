"""``hydracache verify``: an app's verifier, run beside the app."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
)
from hydracache_sync.cli import ExitCode
from support.commands import Ended, ended, environment
from support.servers import Memcached

#: What the command is given: an app that caches each row of a table under its key.
APP = """
import sqlite3
from hydracache_sync import (
    CachedRead, CacheVerifier, MemcachedStore, SQLiteOutbox, TaggedCache
)

def load(key):
    connection = sqlite3.connect({path!r})
    try:
        [(text,)] = connection.execute("select text from page where key = ?", [key])
        return text
    finally:
        connection.close()

# A busy machine is no outage.
store = MemcachedStore([{memcached!r}], timeout=30, connect_timeout=30)
cache = TaggedCache(store, {namespace!r})

def reads_of(intent):
    {broken}
    if intent.kind == "key":
        yield CachedRead(intent.value, lambda: load(intent.value))

def verifier():
    return CacheVerifier(
        SQLiteOutbox({path!r}),
        cache,
        reads_of,
        delays=(0.1, 0.3),
    )

no_verifier = 42

@cache.cached(key=lambda key: key, tags=())
def page(key):
    return load(key)

def of_functions():
    return CacheVerifier(SQLiteOutbox({path!r}), cache, delays=(0.1, 0.3))
"""


class App:
    """The app whose module the command imports, with one page of text."""

    def __init__(self, folder: Path, memcached: str, namespace: str) -> None:
        self.folder = folder
        self.path = str(folder / "app.db")
        self.namespace = namespace
        self.memcached = memcached
        self.outbox = SQLiteOutbox(self.path)
        self.outbox.install_schema()
        self.store = MemcachedStore([memcached], timeout=30, connect_timeout=30)
        self.cache = TaggedCache(self.store, namespace)
        self.worker = OutboxWorker(self.outbox, MemcachedApplier(self.store, namespace))
        with self.outbox.transaction() as connection:
            connection.execute("create table page (key text, text text)")
            connection.execute("insert into page values ('home', 'old')")
        self.write_module()

    def write_module(self, broken: str = "") -> None:
        text = APP.format(
            path=self.path,
            memcached=self.memcached,
            namespace=self.namespace,
            broken=broken,
        )
        (self.folder / "shop_checks.py").write_text(text)

    def publish(self) -> None:
        """Invalidate the page, carry that to the cache, and have it cached again."""
        batch = InvalidationIntentBatch().invalidate_key("home")
        self.outbox.enqueue(self.namespace, batch)
        self.worker.drain()
        self.cache.get_or_load("home", self.text)

    def text(self) -> str:
        with self.outbox.transaction() as connection:
            [(text,)] = connection.execute("select text from page")
        return str(text)

    def change_past_the_outbox(self) -> None:
        with self.outbox.transaction() as connection:
            connection.execute("update page set text = 'new' || text")

    def start(self, *arguments: str, name: str = "shop_checks:verifier") -> Running:
        return Running(self, "verify", name, *arguments)

    def close(self) -> None:
        self.outbox.close()
        self.store.close()


class Running:
    """The command in the app's folder; it has begun when it says so."""

    def __init__(self, app: App, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hydracache_sync", *arguments],
            cwd=app.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self) -> Ended:
        return ended(self.process)


@pytest.fixture
def app(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[App]:
    app = App(tmp_path, memcached.address, unique)
    yield app
    app.close()


def published_while(app: App, running: Running, seen: Path) -> None:
    """Publish until the command has taken a sample, as its metrics tell."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running.process.poll() is None:
        app.publish()
        if "hydracache_verify_sampled_total" in _text(seen):
            count = [
                float(line.rpartition(" ")[2])
                for line in _text(seen).splitlines()
                if line.startswith("hydracache_verify_sampled_total{")
            ]
            if count and count[0] > 0:
                return
        time.sleep(0.1)
    raise AssertionError("nothing was sampled")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have the command write its metrics at each step, that tests may follow it."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import hydracache_sync.cli.verify as verify\nverify.METRICS_EVERY = 0.0\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))


def test_what_agrees_is_done(app: App, tmp_path: Path) -> None:
    metrics = tmp_path / "verify.prom"
    running = app.start("--json", "--metrics", str(metrics))
    published_while(app, running, metrics)
    running.process.terminate()

    shown = running.ended()

    assert shown.code == ExitCode.DONE, shown.err
    assert shown.json["result"] == "done"
    assert shown.json["namespace"] == app.namespace
    assert shown.json["sampled"] > 0
    assert shown.json["checks"]["stale"] == 0
    assert shown.json["published_before_ms"] <= time.time() * 1000
    assert f'namespace="{app.namespace}",verdict="equal"' in metrics.read_text()


def test_a_change_past_the_outbox_ends_with_a_code_of_its_own(
    app: App, tmp_path: Path
) -> None:
    metrics = tmp_path / "verify.prom"
    running = app.start("--for", "3", "--metrics", str(metrics))
    deadline = time.monotonic() + 60
    while running.process.poll() is None and time.monotonic() < deadline:
        app.publish()
        app.change_past_the_outbox()
        time.sleep(1.0)

    shown = running.ended()

    assert shown.code == ExitCode.STALE, shown
    assert "stale: key 'home'" in shown.out
    assert "new" not in shown.out + shown.err
    assert 'verdict="stale"' in metrics.read_text()


def test_a_cached_function_is_verified_and_told_in_nines(
    app: App, tmp_path: Path
) -> None:
    metrics = tmp_path / "verify.prom"
    arguments = ("--json", "--metrics", str(metrics))
    running = app.start(*arguments, name="shop_checks:of_functions")
    published_while(app, running, metrics)
    deadline = time.monotonic() + 60
    while 'verdict="stale"} 0' in _text(metrics) or not (
        'verdict="stale"}' in _text(metrics)
    ):
        assert time.monotonic() < deadline
        app.publish()
        app.change_past_the_outbox()
        time.sleep(0.5)
    running.process.terminate()

    shown = running.ended()

    assert shown.code == ExitCode.STALE, shown
    assert [each["delay"] for each in shown.json["within"]] == [0.1, 0.3]
    assert sum(each["stale"] for each in shown.json["within"]) > 0
    [finding, *_] = shown.json["findings"]
    assert (finding["key"], finding["cause"]) == ("home", "passed_by")
    assert finding["row"] is None


def test_nothing_published_is_nothing_wrong(app: App) -> None:
    shown = app.start("--for", "0").ended()

    assert shown.code == ExitCode.DONE
    assert "0 of 0 published rows" in shown.out


def test_an_app_that_raises_is_a_failure_and_not_a_pass(
    app: App, tmp_path: Path
) -> None:
    app.write_module(broken="raise RuntimeError('no such model')")
    metrics = tmp_path / "verify.prom"
    running = app.start("--for", "2", "--metrics", str(metrics))
    while running.process.poll() is None:
        app.publish()
        time.sleep(0.2)

    shown = running.ended()

    assert shown.code == ExitCode.FAILED
    assert "no such model" in shown.err


@pytest.mark.parametrize(
    "name, message",
    [
        ("shop_checks", "not of the form MODULE:NAME"),
        ("no_such_module:verifier", "no module 'no_such_module'"),
        ("shop_checks:nothing", "has no 'nothing'"),
        ("shop_checks:no_verifier", "is int, not a CacheVerifier"),
    ],
)
def test_a_name_that_leads_to_no_verifier_is_a_usage_error(
    app: App, name: str, message: str
) -> None:
    shown = app.start(name=name).ended()

    assert shown.code == ExitCode.USAGE
    assert message in shown.err


def test_an_outbox_that_is_not_there_is_said(app: App, tmp_path: Path) -> None:
    text = (tmp_path / "shop_checks.py").read_text()
    gone = text.replace(app.path, str(tmp_path / "gone.db"))
    (tmp_path / "shop_checks.py").write_text(gone)

    shown = app.start("--for", "0").ended()

    assert shown.code == ExitCode.OUTBOX_AWAY
    assert "gone.db" in shown.err


def installed(app: App, *arguments: str, cwd: Path) -> Ended:
    """Run it as pip installs it: a script, whose own folder is what Python adds."""
    script = app.folder / "site" / "hydracache.py"
    script.write_text("from hydracache_sync.__main__ import main\nmain()\n")
    ran = subprocess.run(
        [sys.executable, str(script), "verify", *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
    )
    return Ended(ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize("name", ["pymysql", "pymemcache", "json.tool"])
def test_a_file_that_lies_there_does_not_run_in_place_of_a_package(
    app: App, name: str
) -> None:
    planted = app.folder / f"{name.rpartition('.')[2]}.py"
    planted.write_text(f"open({str(app.folder / 'ran')!r}, 'w')\n")
    with (app.folder / "shop_checks.py").open("a") as file:
        file.write(f"import {name}\n")

    shown = installed(app, "shop_checks:verifier", "--for", "0", cwd=app.folder)

    assert shown.code == ExitCode.DONE, shown.err
    assert not (app.folder / "ran").exists()


def test_an_app_that_is_elsewhere_is_found_by_its_folder(
    app: App, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    arguments = ("shop_checks:verifier", "--for", "0")

    lost = installed(app, *arguments, cwd=elsewhere)
    found = installed(app, "--app-dir", str(app.folder), *arguments, cwd=elsewhere)

    assert (lost.code, found.code) == (ExitCode.USAGE, ExitCode.DONE)
    assert "no module 'shop_checks'" in lost.err


def test_a_module_of_another_place_is_named_with_it(app: App) -> None:
    shown = installed(app, "json:verifier", cwd=app.folder)

    assert shown.code == ExitCode.USAGE
    assert "json/__init__.py" in " ".join(shown.err.split()).replace(" ", "")


def test_a_stale_value_is_not_blamed_on_the_row_that_led_to_it(
    app: App, tmp_path: Path
) -> None:
    metrics = tmp_path / "verify.prom"
    running = app.start("--for", "3", "--metrics", str(metrics))
    while running.process.poll() is None:
        app.publish()
        app.change_past_the_outbox()
        time.sleep(1.0)

    shown = running.ended()

    [log, *_] = [line for line in shown.err.splitlines() if " ERROR " in line]
    assert "a change was made that no row names" in log
    assert "within 0.1 s:" in shown.out
    assert not re.search(r"row \d", log + shown.out)

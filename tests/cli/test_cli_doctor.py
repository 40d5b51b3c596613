"""``hydracache doctor``: what it finds, what it says to fix, what it ends with."""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import pytest

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
)
from hydracache_sync.cli import ExitCode, outbox_checks
from hydracache_sync.outbox.sqlite.sessions import SQLiteConnector
from hydracache_sync.outbox.status import STATUS_CAP
from support.clock import FakeClock
from support.commands import PATIENCE, SECRET, Ended, Shop, run
from support.faulty_memcached import FaultyMemcached
from support.servers import Memcached, free_port


@pytest.fixture(scope="module")
def memcached() -> Iterator[Memcached]:
    """Of these tests alone: what others do to theirs, as evictions, is found here."""
    with Memcached() as server:
        yield server


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


def doctor(shop: Shop, *arguments: str, **values: object) -> Ended:
    taken = ("outbox", "namespace", "memcached", "connect_timeout", "timeout")
    given = {name: shop.settings[name] for name in taken}
    return run("doctor", *arguments, **{**given, **values})


def found(shop: Shop, **values: object) -> list[dict[str, Any]]:
    """What is not in order."""
    findings = doctor(shop, "--json", **values).json["findings"]
    return [each for each in findings if each["level"] != "ok"]


def use(shop: Shop, *servers: str, ring: str = "1") -> None:
    """Fill the namespace's cache, so that its tokens are there."""
    with MemcachedStore(servers, ring=ring, timeout=PATIENCE) as store:
        cache = TaggedCache(store, shop.namespace)
        for number in range(100):
            cache.get_or_load(str(number), lambda: "value")


def change(shop: Shop, statement: str, *parameters: object) -> None:
    connection = sqlite3.connect(shop.path)
    connection.execute(statement, parameters)
    connection.commit()
    connection.close()


def test_what_is_in_order_is_told_and_nothing_is_changed(
    shop: Shop, memcached: Memcached
) -> None:
    use(shop, memcached.address)
    shop.invalidate(1)
    before = shop.outbox.rows(shop.namespace)

    examined = doctor(shop)
    quiet = doctor(shop, "--quiet")

    assert (examined.code, examined.err) == (ExitCode.DONE, "")
    for text in (
        "ok       versions: hydracache_sync ",
        "ok       outbox: sqlite 3.",
        "ok       schema: ",
        "ok       rights: enough for the role worker\n",
        "ok       rights: enough for the role operator\n",
        f"ok       namespace {shop.namespace}: 1 row waits, the oldest for ",
        f"ok       node {memcached.address}: memcached 1.",
        f"ok       namespace {shop.namespace}: known under ring 1 on ",
    ):
        assert text in examined.out
    assert shop.outbox.rows(shop.namespace) == before
    problems = [line for line in quiet.out.splitlines() if "PROBLEM" in line]
    assert problems == []


def test_a_database_that_is_away_is_told_and_the_rest_is_examined(
    shop: Shop, tmp_path: Path, memcached: Memcached
) -> None:
    examined = doctor(shop, outbox=f"sqlite:///{tmp_path}/none.db")

    assert examined.code == ExitCode.OUTBOX_AWAY
    assert "PROBLEM  outbox: " in examined.out
    assert f"ok       node {memcached.address}" in examined.out
    assert not (tmp_path / "none.db").exists()


def test_missing_tables_are_told_with_what_to_run(shop: Shop) -> None:
    examined = doctor(shop, table="elsewhere")

    assert examined.code == ExitCode.SCHEMA
    assert "PROBLEM  schema: " in examined.out
    assert "         -> hydracache schema install\n" in examined.out


@pytest.mark.parametrize(
    "statement, mend",
    [
        ("update hydracache_outbox_schema set version = 9", "upgrade where"),
        ("update hydracache_outbox_schema set version = 0", "upgrade where"),
        (
            "alter table hydracache_outbox rename column traceparent to other",
            "alter it to what `hydracache schema show` prints",
        ),
    ],
)
def test_an_install_is_no_remedy_for_tables_that_are_there(
    shop: Shop, statement: str, mend: str
) -> None:
    change(shop, statement)

    examined = doctor(shop)

    assert examined.code == ExitCode.SCHEMA
    assert "PROBLEM  schema: " in examined.out
    assert f"         -> {mend}" in examined.out
    assert (
        run("schema", "install", outbox=shop.settings["outbox"]).code == ExitCode.SCHEMA
    )


def test_a_full_disk_is_told_before_the_next_transaction_fails(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "disk" not in [each["check"] for each in found(shop)]
    full = SimpleNamespace(free=8192)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)

    [problem] = [each for each in found(shop) if each["check"] == "disk"]

    assert str(shop.path) in problem["text"]
    assert problem["code"] == ExitCode.OUTBOX_AWAY


def test_a_file_that_must_not_be_written_lacks_rights(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = SQLiteConnector.connect
    monkeypatch.setattr(
        SQLiteConnector, "connect", lambda self, mode="rw": connect(self, "ro")
    )

    as_worker, as_producer = found(shop), doctor(shop, "--role", "producer")

    problems = [each for each in as_worker if each["check"] == "rights"]
    assert [each["code"] for each in problems] == [ExitCode.ALERT] * 2
    assert "delete on the table" in problems[1]["text"]
    assert as_producer.code == ExitCode.ALERT


def test_dead_letters_and_late_rows_are_problems(shop: Shop) -> None:
    shop.invalidate(3)
    change(shop, "update hydracache_outbox set created_at_ms = created_at_ms - 400000")
    change(shop, "update hydracache_outbox set state = 2 where id = 1")

    examined = doctor(shop)

    name = shop.namespace
    assert examined.code == ExitCode.ALERT
    assert f"PROBLEM  namespace {name}: 1 dead letter\n" in examined.out
    assert f"-> hydracache dead list --namespace {name}; " in examined.out
    assert f"PROBLEM  namespace {name}: 2 rows wait, the oldest for 6 min" in (
        examined.out
    )
    assert f"hydracache rows --namespace {name} " in examined.out


def test_rows_that_are_dated_ahead_are_a_warning(shop: Shop) -> None:
    clock = FakeClock(int((time.time() + 86_400) * 1000))
    outbox = SQLiteOutbox(shop.path, clock=clock)
    outbox.enqueue(shop.namespace, InvalidationIntentBatch().invalidate_key("a"))
    outbox.close()

    told = doctor(shop)

    assert re.search(r"dated up to \d+ [hd].* ahead of the database's clock", told.out)


def test_what_was_counted_to_its_end_has_no_plus(shop: Shop) -> None:
    shop.invalidate(STATUS_CAP + 2)
    change(shop, "update hydracache_outbox set state = 2 where id > 1")

    examined = doctor(shop)

    assert f" {shop.namespace}: {STATUS_CAP}+ dead letters\n" in examined.out
    assert f" {shop.namespace}: 1 row waits, " in examined.out


def test_a_paused_namespace_is_a_warning_and_its_late_rows_are_none(
    shop: Shop, memcached: Memcached
) -> None:
    use(shop, memcached.address)
    shop.invalidate(3)
    change(shop, "update hydracache_outbox set created_at_ms = created_at_ms - 400000")
    shop.outbox.pause(shop.namespace, "moving")

    [paused] = found(shop)

    assert paused["level"] == "warning"
    assert paused["text"].endswith("Z: moving")
    assert paused["mend"] == f"hydracache resume {shop.namespace}"


def test_rows_of_a_namespace_that_nobody_carries_here_are_told(
    shop: Shop, memcached: Memcached
) -> None:
    use(shop, memcached.address)
    batch = InvalidationIntentBatch().invalidate_key("k")
    shop.outbox.enqueue("forgotten", batch)

    [fresh] = found(shop)
    change(shop, "update hydracache_outbox set created_at_ms = created_at_ms - 400000")
    [late] = found(shop)
    change(shop, "update hydracache_outbox set state = 1")

    assert (fresh["check"], fresh["level"]) == ("namespace forgotten", "warning")
    assert (late["check"], late["level"]) == ("namespace forgotten", "problem")
    assert "not configured here: 1 row waits" in late["text"]
    assert found(shop) == []


def test_without_namespaces_all_of_the_outbox_are_examined(shop: Shop) -> None:
    shop.invalidate(1)

    examined = doctor(shop, namespace="", memcached="")

    assert examined.code == ExitCode.DONE
    assert f"ok       namespace {shop.namespace}: 1 row waits" in examined.out
    assert "ok       nodes: not asked: --memcached names none\n" in examined.out


@pytest.mark.parametrize("name", ["timeout", "ring", "memcached_tls"])
def test_a_setting_of_servers_that_are_not_named_is_a_warning(
    shop: Shop, name: str
) -> None:
    examined = doctor(shop, memcached="", **{name: "1"})

    option = f"--{name.replace('_', '-')}"
    assert f"WARNING  settings: {option} has no effect without --memcached\n" in (
        examined.out
    )


def test_a_misspelt_variable_is_a_warning(shop: Shop) -> None:
    examined = doctor(shop, memcachd="x")

    assert "WARNING  settings: there is no setting HYDRACACHE_MEMCACHD\n" in (
        examined.out
    )
    assert "-> write HYDRACACHE_MEMCACHED\n" in examined.out


def test_a_variable_that_no_app_takes_is_a_warning(shop: Shop) -> None:
    examined = doctor(shop, pool="one,none", codec_key="short", ttl="60")

    assert "WARNING  settings: HYDRACACHE_POOL: 'one,none' is not allowed" in (
        examined.out
    )
    assert "WARNING  settings: HYDRACACHE_CODEC_KEY: key has 5 bytes" in examined.out
    assert "short" not in examined.out
    assert "HYDRACACHE_TTL" not in examined.out


@pytest.mark.parametrize(("off", "word"), [(90, "ahead of"), (-90, "behind")])
def test_a_clock_that_is_off_is_a_warning(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, off: int, word: str
) -> None:
    monkeypatch.setattr(
        SQLiteOutbox, "now_ms", lambda self: int((time.time() + off) * 1000)
    )

    [clock] = [each for each in found(shop) if each["check"] == "clock"]

    assert clock["level"] == "warning"
    assert f"1 min {30 if off > 0 else 30} s {word} this host's" in clock["text"] or (
        f"1 min 29 s {word} this host's" in clock["text"]
    )


# Nodes


def test_each_node_is_examined_and_one_that_is_away_is_a_problem(
    shop: Shop, memcached: Memcached
) -> None:
    away = f"127.0.0.1:{free_port()}"

    examined = doctor(shop, memcached=f"{memcached.address},{away}")

    assert examined.code == ExitCode.CACHE_AWAY
    assert f"ok       node {memcached.address}: memcached " in examined.out
    assert f"PROBLEM  node {away}: " in examined.out
    assert "change the server list and the ring id" in examined.out


def test_a_namespace_is_looked_for_on_each_node_under_this_ring(
    shop: Shop, memcached: Memcached
) -> None:
    with Memcached() as second:
        servers = (memcached.address, second.address)
        use(shop, *servers)

        same = doctor(shop, memcached=",".join(servers))
        other = found(shop, memcached=",".join(servers), ring="2")

    names = ", ".join(servers)
    assert f"known under ring 1 on {names}\n" in same.out
    [warning] = other
    assert warning["text"].startswith("no reader has cached anything under ring 2")
    assert "another namespace, --ring or server list" in warning["mend"]


@pytest.mark.parametrize("readers_are", [True, False])
def test_strict_here_and_not_there_is_told(
    shop: Shop, memcached: Memcached, readers_are: bool
) -> None:
    with MemcachedStore([memcached.address], timeout=PATIENCE) as store:
        cache = TaggedCache(store, shop.namespace, strict=readers_are)
        cache.get_or_load("key", lambda: "value")
    named, unnamed = {"strict": shop.namespace}, dict[str, str]()

    same = found(shop, **(named if readers_are else unnamed))
    other = found(shop, **(unnamed if readers_are else named))

    assert same == []
    [warning] = other
    assert warning["check"] == f"namespace {shop.namespace}"
    assert ("process that is strict" in warning["text"]) == readers_are
    assert memcached.address in warning["text"]


def test_a_strict_namespace_that_is_none_is_told(shop: Shop) -> None:
    [warning] = (f for f in found(shop, strict="other") if f["check"] == "settings")

    assert "--strict other is not among the namespaces" in warning["text"]


def test_a_node_that_keeps_no_versions_is_a_problem(shop: Shop) -> None:
    with Memcached(arguments=("-C",)) as server:
        use(shop, server.address)
        [finding] = found(shop, memcached=server.address)

    assert finding["level"] == "problem"
    assert "keeps no versions" in finding["text"] and "-C" in finding["mend"]


def test_a_node_that_keeps_its_memory_over_a_restart_is_told(
    shop: Shop, tmp_path: Path
) -> None:
    with Memcached(arguments=("-e", str(tmp_path / "memory"))) as server:
        keeps = doctor(shop, memcached=server.address).out
    with Memcached() as server:
        forgets = doctor(shop, memcached=server.address).out

    assert "keeps its memory over a restart (its option -e)" in " ".join(keeps.split())
    assert "over a restart" not in forgets


def test_a_node_that_evicts_or_would_refuse_is_told(shop: Shop) -> None:
    with Memcached(arguments=("-M", "-I", "2m", "-m", "96")) as full:
        use(shop, full.address)
        refusing = found(shop, memcached=full.address)
        sizes = doctor(shop, memcached=full.address)
    with Memcached(arguments=("-m", "8", "-I", "512k")) as small:
        with MemcachedStore([small.address], timeout=PATIENCE) as store:
            cache = TaggedCache(store, shop.namespace)
            for number in range(100):
                cache.get_or_load(str(number), lambda: "v" * 400_000)
        evicting = found(shop, memcached=small.address)

    assert [each["level"] for each in refusing] == ["problem"]
    assert "its option -M" in refusing[0]["text"]
    assert " of 96 MB, items up to 2048 KB\n" in sizes.out
    texts = [each["text"] for each in evicting]
    assert any("evictions since its start" in text for text in texts)


@pytest.mark.parametrize(
    ("behind", "warned"), [(2.5, False), (-0.9, False), (9, True), (-9, True)]
)
def test_a_node_whose_clock_is_surely_off_is_a_warning(
    shop: Shop,
    memcached: Memcached,
    monkeypatch: pytest.MonkeyPatch,
    behind: float,
    warned: bool,
) -> None:
    use(shop, memcached.address)
    really = MemcachedStore.stats

    def stats(store: MemcachedStore, group: str = "") -> Any:
        found = really(store, group)
        # The server's own is up to three seconds behind, by the way it is made.
        for facts in found.values():
            facts["time"] = str(round(time.time() - behind))
        return found

    monkeypatch.setattr(MemcachedStore, "stats", stats)

    texts = [each["text"] for each in found(shop)]

    assert len(texts) == warned
    assert all("its clock is about" in text for text in texts)


def test_a_node_that_does_not_tell_about_itself_is_a_warning(shop: Shop) -> None:
    with FaultyMemcached() as proxy:
        findings = found(shop, memcached=proxy.address)

    assert [each["level"] for each in findings][0] == "warning"
    assert "does not report its stats" in findings[0]["text"]


def test_no_password_is_shown(shop: Shop) -> None:
    url = f"mysql://user:{SECRET}@127.0.0.1:{free_port()}/db"

    examined = doctor(shop, outbox=url)
    as_json = doctor(shop, "--json", outbox=url)

    assert examined.code == ExitCode.OUTBOX_AWAY
    assert SECRET not in examined.out + examined.err + as_json.out


def test_a_bad_option_is_refused_before_anything_is_asked(shop: Shop) -> None:
    refused = doctor(shop, "--role", "king")

    assert refused.code == ExitCode.USAGE
    assert refused.out == ""


def test_readers_with_a_bound_that_no_worker_serves_are_found(
    shop: Shop, memcached: Memcached
) -> None:
    use(shop, memcached.address)
    [absent] = found(shop, max_staleness=60)
    shop.drain(max_staleness=60)
    there = doctor(shop, max_staleness=60)
    old = found(shop, max_staleness=0.001)

    assert "no watermark" in absent["text"]
    assert "HYDRACACHE_MAX_STALENESS" in absent["mend"]
    assert f"watermark {shop.namespace}: {memcached.address} has one" in there.out
    assert f"{shop.namespace}: everything committed before" in there.out
    assert [each["check"] for each in old] == [f"watermark {shop.namespace}"]


class TestPublishedElsewhere:
    """Workers that use another ring than the readers, which doctor is run for."""

    def invalidate(
        self, shop: Shop, memcached: Memcached, ring: str, since: float | None
    ) -> None:
        """Have a worker of ``ring`` publish what readers have cached a while ago."""
        with MemcachedStore([memcached.address], ring="1", timeout=PATIENCE) as store:
            cache = TaggedCache(store, shop.namespace)
            cache.get_or_load("1", lambda: "value", since=since)
        time.sleep(2 * outbox_checks.CLOCK_SKEW)
        batch = InvalidationIntentBatch().invalidate_key("1").invalidate_key("none")
        shop.outbox.enqueue(shop.namespace, batch.flush())
        with MemcachedStore([memcached.address], ring=ring, timeout=PATIENCE) as store:
            applier = MemcachedApplier(store, shop.namespace)
            assert OutboxWorker(shop.outbox, applier).drain().published == 3

    @pytest.mark.parametrize(
        "since, level, text",
        [
            (1.0, "problem", "1 of the last 2 published rows did not reach ring 1: "),
            (None, "warning", "row 1 was published, and no worker has written its"),
        ],
    )
    def test_is_said(
        self,
        shop: Shop,
        memcached: Memcached,
        since: float | None,
        level: str,
        text: str,
    ) -> None:
        self.invalidate(shop, memcached, "2", since)

        [said] = found(shop, ring="1")

        assert said["level"] == level
        assert said["text"].startswith(text)
        assert "--ring and server list of the apps" in said["mend"]

    @pytest.mark.parametrize("since", [1.0, None])
    def test_is_not_said_of_the_same_ring(
        self, shop: Shop, memcached: Memcached, since: float | None
    ) -> None:
        self.invalidate(shop, memcached, "1", since)

        assert found(shop, ring="1") == []

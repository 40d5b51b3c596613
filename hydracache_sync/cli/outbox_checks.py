"""What ``hydracache doctor`` asks of the database. Changes nothing there."""

from __future__ import annotations

import os
import shutil
import time
from typing import Iterator, Sequence

from hydracache_sync.cli.cluster_checks import VARIABLES, examine_cluster
from hydracache_sync.cli.exit_codes import ExitCode
from hydracache_sync.cli.findings import Finding, ok, problem, warning
from hydracache_sync.cli.status import published_before
from hydracache_sync.errors import OutboxError, ReadOnlyServerError, SchemaError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.mysql.outbox import MySQLOutbox
from hydracache_sync.outbox.privileges import ROLES, Privilege
from hydracache_sync.outbox.row import OutboxStatus
from hydracache_sync.outbox.workers import WorkerProcess
from hydracache_sync.printable import printable
from hydracache_sync.wording.carriers import (
    LISTED,
    cache_counts,
    hit_rate_text,
    name_of,
    uncarried,
    versions_of,
)
from hydracache_sync.wording.moments import counted, duration, utc
from hydracache_sync.wording.rows import count_of

#: Seconds by which clocks may differ; ``since`` and strict namespaces count on it.
CLOCK_SKEW = 1.0

#: Seconds after which a pending row is late, whatever applies it: a drain by cron runs
#: each minute.
LATE = 300.0

#: Loads after which it counts that most of them were not stored.
ENOUGH = 100

#: Whether a COMMIT waits for the disk.
FLUSHES = "innodb_flush_log_at_trx_commit"

#: Bytes that are free where a SQLite file is, at least. A transaction writes some pages
#: of 4 kB to the file and to its journal.
ROOM = 1 << 20


def examine_outbox(
    outbox: InvalidationOutbox, namespaces: Sequence[str], role: str
) -> Iterator[Finding]:
    """Look at everything that can be looked at; an outage ends it with a finding.

    :param namespaces: those that are configured here; none means all there are.
    """
    try:
        yield ok("outbox", _listed(outbox.versions()))
        if isinstance(outbox, MySQLOutbox):
            variables = outbox.global_variables((*VARIABLES, FLUSHES))
            yield from examine_cluster(variables, outbox.replication())
            yield from _durability(variables.get(FLUSHES, "1"))
        yield from _room(outbox)
        yield _clock(outbox)
        outbox.check_schema()
        yield ok("schema", "the tables are there and of this version")
        if isinstance(outbox, MySQLOutbox):
            yield from _engines(outbox.tables_without_rollback())
        yield from _rights(outbox, role)
        yield from _namespaces(outbox, namespaces)
    except SchemaError as exc:
        yield problem("schema", str(exc), _schema_mend(exc), ExitCode.SCHEMA)
    except OutboxError as exc:
        yield problem(
            "outbox",
            str(exc),
            "if it does not say what to do: is the database up, and are --outbox and"
            " its login right?",
            ExitCode.OUTBOX_AWAY,
        )


def _schema_mend(error: SchemaError) -> str:
    if error.found is None:
        return "hydracache schema install"
    if error.found == error.expected:
        return (
            "alter it to what `hydracache schema show` prints: `schema install` changes"
            " no table that is there"
        )
    return "upgrade where the older version is; CHANGELOG.md has the steps"


def _room(outbox: InvalidationOutbox) -> Iterator[Finding]:
    """Whether the disk of a SQLite file has room for the next transaction."""
    path = getattr(outbox, "path", None)
    if path is None:
        return
    try:
        free = shutil.disk_usage(os.path.dirname(path)).free
    except OSError:
        return  # the file's own error says more
    if free < ROOM:
        yield problem(
            "disk",
            f"{free // 1024} kB are free where {path} is",
            "free space there: no transaction can be committed, of the app neither;"
            " rows that are there are applied afterwards",
            ExitCode.OUTBOX_AWAY,
        )


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _clock(outbox: InvalidationOutbox) -> Finding:
    before = time.time()
    now = outbox.now_ms() / 1000
    after = time.time()
    # The answer was made somewhere between the two.
    off = max(before - now, now - after, 0.0)
    ahead = "ahead of" if now > after else "behind"
    if off <= CLOCK_SKEW:
        return ok("clock", f"the database's and this host's agree within {off:.1f} s")
    return warning(
        "clock",
        f"the database's clock is {duration(off)} {ahead} this host's",
        "let NTP set both; `since` and strict namespaces count on less than"
        f" {CLOCK_SKEW:g} s",
    )


def _durability(flushes: str) -> Iterator[Finding]:
    """Judge what a crash takes back, which readers may have cached."""
    text = f"{FLUSHES} is {flushes}: a crash of the"
    after = "commits of its last second, and the cache still has what was read of them"
    flush = "hydracache flush after each"
    if flushes == "0":
        mend = f"set it to 1; else {flush}"
        yield warning("durability", f"{text} server loses {after}", mend)
    elif flushes != "1":
        yield ok("durability", f"{text} machine loses {after}: {flush}")


def _engines(tables: Sequence[str]) -> Iterator[Finding]:
    """Judge tables of the app, whose data may be cached or not."""
    if not tables:
        return
    listed = ", ".join(printable(table) for table in tables[:LISTED])
    more = f" and {len(tables) - LISTED} more" if len(tables) > LISTED else ""
    yield warning(
        "engines",
        f"no rollback undoes a change of {listed}{more}: the change stays, and its"
        " invalidation does not",
        "alter table ... engine = InnoDB, unless nothing of it is cached",
    )


def _rights(outbox: InvalidationOutbox, role: str) -> Iterator[Finding]:
    try:
        missing = outbox.missing_rights()
    except ReadOnlyServerError as exc:
        # Says nothing of the login; what can be read is looked at all the same.
        yield problem(
            "outbox",
            str(exc),
            "name the primary in --outbox, or make this server writable",
            ExitCode.OUTBOX_AWAY,
        )
        return
    for name, needed in ROLES.items():
        lacks = sorted(right for right in needed if right in missing)
        if not lacks:
            yield ok("rights", f"enough for the role {name}")
        elif ROLES[name] <= ROLES[role]:
            first = missing[lacks[0]]
            yield problem(
                "rights",
                f"not enough for the role {name}: {_rights_text(lacks)} missing;"
                f" {first}",
                f"grant {_rights_text(lacks)}, as docs/operations/databases.md says,"
                " or ask with --role for what this login is for",
            )
        else:
            yield ok(
                "rights",
                f"not enough for the role {name}: {_rights_text(lacks)} missing",
            )


def _rights_text(rights: Sequence[Privilege]) -> str:
    return ", ".join(
        f"{right.verb} on the table{' ...' + right.suffix if right.suffix else ''}"
        for right in rights
    )


def _namespaces(
    outbox: InvalidationOutbox, configured: Sequence[str]
) -> Iterator[Finding]:
    there = outbox.namespaces()
    paused = outbox.paused()
    processes = outbox.workers()
    yield from _workers(processes)
    for name in dict.fromkeys([*(configured or there), *paused]):
        if configured and name not in configured:
            continue
        shown = printable(name)
        status = outbox.status(name)
        yield from _status(shown, status)
        yield from _carriers(name, status, processes)
        yield ok(f"namespace {shown}", published_before(outbox.watermark(name)))
        if name in paused:
            pause = paused[name]
            reason = f": {printable(pause.reason)}" if pause.reason else ""
            yield warning(
                f"namespace {shown}",
                f"paused since {utc(pause.since_ms)}{reason}",
                f"hydracache resume {shown}",
            )
    for name in there:
        if configured and name not in configured:
            yield _unconfigured(printable(name), outbox.status(name))


def _status(name: str, status: OutboxStatus) -> Iterator[Finding]:
    check = f"namespace {name}"
    age = status.oldest_pending_age_ms / 1000
    if status.dead_lettered:
        yield problem(
            check,
            counted(count_of(status.dead_lettered, status), "dead letter"),
            f"hydracache dead list --namespace {name}; fix the cause, then `dead"
            " retry`",
        )
    text = _waiting(status)
    if status.pending:
        text += f", the oldest for {duration(age)}"
    ahead = status.ahead_ms / 1000
    if ahead > CLOCK_SKEW:
        yield warning(
            check,
            f"rows are dated up to {duration(ahead)} ahead of the database's clock",
            "set the clock of the host that wrote them, or take SET timestamp out of"
            " its sessions; a worker applies them all the same",
        )
    if age > LATE and status.paused_since_ms is None:
        yield problem(
            check,
            text,
            f"is a worker running? hydracache rows --namespace {name} shows what they"
            " wait for, hydracache drain -v applies them",
        )
    else:
        yield ok(check, text)


def _waiting(status: OutboxStatus) -> str:
    rows = counted(count_of(status.pending, status), "row")
    return f"{rows} {'waits' if status.pending == 1 else 'wait'}"


def _unconfigured(name: str, status: OutboxStatus) -> Finding:
    check = f"namespace {name}"
    if status.pending == 0:
        return ok(
            check,
            "in the outbox, not configured here; none of its rows waits. If no other"
            " app has it, a process has the wrong HYDRACACHE_NAMESPACE",
        )
    age = status.oldest_pending_age_ms / 1000
    text = (
        f"in the outbox, not configured here: {_waiting(status)}, the oldest"
        f" for {duration(age)}"
    )
    mend = (
        "has it a worker elsewhere? Else add it to HYDRACACHE_NAMESPACE of one, or"
        " correct that of the process that writes it"
    )
    return problem(check, text, mend) if age > LATE else warning(check, text, mend)


def _workers(processes: Sequence[WorkerProcess]) -> Iterator[Finding]:
    """Judge all of them together."""
    running = [each for each in processes if each.is_running]
    if not running:
        yield ok("workers", "none runs that says so")
    for each in running[:LISTED]:
        yield ok("workers", _described(each))
    if len(running) > LISTED:
        yield ok("workers", f"and {len(running) - LISTED} more")
    for each in running:
        if each.last_error:
            yield warning(
                "workers",
                f"{name_of(each)} has lately met: {printable(each.last_error)}",
                "`hydracache rows` shows rows that wait for it, `hydracache dead list`"
                " those that were given up",
            )
        if each.reads_elsewhere is not None:
            yield _reads_elsewhere(each)
    found = versions_of(running)
    if len(found) > 1:
        listed = ", ".join(
            f"{printable(version)} ({count})"
            for version, count in sorted(found.items())
        )
        yield warning(
            "workers",
            f"they are of several versions: {listed}",
            "restart those of the older one; a drain runs what its cron job names",
        )


def _described(process: WorkerProcess) -> str:
    names = printable(", ".join(process.namespaces))
    return (
        f"{name_of(process)}, version {printable(process.version)}, applies {names}:"
        f" seen {duration(process.unseen_ms / 1000)} ago,"
        f" {counted(process.carried, 'row')} published"
    )


def _reads_elsewhere(process: WorkerProcess) -> Finding:
    return warning(
        "replica",
        f"loads of {name_of(process)} read {printable(process.reads_elsewhere or '')},"
        " which is not the outbox's server and is read-only: what it is behind is"
        " cached as if it were new",
        "set HYDRACACHE_SNAPSHOT=replica and HYDRACACHE_HEARTBEAT, or"
        " HYDRACACHE_READ_LAG to the seconds that it may be behind",
    )


def _carriers(
    name: str, status: OutboxStatus, processes: Sequence[WorkerProcess]
) -> Iterator[Finding]:
    """Judge the workers of one namespace, and the reads of its caches."""
    check = f"namespace {printable(name)}"
    text = uncarried(name, status, processes)
    if text is not None:
        judged = problem if status.pending else warning
        yield judged(
            check,
            text,
            "is cron running, or the worker? Is the namespace among theirs?"
            f" hydracache drain -v --namespace {printable(name)} applies the rows",
        )
    found = cache_counts(name, processes)
    hits = hit_rate_text(found)
    if hits is None:
        return
    not_stored = sum(found.not_stored.values())
    if not_stored > found.fills and not_stored + found.fills >= ENOUGH:
        yield warning(
            check,
            hits,
            "docs/integrations/flask.md, what a loader reads, has each reason and what"
            " helps",
        )
    else:
        yield ok(check, hits)

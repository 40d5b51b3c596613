"""``hydracache drain``: publish what is due and end, for cron and for people.

May overlap with itself: claims are exclusive, so that two drains share a backlog. Long,
since a drain ends in so many ways, each with its words.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Sequence

import click

from hydracache_sync.app import build, settings
from hydracache_sync.app.setting import Setting
from hydracache_sync.cli.exit_codes import ExitCode, exit_code_of, listed
from hydracache_sync.cli.logs import LOGGER, is_quiet, logging_options, row_progress
from hydracache_sync.cli.options import (
    json_option,
    setting_option,
    with_settings,
    with_workers,
)
from hydracache_sync.cli.purge import purge_in_bites
from hydracache_sync.cli.signals import StopOnSignals
from hydracache_sync.errors import OutboxError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import OutboxStatus
from hydracache_sync.printable import without_passwords
from hydracache_sync.wording.moments import counted, utc
from hydracache_sync.worker.process_beats import ProcessBeats
from hydracache_sync.worker.reports import PublishReport
from hydracache_sync.worker.worker import OutboxWorker

#: Seconds at most that a drain deletes old rows after it has drained; what is left is
#: left to the next one. A bite of each namespace is deleted also when the time is up:
#: otherwise their number would grow without limit beside a drain that is always busy.
PURGE_SECONDS = 5.0

#: What --quiet prints: outcomes that need somebody.
NEEDS_SOMEBODY = (ExitCode.CACHE_AWAY, ExitCode.DEAD_LETTERS)


@dataclass
class NamespaceDrain:
    """How far one namespace has come.

    :ivar nothing_due: the last claim took all that was due.
    :ivar cache_away: the last batch met no cache.
    :ivar purged: rows that had been published long ago, and were deleted.
    :ivar status: what is left; None until it has been read.
    """

    worker: OutboxWorker
    report: PublishReport = field(default_factory=PublishReport)
    seconds: float = 0.0
    purged: int = 0
    nothing_due: bool = False
    cache_away: bool = False
    status: OutboxStatus | None = None

    def run_batch(self, stop: StopOnSignals) -> PublishReport:
        started = time.monotonic()
        outages = self.worker.diagnostics().outages
        report = self.worker.run_once(stop=stop.event)
        self.seconds += time.monotonic() - started
        self.report += report
        # All rows were given back: because the cache is away, which the worker counts
        # when it begins, because of a signal, or because the claim's time ran out.
        since_before = outages > 0 and stop.received is None
        went_away = self.worker.diagnostics().outages > outages
        none_done = 0 < report.claimed == report.released
        self.cache_away = none_done and (went_away or since_before)
        if self.worker.partly_away:
            # A node of several: its rows wait, whatever else was done or is left.
            self.cache_away = True
        self.nothing_due = (
            report.claimed < self.worker.batch_size and not report.released
        )
        return report

    @property
    def exit_code(self) -> ExitCode:
        if self.report.dead_lettered:
            return ExitCode.DEAD_LETTERS
        if self.status is not None and self.status.pending == 0:
            return ExitCode.DONE
        if self.cache_away:
            return ExitCode.CACHE_AWAY
        return ExitCode.WAITING if self.nothing_due else ExitCode.ENDED_EARLY


def drain_all(
    drains: Sequence[NamespaceDrain],
    *,
    stop: StopOnSignals,
    once: bool,
    deadline: float,
    on_batch: Callable[[PublishReport], None],
) -> str | None:
    """Run batches, the namespaces in turn, so that a flood in one starves no other.

    :return: what ended it before nothing was due; None if nothing did.
    """
    waiting = deque(drains)
    while waiting:
        if stop.received is not None:
            return stop.received
        drain = waiting.popleft()
        report = drain.run_batch(stop)
        on_batch(report)
        # Ends as OutboxWorker.drain does: nothing was due, or the cache is away.
        if drain.worker.worth_another(report) and not once:
            waiting.append(drain)
        if waiting and time.monotonic() >= deadline:
            return settings.MAX_SECONDS.option
    if all(drain.nothing_due or drain.cache_away for drain in drains):
        return None
    return stop.received or ("--once" if once else None)


def purge_old(
    outbox: InvalidationOutbox,
    drains: Sequence[NamespaceDrain],
    *,
    keep_published: float,
    stop: StopOnSignals,
    until: float,
) -> None:
    """Delete rows that were published long ago: an app that drains by cron has no pool.

    :param until: moment after which one bite of each namespace is deleted and no more.
    """
    if keep_published == math.inf:
        return
    by_name = {each.worker.namespace: each for each in drains}
    until = min(until, time.monotonic() + PURGE_SECONDS)
    bites = 0

    def count(name: str, deleted: int) -> None:
        nonlocal bites
        bites += 1
        by_name[name].purged += deleted

    purge_in_bites(
        outbox,
        by_name,
        older_than=keep_published,
        go_on=lambda: stop.received is None
        and (bites < len(by_name) or time.monotonic() < until),
        on_bite=count,
    )


@click.command(
    epilog=listed(*(code for code in ExitCode if code is not ExitCode.ALERT)),
)
@with_workers
@setting_option(settings.KEEP_PUBLISHED)
@setting_option(settings.HEARTBEAT)
@setting_option(settings.MAX_SECONDS)
@setting_option(settings.METRICS_FILE)
@with_settings(*build.OF_STATSD)
@click.option("--once", is_flag=True, help="One batch of each namespace, then end.")
@json_option
@logging_options
@click.pass_context
def drain(
    ctx: click.Context,
    *,
    outbox: InvalidationOutbox,
    workers: Sequence[OutboxWorker],
    keep_published: float,
    heartbeat: float | None,
    max_seconds: float | None,
    metrics_file: str | None,
    values: dict[Setting, Any],
    once: bool,
    as_json: bool,
) -> None:
    """Publish what is due, then end.

    Also deletes rows that were published long ago, for 5 seconds at most, writes one
    heartbeat where --heartbeat is given, and stores until when everything is published
    where --max-staleness is.

    Several drains may run at once and share the work. The first SIGTERM or SIGINT
    lets the batch in flight finish, a second one ends the process; so does kill -9,
    and what it held is due again after the claim TTL.
    """
    drains = [NamespaceDrain(worker) for worker in workers]
    process = ProcessBeats(workers, kind="drain", every=0)
    process.listen()
    write_metrics = _metrics_writer(metrics_file, outbox, workers)
    names = [worker.namespace for worker in workers]
    statsd = build.statsd(values, outbox, names, workers=workers)
    ended_by = None
    deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
    with StopOnSignals() as stop:
        try:
            backlogs = None
            if sys.stderr.isatty() and not is_quiet(ctx):
                backlogs = _long_backlogs(outbox, workers)
            with row_progress(backlogs) as progress:
                ended_by = drain_all(
                    drains,
                    stop=stop,
                    once=once,
                    deadline=deadline,
                    on_batch=lambda report: progress(
                        report.published + report.dead_lettered
                    ),
                )
            purge_old(
                outbox, drains, keep_published=keep_published, stop=stop, until=deadline
            )
            for worker in workers:
                if worker.watermark:
                    worker.store_watermark()
            if heartbeat is not None:
                outbox.write_heartbeat(every=heartbeat / 2)
            _say_who_drained(process)
            for each in drains:
                each.status = outbox.status(each.worker.namespace)
        except OutboxError as exc:
            if as_json:
                _print_json(drains, ended_by, exit_code_of(exc), exc)
            else:
                _print_until_failure(drains)
            raise
        finally:
            write_metrics()
            if statsd is not None:
                statsd.close()
        code = max(each.exit_code for each in drains)
        if as_json:
            _print_json(drains, ended_by, code, None)
        else:
            for each in drains:
                if not is_quiet(ctx) or each.exit_code in NEEDS_SOMEBODY:
                    click.echo(_line(each, ended_by))
    ctx.exit(code)


def _say_who_drained(process: ProcessBeats) -> None:
    try:
        process.write()
    except OutboxError as exc:
        # The rows are published all the same, which the exit code is about.
        LOGGER.warning("that this drain has run is not noted: %s", exc)


def _metrics_writer(
    path: str | None, outbox: InvalidationOutbox, workers: Sequence[OutboxWorker]
) -> Callable[[], None]:
    """Count from now on what ``workers`` do; return what writes it to ``path``.

    :raises ConfigurationError: prometheus_client is missing.
    """
    if path is None:
        return lambda: None
    names = [worker.namespace for worker in workers]
    metrics = build.metrics(
        settings.METRICS_FILE.option, outbox, names, workers=workers
    )

    def write() -> None:
        try:
            metrics.write_file(path)
        except OSError as exc:
            # The rows are published all the same, which the exit code is about.
            LOGGER.error("the metrics are not written: %s", exc)

    return write


def _long_backlogs(
    outbox: InvalidationOutbox, workers: Sequence[OutboxWorker]
) -> list[OutboxStatus] | None:
    """What is pending, if it is more than a batch or two, which need no bar."""
    backlogs = [outbox.status(worker.namespace) for worker in workers]
    long = any(
        status.pending > 2 * worker.batch_size
        for status, worker in zip(backlogs, workers)
    )
    return backlogs if long else None


# Output


def _print_json(
    drains: Sequence[NamespaceDrain],
    ended_by: str | None,
    code: ExitCode,
    error: OutboxError | None,
) -> None:
    click.echo(
        json.dumps(
            {
                "exit_code": code.value,
                "result": code.name.lower(),
                "ended_by": ended_by,
                "seconds": round(sum(each.seconds for each in drains), 3),
                "error": None if error is None else without_passwords(str(error)),
                "namespaces": [
                    {
                        "namespace": each.worker.namespace,
                        "report": asdict(each.report),
                        "purged": each.purged,
                        "status": each.status and each.status._asdict(),
                    }
                    for each in drains
                ],
            }
        )
    )


def _print_until_failure(drains: Sequence[NamespaceDrain]) -> None:
    for each in drains:
        if each.report.claimed:
            click.echo(f"{_done(each)}; then the outbox failed")


def _line(drain: NamespaceDrain, ended_by: str | None) -> str:
    status, code = drain.status, drain.exit_code
    assert status is not None
    rows = _rows(status)
    if status == OutboxStatus():
        rest = "the outbox has no row of this namespace"
    elif status.pending == 0:
        rest = "nothing is left"
    elif drain.cache_away:
        rest = f"memcached is away, waiting: {rows}"
    elif status.paused_since_ms is not None:
        since = utc(status.paused_since_ms)
        rest = f"paused since {since} and not resumed, waiting: {rows}"
    elif drain.nothing_due:
        rest = f"waiting in backoff or being drained: {rows}"
    else:
        cause = ended_by or "a claim TTL too short for a batch"
        rest = f"ended by {cause}, left: {rows}"
    if code is ExitCode.DEAD_LETTERS:
        rest += "; why rows were given up is in the log and in their last_error"
    return f"{_done(drain)}; {rest}"


def _done(drain: NamespaceDrain) -> str:
    report = drain.report
    counts = [
        f"{count} {what}"
        for count, what in (
            (report.retried, "to be retried"),
            (report.dead_lettered, "given up"),
            (report.released, "given back"),
            (report.lost, "taken over by others"),
            (drain.purged, "old rows purged"),
        )
        if count
    ]
    counts.insert(0, f"{report.published} published")
    return f"{drain.worker.namespace}: {', '.join(counts)} in {drain.seconds:.2f} s"


def _rows(status: OutboxStatus) -> str:
    return counted(f"{status.pending}{'+' if status.capped else ''}", "row")

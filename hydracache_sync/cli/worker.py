"""``hydracache worker``: a pool in a process of its own, until it is told to end."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any, Callable, Mapping, Sequence

import click

from hydracache_sync.app import build, contradictions, settings
from hydracache_sync.app.setting import Setting
from hydracache_sync.cli.exit_codes import ExitCode, listed
from hydracache_sync.cli.logs import LOGGER, is_quiet, logging_options
from hydracache_sync.cli.options import json_option, with_settings, with_workers
from hydracache_sync.cli.signals import ENDING, StopOnSignals
from hydracache_sync.cli.systemd import ServiceManager
from hydracache_sync.errors import OutboxError, SchemaError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.pool import PoolHealth, ThreadState, WorkerPool
from hydracache_sync.printable import without_passwords
from hydracache_sync.wording.moments import duration
from hydracache_sync.worker.worker import OutboxWorker

#: Seconds between two looks at the threads, unless the watchdog wants them oftener.
LOOK_INTERVAL = 5.0

#: Seconds of one wait for the pool's end; in between the watchdog is told that we wait.
END_INTERVAL = 1.0

#: What :func:`_serve_pages` reads.
OF_PAGES = (settings.METRICS_PORT, settings.HEALTH_PORT, settings.HEALTH_HOST)


@click.command(
    epilog=listed(
        ExitCode.DONE,
        ExitCode.FAILED,
        ExitCode.USAGE,
        ExitCode.ENDED_EARLY,
        ExitCode.SCHEMA,
    ),
)
@with_workers
@with_settings(settings.THREADS, *build.OF_POOL, *build.OF_STATSD, *OF_PAGES)
@json_option
@logging_options
@click.pass_context
def worker(
    ctx: click.Context,
    *,
    outbox: InvalidationOutbox,
    workers: Sequence[OutboxWorker],
    values: dict[Setting, Any],
    as_json: bool,
) -> None:
    """Publish rows as they are committed, until a signal ends it.

    Waits out any outage of the database or of memcached. Several may run, on one host
    or on many, and share the work.

    SIGTERM, SIGINT or SIGHUP lets the batch in flight finish; a second one ends the
    process at once, and what it held is due again after the claim TTL. Settings are
    read at the start: restart it to change them, nothing is lost meanwhile.

    Under systemd it says when it is ready and pings the watchdog as long as no thread
    is stuck; see examples/systemd.
    """
    bound = {settings.MAX_STALENESS: ctx.params[settings.MAX_STALENESS.name]}
    for problem in contradictions.pool_bound_contradictions(
        {**values, **bound}, lambda setting: setting.option
    ):
        raise click.UsageError(problem)
    manager = ServiceManager(os.environ)
    pool = build.pool(values, workers, threads=values[settings.THREADS], kind="worker")
    _serve_pages(values, outbox, workers, pool)
    statsd = build.statsd(
        values,
        outbox,
        [each.namespace for each in workers],
        workers=workers,
        pool=lambda: pool,
    )
    started = time.monotonic()
    with StopOnSignals(ENDING) as stop:
        _require_schema(outbox)
        pool.start()
        if statsd is not None:
            statsd.ensure()
        manager.ready()
        _look_after(pool, workers, manager, stop)
        manager.stopping()
        # Nothing new is begun after half of a claim's time, so that a batch that is
        # still in flight when all of it is over will not end by itself.
        patience = max(each.claim_ttl for each in workers)
        finished = _end(pool, manager, patience)
        if statsd is not None:
            statsd.close()
    code = ExitCode.DONE if finished else ExitCode.ENDED_EARLY
    if not finished:
        LOGGER.warning(
            "a batch did not end within %g s; its rows are taken over when their"
            " claims end",
            patience,
        )
    seconds = time.monotonic() - started
    if as_json:
        click.echo(
            json.dumps(
                {
                    "exit_code": code.value,
                    "ended_by": stop.received,
                    "seconds": round(seconds, 3),
                    "namespaces": [
                        {
                            "namespace": each.namespace,
                            "diagnostics": asdict(each.diagnostics()),
                        }
                        for each in workers
                    ],
                }
            )
        )
    elif not is_quiet(ctx):
        for each in workers:
            counts = _counts(each)
            click.echo(
                f"{each.namespace}: {counts} in {duration(seconds)};"
                f" ended by {stop.received}"
            )
    if not finished:
        # Closing what a thread is using would be worse than leaving it open.
        sys.stdout.flush()
        os._exit(code)
    ctx.exit(code)


def _serve_pages(
    values: Mapping[Setting, Any],
    outbox: InvalidationOutbox,
    workers: Sequence[OutboxWorker],
    pool: WorkerPool,
) -> None:
    """Serve the pages that were asked for; one port may have both.

    :raises ConfigurationError: a port is taken, or prometheus_client is missing.
    """
    # With an HTTP server, which the other commands have no use for.
    from hydracache_sync.cli.http_pages import Answer, health_page, serve

    pages: dict[int, dict[str, Callable[[], Answer]]] = {}
    port = values[settings.HEALTH_PORT]
    if port is not None:
        pages[port] = {"/healthz": lambda: health_page(pool.health())}
    port = values[settings.METRICS_PORT]
    if port is not None:
        metrics = build.metrics(
            settings.METRICS_PORT.option,
            outbox,
            [each.namespace for each in workers],
            workers=workers,
            pool=lambda: pool,
        )
        pages.setdefault(port, {})["/metrics"] = lambda: (
            200,
            metrics.content_type,
            metrics.scrape(),
        )
    for port, served in pages.items():
        serve(values[settings.HEALTH_HOST], port, served)


def _require_schema(outbox: InvalidationOutbox) -> None:
    """Fail now if there are no tables; an outage is waited out like any later one.

    :raises SchemaError: they are missing, or of another version.
    """
    try:
        outbox.check_schema()
    except SchemaError:
        raise
    except OutboxError as exc:
        # Rows wait: the pool starts, and polls until the database answers.
        LOGGER.warning("the tables could not be checked: %s", exc)


def _look_after(
    pool: WorkerPool,
    workers: Sequence[OutboxWorker],
    manager: ServiceManager,
    stop: StopOnSignals,
) -> None:
    """Tell the service manager how the pool is, until a signal comes."""
    interval = min(LOOK_INTERVAL, manager.ping_interval or LOOK_INTERVAL)
    while stop.received is None:
        health = pool.health()
        if is_alive(health):
            manager.ping()
        manager.status(describe(health, workers))
        stop.wait(interval)


def _end(pool: WorkerPool, manager: ServiceManager, patience: float) -> bool:
    """Wait for the batches in flight; tell whether they have finished."""
    deadline = time.monotonic() + patience
    while not pool.stop(min(END_INTERVAL, patience)):
        if time.monotonic() >= deadline:
            return False
        manager.ping()
    return True


def is_alive(health: PoolHealth) -> bool:
    """Whether a restart would fix nothing: an outage is not fixed by one."""
    stopped = (ThreadState.STUCK, ThreadState.DEAD)
    return health.running and not any(
        thread.state in stopped for thread in health.threads
    )


def describe(health: PoolHealth, workers: Sequence[OutboxWorker]) -> str:
    """One line for ``systemctl status``."""
    states: dict[str, int] = {}
    for thread in health.threads:
        states[thread.state.value] = states.get(thread.state.value, 0) + 1
    threads = ", ".join(f"{count} {state}" for state, count in states.items())
    carried = "; ".join(f"{each.namespace}: {_counts(each)}" for each in workers)
    outages = [outage.error for outage in health.outages]
    text = f"threads: {threads or 'none'}; {carried}"
    if outages:
        text += f"; waiting: {outages[0]}"
    return without_passwords(text)


def _counts(each: OutboxWorker) -> str:
    done = each.diagnostics()
    dead = f", {done.dead_lettered} given up" if done.dead_lettered else ""
    return f"{done.published} published{dead}"

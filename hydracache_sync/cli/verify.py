"""``hydracache verify``: does what is published really take effect in the cache?

What a cached read is, only the app can say; so it supplies the verifier, and this
command runs it. Needs prometheus_client for ``--metrics`` only.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Iterator

import click

from hydracache_sync.cli.exit_codes import ExitCode, listed
from hydracache_sync.cli.logs import is_quiet, logging_options
from hydracache_sync.cli.options import DURATION, json_option
from hydracache_sync.cli.signals import ENDING, StopOnSignals
from hydracache_sync.cli.status import published_before
from hydracache_sync.errors import OutboxError
from hydracache_sync.outbox.watermark import Watermark
from hydracache_sync.verify import CacheVerifier
from hydracache_sync.verify_report import FAILED, VerifyReport
from hydracache_sync.wording.moments import duration

if TYPE_CHECKING:
    from prometheus_client.core import Metric

#: Seconds between two writes of the metrics file.
METRICS_EVERY = 10.0

_EXIT_CODES = listed(
    ExitCode.DONE, ExitCode.FAILED, ExitCode.USAGE, ExitCode.OUTBOX_AWAY, ExitCode.STALE
)


@click.command(epilog=_EXIT_CODES)
@click.argument("verifier", metavar="MODULE:NAME")
@click.option(
    "--app-dir",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    metavar="DIR",
    help="Where the module is, if it is not installed: by default the working"
    " directory. Installed modules come first.",
)
@click.option(
    "--for",
    "seconds",
    type=DURATION,
    metavar="TIME",
    help="Take samples for so long, then finish their checks: 90, 10m, 1h. By default"
    " until a signal comes.",
)
@click.option(
    "--metrics",
    type=click.Path(dir_okay=False, writable=True),
    help="Write counts there for Prometheus, each 10 s: a .prom file for the textfile"
    " collector of its node exporter. Needs the extra `metrics`.",
)
@json_option
@logging_options
@click.pass_context
def verify(
    ctx: click.Context,
    *,
    verifier: str,
    app_dir: str | None,
    seconds: float | None,
    metrics: str | None,
    as_json: bool,
) -> None:
    """Compare the cache with the database after invalidations are published.

    MODULE:NAME is a CacheVerifier of the app, or a function without arguments that
    makes one. Cached functions are found by their decorator; of other reads it says
    what the app caches and how it loads that. A sample of published invalidations is
    looked at a second, a minute and five minutes later. Runs beside the app, for as
    long as you like; reads only.
    """
    found = _loaded(verifier, app_dir)
    exporter = None if metrics is None else _Exporter(found, metrics)
    started = time.monotonic()
    found.look()  # from now on; fails at once where there is no outbox
    with StopOnSignals(ENDING) as stop:
        while stop.received is None:
            sampling = seconds is None or time.monotonic() < started + seconds
            pause = found.step(sampling=sampling, stop=stop.event)
            if exporter is not None:
                exporter.write_if_due()
            if not sampling and not found.report().waiting:
                break
            stop.wait(pause)
        report = found.report()
    if exporter is not None:
        exporter.write()
    code = _exit_code(report)
    if as_json:
        _print_json(found, report, code)
    elif not is_quiet(ctx) or code is not ExitCode.DONE:
        _print(found, report, time.monotonic() - started)
    ctx.exit(code)


def _loaded(name: str, app_dir: str | None) -> CacheVerifier:
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise click.UsageError(f"{name!r} is not of the form MODULE:NAME")
    # The app is looked for where the command is run. Last: a file that lies there must
    # not run in place of a package that is installed.
    sys.path.append(str(app_dir or os.getcwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise  # the app is there and lacks something else
        raise click.UsageError(f"there is no module {exc.name!r}") from exc
    try:
        found = getattr(module, attribute)
    except AttributeError as exc:
        place = getattr(module, "__file__", None) or "built in"
        raise click.UsageError(
            f"module {module_name!r} ({place}) has no {attribute!r}"
        ) from exc
    if callable(found):
        found = found()
    if not isinstance(found, CacheVerifier):
        raise click.UsageError(
            f"{name} is {type(found).__name__}, not a CacheVerifier or a function that"
            " makes one"
        )
    return found


def _exit_code(report: VerifyReport) -> ExitCode:
    if report.stale:
        return ExitCode.STALE
    return ExitCode.FAILED if report.checks[FAILED] else ExitCode.DONE


def _print(found: CacheVerifier, report: VerifyReport, seconds: float) -> None:
    counts = ", ".join(f"{n} {what}" for what, n in report.checks.items() if n)
    click.echo(
        f"{found.namespace}: {report.sampled} of {report.published} published rows"
        f" checked in {duration(seconds)}: {counts or 'nothing to compare'}"
    )
    if report.unmapped:
        click.echo(
            f"{report.unmapped} of them invalidate nothing that is known to be cached"
        )
    for within in report.within:
        click.echo(str(within))
    mark = _watermark(found)
    if mark is not None:
        click.echo(f"{found.namespace}: {published_before(mark)}")
    for each in report.findings:
        click.echo(str(each))


def _watermark(found: CacheVerifier) -> Watermark | None:
    try:
        return found.watermark()
    except OutboxError:
        # What was found before the database went away is printed all the same.
        return None


def _print_json(found: CacheVerifier, report: VerifyReport, code: ExitCode) -> None:
    record = asdict(report)
    record["findings"] = [
        {
            "key": each.key,
            "row": None if each.row is None else each.row.id,
            "delay": each.delay,
            "cause": each.cause,
        }
        for each in report.findings
    ]
    mark = _watermark(found)
    record["within"] = [{**asdict(each), "nines": each.nines} for each in report.within]
    record.update(
        namespace=found.namespace,
        published_before_ms=mark and mark.moment_ms,
        exit_code=code.value,
        result=code.name.lower(),
    )
    click.echo(json.dumps(record))


class _Exporter:
    """The counts of a verifier in the text format of Prometheus, in a file."""

    def __init__(self, verifier: CacheVerifier, path: str) -> None:
        try:
            from prometheus_client import CollectorRegistry
        except ModuleNotFoundError as exc:
            raise click.UsageError(
                "--metrics needs prometheus_client: install hydracache_sync"
                " with its extra 'metrics'"
            ) from exc
        self._verifier = verifier
        self._path = path
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._written_at = float("-inf")

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        report = self._verifier.report()
        namespace = self._verifier.namespace
        checks = CounterMetricFamily(
            "hydracache_verify_checks",
            "Comparisons of the cache with the database, by what they came to.",
            labels=["namespace", "verdict"],
        )
        for verdict, count in report.checks.items():
            checks.add_metric([namespace, verdict], count)
        yield checks
        for name, text, count in (
            ("published", "Published rows that were seen.", report.published),
            ("sampled", "Published rows that were taken.", report.sampled),
            (
                "unmapped",
                "Of these, rows that the app cached nothing of.",
                report.unmapped,
            ),
        ):
            rows = CounterMetricFamily(
                f"hydracache_verify_{name}", text, labels=["namespace"]
            )
            rows.add_metric([namespace], count)
            yield rows

    def write_if_due(self) -> None:
        if time.monotonic() >= self._written_at + METRICS_EVERY:
            self.write()

    def write(self) -> None:
        """Replace the file in one step, so that no reader gets half of it."""
        from prometheus_client import write_to_textfile

        write_to_textfile(self._path, self._registry)
        self._written_at = time.monotonic()

"""Run the command line, in this process or as one of its own, to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from hydracache_sync import InvalidationIntentBatch, OutboxState, SQLiteOutbox
from hydracache_sync.cli import hydracache

#: Seconds after which a command that should have ended is a defect.
PATIENCE = 60.0

PROGRAM = (sys.executable, "-m", "hydracache_sync")

SECRET = "s3cr3t"


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.out)
        return parsed


def environment(**values: object) -> dict[str, str]:
    """This process's, with exactly these settings: ``outbox=``, ``claim_ttl=``..."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HYDRACACHE_")
    }
    given = {f"HYDRACACHE_{name.upper()}": str(values[name]) for name in values}
    return {**clean, **given}


def run(*arguments: str, **values: object) -> Ended:
    """Run the command line in this process."""
    try:
        runner = CliRunner(mix_stderr=False)  # click 8.1
    except TypeError:
        runner = CliRunner()
    changed: dict[str, str | None] = {name: None for name in os.environ}
    changed.update(environment(**values))
    result = runner.invoke(hydracache, arguments, env=changed)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


def start(
    *arguments: str,
    program: tuple[str, ...] = PROGRAM,
    stderr: int = subprocess.PIPE,
    ignored: tuple[signal.Signals, ...] = (),
    **values: object,
) -> subprocess.Popen[str]:
    """Start the command line as a process of its own; ``ended`` waits for it."""

    def take_signals() -> None:
        # A suite that was itself started with "&" ignores SIGINT, and so would this.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    return subprocess.Popen(
        [*program, *arguments],
        env=environment(**values),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        errors="replace",
        preexec_fn=take_signals,
    )


def ended(process: subprocess.Popen[str]) -> Ended:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    return Ended(process.returncode, out, err or "")


def wait_until_it_handles_signals(process: subprocess.Popen[str]) -> None:
    """Wait until the drain has begun: from then on it ends as it promises."""
    wait_for_signal_state(process, "SigCgt", signal.SIGTERM, True)


def wait_for_signal_state(
    process: subprocess.Popen[str], field: str, number: signal.Signals, wanted: bool
) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            name, _, mask = line.partition(":")
            if name == field and bool(int(mask, 16) >> (number - 1) & 1) is wanted:
                return
        time.sleep(0.005)
    raise AssertionError(f"{field} of {number} never became {wanted}")


class Shop:
    """An app that keeps its data and its outbox in one SQLite file.

    A context manager, which closes the outbox.
    """

    def __init__(self, path: Path, namespace: str, memcached: str) -> None:
        self.namespace = namespace
        self.path = path
        self.settings: dict[str, object] = {
            "outbox": f"sqlite:///{path}",
            "namespace": namespace,
            "memcached": memcached,
            # A busy machine is no outage.
            "connect_timeout": PATIENCE,
            "timeout": PATIENCE,
            # Rows that met an outage or failed are due again at once.
            "backoff": 0,
        }
        self.outbox = SQLiteOutbox(path)
        self.outbox.install_schema()

    def __enter__(self) -> Shop:
        return self

    def __exit__(self, *raised: object) -> None:
        self.outbox.close()

    def invalidate(self, rows: int, first: int = 0) -> None:
        """Commit ``rows`` invalidations of different keys."""
        batch = InvalidationIntentBatch("test")
        for number in range(first, first + rows):
            batch.invalidate_key(f"product:{number}")
        self.outbox.enqueue(self.namespace, batch)

    def pending(self) -> int:
        return self.outbox.status(self.namespace).pending

    def published(self) -> int:
        return len(
            self.outbox.rows(self.namespace, state=OutboxState.PUBLISHED, limit=10**6)
        )

    def drain(self, *arguments: str, **values: object) -> Ended:
        return run("drain", *arguments, **{**self.settings, **values})

    def start_drain(self, *arguments: str, **values: Any) -> subprocess.Popen[str]:
        return start("drain", *arguments, **{**self.settings, **values})

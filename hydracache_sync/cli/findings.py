"""What an examination found: facts, warnings and problems, each with what fixes it."""

from __future__ import annotations

import enum
from typing import NamedTuple

from hydracache_sync.cli.exit_codes import ExitCode


class Level(enum.Enum):
    OK = "ok"
    #: Works, and should be looked at.
    WARNING = "warning"
    #: Rows wait, are given up, or will be.
    PROBLEM = "problem"


class Finding(NamedTuple):
    """One line of ``hydracache doctor``.

    :ivar check: what was looked at: "schema", "rights", a node's name.
    :ivar mend: what to do; None for what is in order.
    :ivar code: what a command ends with that has found this.
    """

    check: str
    level: Level
    text: str
    mend: str | None = None
    code: ExitCode = ExitCode.DONE


def ok(check: str, text: str) -> Finding:
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, mend: str) -> Finding:
    return Finding(check, Level.WARNING, text, mend)


def problem(
    check: str, text: str, mend: str, code: ExitCode = ExitCode.ALERT
) -> Finding:
    return Finding(check, Level.PROBLEM, text, mend, code)

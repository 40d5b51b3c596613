"""The exit codes of every command, in one place: scripts and monitors rely on them."""

from __future__ import annotations

import enum

from hydracache_sync.errors import (
    ApplyUnavailable,
    ConfigurationError,
    OutboxError,
    SchemaError,
)


class ExitCode(enum.IntEnum):
    """What a command ended with. Where several apply, the highest one is given."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    DONE = 0, "Done: nothing is left to drain, nothing is wrong."
    FAILED = 1, "An error that is not in this table; the message says which."
    USAGE = 2, "An option or a HYDRACACHE_ variable is wrong; nothing was done."
    WAITING = (
        3,
        "Nothing is due now, but rows wait: in backoff, paused or being drained.",
    )
    ENDED_EARLY = (
        4,
        "Ended by --once, --max-seconds or a signal; rows may still be due.",
    )
    CACHE_AWAY = 5, "memcached did not answer; the rows wait and none is lost."
    DEAD_LETTERS = 6, "Rows were given up in this run; an operator has to look at them."
    OUTBOX_AWAY = 7, "The database could not be reached, or stayed locked."
    SCHEMA = 8, "The outbox's tables are missing, or of another version."
    ALERT = 9, "A threshold was crossed; the output says which."
    STALE = 10, "The cache serves what a published invalidation had made stale."


def exit_code_of(error: BaseException) -> ExitCode:
    """The code for a command that was ended by ``error``."""
    if isinstance(error, SchemaError):
        return ExitCode.SCHEMA
    if isinstance(error, OutboxError):
        return ExitCode.OUTBOX_AWAY
    if isinstance(error, ApplyUnavailable):
        return ExitCode.CACHE_AWAY
    if isinstance(error, ConfigurationError):
        return ExitCode.USAGE
    return ExitCode.FAILED


def listed(*codes: ExitCode) -> str:
    """The part of a command's help that says what it may end with."""
    lines = [f"  {code.value}  {code.meaning}" for code in codes]
    # "\b" keeps click from filling the lines up to a paragraph.
    return "\n".join(["\b", "Exit codes:", *lines])


def of_outbox(*more: ExitCode) -> str:
    """The same for a command that opens the outbox, and may end with ``more``."""
    usual = {
        ExitCode.DONE,
        ExitCode.FAILED,
        ExitCode.USAGE,
        ExitCode.OUTBOX_AWAY,
        ExitCode.SCHEMA,
    }
    return listed(*sorted(usual.union(more)))

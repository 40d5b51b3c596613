"""One thing that can be set, and how the texts of settings are read.

Reading a text never connects to anything, and the complaint about a bad one shows no
password. Knows no click and reads no environment.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Callable, Protocol

from hydracache_sync.cache.codecs.signed import SignedCodec
from hydracache_sync.durations import MAX_SECONDS as LONGEST
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.memcached.server_list import (
    parse_server,
    parse_servers,
    parse_weights,
)
from hydracache_sync.outbox.url import open_outbox

PREFIX = "HYDRACACHE_"

#: Where StatsD listens by default.
STATSD_PORT = 8125

#: What keeps published rows for good.
FOREVER = "forever"


@dataclass(frozen=True)
class Setting:
    """One thing that can be set.

    :ivar parse: reads a text; raises ``ValueError`` or ``ConfigurationError`` saying
        what is allowed.
    :ivar default: None if there is none.
    :ivar several: may be given more than once; a comma separates in a variable.
    :ivar secret: tells whether a text holds a password, and then must not be typed on a
        command line, where every user of the machine can read it.
    """

    name: str
    metavar: str
    meaning: str
    parse: Callable[[str], Any]
    default: Any = None
    several: bool = False
    secret: Callable[[str], bool] | None = None

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


class SettingValues(Protocol):
    """Values of settings, parsed, defaults filled in: a dict, or an app's config."""

    def __getitem__(self, setting: Setting, /) -> Any: ...


# What the texts look like


def outbox_url(text: str) -> str:
    """Check that an outbox can be made of the text."""
    open_outbox(text)
    return text


def file_path(text: str) -> str:
    """Take the path of a file; whether it can be read is seen when it is needed."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is no path of a file")
    return text


def host_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", text):
        raise ValueError(
            f"{text!r} is no name of a host: 1 to 253 letters, digits, dots and hyphens"
        )
    return text


def table_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", text):
        raise ValueError(
            f"{text!r} is no table's name: allowed are 1 to 100 letters, digits and"
            " underscores, no digit first"
        )
    return text


def servers(text: str) -> tuple[str, ...]:
    """Read a server list, separated by commas."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    parse_servers(found)
    return found


def weights(text: str) -> dict[str, float]:
    """Read ``host:port=2``, several separated by commas."""
    found = {}
    for part in filter(None, map(str.strip, text.split(","))):
        server, _, number = part.rpartition("=")
        try:
            found[server] = float(number)
        except ValueError:
            raise ValueError(f"{part!r} is no weight: expected 'host:port=2'") from None
    parse_weights(found, [parse_server(server) for server in found])
    return found


def seconds_from(least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        # Not a number is in no range.
        if least <= found <= LONGEST:
            return found
        raise ValueError(
            f"{text!r} is not allowed: seconds, {least:g} to {LONGEST:.0f}"
        )

    return parse


seconds = seconds_from(0)
#: The shortest time that is kept as a whole millisecond.
some_seconds = seconds_from(0.001)


def seconds_or_forever(text: str) -> float:
    if text == FOREVER:
        return math.inf
    try:
        return seconds(text)
    except ValueError as exc:
        raise ValueError(f"{exc}, or {FOREVER!r}") from None


def count(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[+-]?[0-9]{1,18}", text) and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"{text!r} is not allowed: a whole number, {least} to {most}")

    return parse


def share(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if 0 <= found <= 1:
        return found
    raise ValueError(f"{text!r} is not allowed: a share, 0 to 1")


def switch(text: str) -> bool:
    if text.lower() in ("1", "yes", "true", "on"):
        return True
    if text.lower() in ("0", "no", "false", "off"):
        return False
    raise ValueError(f"{text!r} is not allowed: yes or no")


def tracing_backend(text: str) -> str | None:
    """Return what spans are made with and how; None for no spans."""
    if text in ("keys", "sentry"):
        return text
    try:
        return "otel" if switch(text) else None
    except ValueError:
        raise ValueError(f"{text!r} is not allowed: yes, no, keys or sentry") from None


def choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text in allowed:
            return text
        raise ValueError(f"{text!r} is not allowed: one of {', '.join(allowed)}")

    return parse


def signing_keys(text: str) -> tuple[bytes, ...]:
    """Read the keys of a codec, separated by commas."""
    keys = tuple(part.strip().encode("utf-8") for part in text.split(","))
    # Says what is wrong, and shows none of them.
    SignedCodec(key=keys)
    return keys


def statsd_server(text: str) -> tuple[str, int]:
    """Read where a StatsD listens: ``host:port``, or a host alone for port 8125."""
    host, colon, port = text.rpartition(":")
    if text.endswith("]") or not colon:
        host, port = text, str(STATSD_PORT)
    try:
        server = parse_server(f"{host}:{port}")
    except ConfigurationError:
        server = None
    if server is None or server.path is not None:
        raise ValueError(
            f"{text!r} is no address of a StatsD: 'host:port', '[v6]:port' or 'host'"
        )
    return server.host, server.port


def dotted_name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", text) and len(text) <= 100:
        return text
    raise ValueError(
        f"{text!r} is no prefix of names: up to 100 letters, digits, _ and -, and dots"
        " between them"
    )


def url_path(text: str) -> str:
    if re.fullmatch(r"/[A-Za-z0-9_./-]+", text):
        return text
    raise ValueError(
        f"{text!r} is no path of a page: a slash, then letters, digits, _, ., / and -"
    )


def cookie_name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]{0,64}", text):
        return text
    raise ValueError(
        f"{text!r} is no cookie's name: up to 64 letters, digits, - and _, or nothing"
        " for no cookie"
    )

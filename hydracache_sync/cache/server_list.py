"""Where memcached servers are, read from configuration text.

Refuses what it does not understand, naming the entry: a server list that two processes
read differently would split the cache in silence.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Sequence

from hydracache_sync.errors import ConfigurationError

_host_and_port = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]"
    r"|(?P<host>[A-Za-z0-9._-]{1,253}))"
    r":(?P<port>[0-9]{1,5})"
).fullmatch


class Server(NamedTuple):
    """One server; ``path`` is None for TCP, otherwise its unix socket."""

    host: str
    port: int
    path: str | None

    @property
    def name(self) -> str:
        """The same text for every spelling of the same entry; used in messages."""
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_server(entry: object) -> Server:
    """Read ``host:port``, ``[v6]:port``, ``unix:/path`` or ``/path``.

    :raises ConfigurationError: anything else.
    """
    if isinstance(entry, str):
        path = entry[5:] if entry.startswith("unix:") else entry
        if path.startswith("/") and "\0" not in path:
            return Server("", 0, path)
        found = _host_and_port(entry)
        if found and 0 < int(found["port"]) < 65536:
            host = found["v6"] or found["host"]
            # A label that the resolver would refuse with a UnicodeError much later.
            if all(0 < len(label) < 64 for label in host.rstrip(".").split(".")):
                return Server(host.lower(), int(found["port"]), None)
    raise ConfigurationError(
        f"{_shown(entry)} is no memcached server: expected 'host:port', '[v6]:port',"
        " 'unix:/path' or '/path'"
    )


def parse_servers(entries: Sequence[str]) -> list[Server]:
    """Read a list of servers.

    :raises ConfigurationError: empty, a single text instead of a list, an entry twice,
        or one that :func:`parse_server` refuses.
    """
    if isinstance(entries, (str, bytes)):
        raise ConfigurationError(
            f"servers must be a list of addresses, not the text {_shown(entries)}"
        )
    servers = [parse_server(entry) for entry in entries]
    if not servers:
        raise ConfigurationError("servers is empty: name at least one 'host:port'")
    if len(set(servers)) < len(servers):
        names = ", ".join(server.name for server in servers)
        raise ConfigurationError(f"servers names the same one twice: {names}")
    return servers


def _shown(entry: object) -> str:
    """The entry for a message, without a password that does not belong there."""
    if isinstance(entry, str) and "@" in entry:
        return repr("...@" + entry.rpartition("@")[2])
    return repr(entry)

"""Where memcached servers are, read from configuration text.

Refuses what it does not understand, naming the entry: a server list that two processes
read differently would split the cache in silence.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Mapping, NamedTuple, Sequence

from hydracache_sync.errors import ConfigurationError
from hydracache_sync.memcached.ring import checked_weight

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
        """The same text for every spelling of the same entry.

        Used in messages, and to place keys: two names of one machine are two nodes.
        """
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
            port = int(found["port"])
            host = (found["v6"] or found["host"]).lower()
            if found["v6"]:
                address = _canonical_v6(host)
                if address is not None:
                    return Server(address, port, None)
            # A label that the resolver would refuse with a UnicodeError much later.
            elif all(0 < len(label) < 64 for label in host.rstrip(".").split(".")):
                return Server(host, port, None)
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


def parse_weights(
    weights: Mapping[str, float] | None, servers: Sequence[Server]
) -> dict[str, float]:
    """Return the weight of each server by its name; 1 where none is given.

    :raises ConfigurationError: a weight is no finite number over 0, or belongs to no
        server of the list, or to one that has another.
    """
    found = {server.name: 1.0 for server in servers}
    if weights is None:
        return found
    if not isinstance(weights, Mapping):
        raise ConfigurationError(
            f"weights must map servers to numbers, not {type(weights).__name__}"
        )
    given: set[str] = set()
    for entry, weight in weights.items():
        name = parse_server(entry).name
        if name not in found:
            raise ConfigurationError(f"weights names {name}, which servers does not")
        if name in given:
            raise ConfigurationError(f"weights names {name} twice")
        given.add(name)
        found[name] = checked_weight(name, weight)
    return found


def _canonical_v6(host: str) -> str | None:
    """The usual spelling of an address; None if it is none."""
    text, percent, zone = host.partition("%")
    try:
        address = IPv6Address(text)
    except AddressValueError:
        return None
    mapped = address.ipv4_mapped
    # Python 3.13 spells these otherwise than those before it.
    text = str(address) if mapped is None else f"::ffff:{mapped}"
    return text + percent + zone


def _shown(entry: object) -> str:
    """The entry for a message, without a password that does not belong there."""
    if isinstance(entry, str) and "@" in entry:
        return repr("...@" + entry.rpartition("@")[2])
    return repr(entry)

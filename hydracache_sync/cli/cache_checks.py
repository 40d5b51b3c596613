"""What ``hydracache doctor`` asks of memcached. Changes nothing there."""

from __future__ import annotations

import sys
import time
from typing import Collection, Iterator, Mapping, Sequence

from hydracache_sync.app import settings
from hydracache_sync.cache.bound import watermark_ms
from hydracache_sync.cache.keyspace import Address, Keyspace
from hydracache_sync.cache.tokens.token import COLD, LIVE, is_live
from hydracache_sync.cli.exit_codes import ExitCode
from hydracache_sync.cli.findings import Finding, ok, problem, warning
from hydracache_sync.cli.outbox_checks import CLOCK_SKEW
from hydracache_sync.errors import ApplyUnavailable
from hydracache_sync.memcached.replies import LoginRefused
from hydracache_sync.memcached.store import MemcachedStore
from hydracache_sync.printable import printable
from hydracache_sync.wording.moments import counted, duration

#: Keys tried to find one on each node. With any weights that make sense a hundred
#: suffice.
_TRIES = 5000

#: Seconds by which memcached's clock is behind its host's at most, and ahead of it. It
#: counts whole seconds from its start, which it has rounded.
_BEHIND, _AHEAD = 3.0, 1.0


#: Connections to each node on which doctor asks which process answers.
_CONNECTIONS = 4

#: Seconds by which two answers of one process may differ about its start.
_START_IS_EXACT_TO = 2


def examine_nodes(
    store: MemcachedStore, namespaces: Sequence[str], strict: Collection[str]
) -> Iterator[Finding]:
    """Look at each node, then for the tokens of each namespace.

    :param strict: namespaces that are said to be strict.
    """
    answers = store.ping()
    stats, options = store.stats(), store.stats("settings")
    several = store.stats_of_each(_CONNECTIONS)
    away = []
    for name, version in answers.items():
        facts, chosen = stats[name], options[name]
        if isinstance(version, ApplyUnavailable):
            if _is_read(store, name):
                yield _incomplete(name, f"is read, but its version is not: {version}")
            else:
                away.append(name)
                yield _away(name, version)
        elif isinstance(facts, ApplyUnavailable) or isinstance(
            chosen, ApplyUnavailable
        ):
            told = f"memcached {version}, which does not report its stats"
            yield _incomplete(name, told)
        else:
            yield from _node(name, version, facts, chosen, over_tls=store.over_tls)
            if store.logs_in and chosen.get("auth_enabled_ascii") == "no":
                yield warning(
                    f"node {name}",
                    "it asks for no login, so any client that reaches it may use it",
                    "start it with its option -Y, which names a file of logins",
                )
            yield from _one_process(name, several[name])
    for namespace in namespaces:
        yield from _tokens(store, namespace, away, namespace in strict)


def _away(name: str, error: ApplyUnavailable) -> Finding:
    mend = "start it, or restart it if it hangs, or let it be reached"
    if isinstance(error.__cause__, LoginRefused):
        mend = (
            f"set {settings.MEMCACHED_USER.variable} and"
            f" {settings.MEMCACHED_PASSWORD.variable} to a login of the file that its"
            " option -Y names"
        )
    elif error.answered:
        mend = (
            "it is there, so see what it says: it must speak the text protocol, be"
            " without SASL (its option -S), and take what it is sent"
        )
    elif _is_of_tls(error):
        mend = (
            "its certificate must be valid today, name this host or"
            f" {settings.MEMCACHED_TLS_NAME.variable}, and be of"
            f" {settings.MEMCACHED_TLS_CA.variable} or of the system's; see what it"
            f" wants of a client ({settings.MEMCACHED_TLS_CERT.variable}), and whether"
            " it speaks TLS at all"
        )
    return problem(
        f"node {name}",
        str(error),
        f"{mend}. Its rows wait meanwhile, none is lost; to give it up for good, change"
        " the server list and the ring id",
        ExitCode.CACHE_AWAY,
    )


def _is_of_tls(error: BaseException) -> bool:
    """Whether the node was reached, and TLS failed."""
    # Where it was never loaded no TLS was spoken.
    ssl = sys.modules.get("ssl")
    cause: BaseException | None = error
    while ssl is not None and cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__
    return False


def _incomplete(name: str, text: str) -> Finding:
    return warning(
        f"node {name}",
        text,
        "a proxy may be in between: ask the server itself"
        " (docs/operations/nodes.md on proxies)",
    )


def _is_read(store: MemcachedStore, name: str) -> bool:
    """Whether the node answers what every read asks; a proxy may know nothing else."""
    address = _places(store, "doctor").get(name)
    try:
        return address is not None and len(store.get_many([address])) == 1
    except ApplyUnavailable:
        # Told by the caller, in the words of its own question.
        return False


def _node(
    name: str,
    version: str,
    stats: Mapping[str, str],
    options: Mapping[str, str],
    *,
    over_tls: bool,
) -> Iterator[Finding]:
    check = f"node {name}"
    uptime, used = _number(stats, "uptime"), _number(stats, "bytes")
    limit = _number(stats, "limit_maxbytes")
    item = _number(options, "item_size_max")
    encrypted = " over TLS" if over_tls else ""
    yield ok(
        check,
        f"memcached {version}{encrypted}, up {duration(uptime)}, {used >> 20} of"
        f" {limit >> 20} MB, items up to {item >> 10} KB",
    )
    if options.get("cas_enabled") == "no":
        yield problem(
            check,
            "it keeps no versions of its items, so no token can be replaced and no row"
            " is published",
            "start it without its option -C (disable cas)",
            ExitCode.CACHE_AWAY,
        )
    evictions = _number(stats, "evictions")
    if evictions:
        yield warning(
            check,
            f"{counted(evictions, 'eviction')} since its start",
            "more memory (its option -m), or shorter TTLs; an eviction costs a load and"
            " makes nothing stale",
        )
    if options.get("evictions") == "off":
        yield problem(
            check,
            "evicts nothing (its option -M): once it is full it refuses invalidations,"
            " and rows wait",
            "start it without -M",
        )
    # memcached says "(null)" where it has none.
    if options.get("memory_file", "(null)") != "(null)":
        yield ok(
            check,
            "keeps its memory over a restart (its option -e). Never start it with a"
            " copy or a snapshot of that file: it would serve old values, and nothing"
            " detects it. Where that has happened: hydracache flush",
        )
    refused = _number(stats, "listen_disabled_num")
    if refused:
        yield warning(
            check,
            f"had no connection left {counted(refused, 'time')} (its option -c is"
            f" {options.get('maxconns', 'unknown')})",
            "start it with a higher -c",
        )
    off = time.time() - _number(stats, "time")
    if not -_AHEAD - CLOCK_SKEW <= off <= _BEHIND + CLOCK_SKEW:
        yield warning(
            check,
            f"its clock is about {duration(abs(off))} off this host's",
            "let NTP set both: that is an app's host too, perhaps. A memcached goes on"
            " from the time that its host had when it was started",
        )


def _one_process(
    name: str, answers: Sequence[Mapping[str, str]] | ApplyUnavailable
) -> Iterator[Finding]:
    """Whether all connections to ``name`` reach one memcached.

    In containers all have one process id, and the start tells them apart.
    """
    if isinstance(answers, ApplyUnavailable):
        yield _away(name, answers)
        return
    pids = {each.get("pid") for each in answers}
    starts = [_number(each, "time") - _number(each, "uptime") for each in answers]
    if len(pids) > 1 or max(starts) - min(starts) > _START_IS_EXACT_TO:
        yield problem(
            f"node {name}",
            f"{len(answers)} connections do not reach one memcached: the process ids or"
            " the starts differ",
            "name each server by an address of its own: what one of several machines"
            " has acknowledged the others still serve",
            ExitCode.FAILED,
        )


def _number(stats: Mapping[str, str], name: str) -> int:
    """A figure of the server's; 0 where it has none of that name."""
    text = stats.get(name, "")
    return int(text) if text.isdecimal() else 0


def _tokens(
    store: MemcachedStore, namespace: str, away: Sequence[str], strict: bool
) -> Iterator[Finding]:
    check = f"namespace {printable(namespace)}"
    there: list[str] = []
    absent: list[str] = []
    otherwise: list[str] = []
    for name, address in _places(store, namespace).items():
        if name in away:
            continue
        try:
            [token] = store.get_many([address])
        except ApplyUnavailable as exc:
            yield _away(name, exc)
        else:
            (absent if token is None else there).append(name)
            if is_live(token, LIVE if strict else COLD):
                otherwise.append(name)
    if there:
        text = f"known under ring {store.ring} on {', '.join(there)}"
        if absent:
            text += f"; not yet on {', '.join(absent)}"
        yield ok(check, text)
    if otherwise:
        yield _strict_otherwise(check, strict, otherwise)
    if absent and not there:
        yield warning(
            check,
            f"no reader has cached anything under ring {store.ring} on"
            f" {', '.join(absent)} since they were started",
            "if apps do cache: they use another namespace, --ring or server list than"
            " the workers, and no invalidation reaches what they read",
        )


def examine_watermark(
    store: MemcachedStore, namespace: str, bound: float
) -> Iterator[Finding]:
    """Whether readers with ``max_staleness`` find a watermark on each node."""
    check = f"watermark {printable(namespace)}"
    keyspace = Keyspace(store.ring, namespace)
    for name, address in _places(store, namespace).items():
        try:
            [value] = store.get_many([keyspace.watermark(address)])
        except ApplyUnavailable as exc:
            yield _away(name, exc)
            continue
        found = watermark_ms(value)
        age = None if found is None else time.time() - found / 1000
        if age is not None and age < bound:
            yield ok(check, f"{name} has one, {max(0.0, age):.1f} s old")
            continue
        old = "no watermark" if age is None else f"one that is {duration(age)} old"
        yield warning(
            check,
            f"{name} has {old}, so each read with {settings.MAX_STALENESS.variable}"
            " there is a miss",
            f"set {settings.MAX_STALENESS.variable} for workers and drains too, and see"
            " that they apply all rows of this namespace to this ring",
        )


def _strict_otherwise(check: str, strict: bool, nodes: Sequence[str]) -> Finding:
    makers, here = ("not strict", "is") if strict else ("strict", "is not")
    return warning(
        check,
        f"a process that is {makers} has made its token on {', '.join(nodes)}, and here"
        f" it {here} named by --strict",
        "name it by --strict, or strict=True, in all of apps, workers and drains or in"
        " none: the others take such a token for missing, so little is cached. To go"
        " over takes a new --ring",
    )


def _places(store: MemcachedStore, namespace: str) -> dict[str, Address]:
    """An address of the namespace's token on each node."""
    space = Keyspace(store.ring, namespace)
    names = store.nodes_of(space.namespace_token())
    found: dict[str, Address] = {}
    for number in range(_TRIES):
        _, address, _ = space.of_key(f"doctor:{number}")
        found.setdefault(store.nodes_of(address)[0], address)
        if len(found) == len(names):
            break
    # In the order of the server list, not in that of the tries.
    return {name: found[name] for name in names if name in found}

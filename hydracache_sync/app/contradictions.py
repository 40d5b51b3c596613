"""What two settings say against each other, or to no effect.

Named as the caller's user knows them: by option or by variable. Makes nothing.
"""

from __future__ import annotations

import math
from typing import Callable, Container, Iterator, Mapping, Sequence

from hydracache_sync.app import app_settings, build, settings
from hydracache_sync.app.memcached_tls import tls_contradictions
from hydracache_sync.app.setting import Setting, SettingValues
from hydracache_sync.cache.bound import WATERMARK_EVERY
from hydracache_sync.cache.codecs.compression import INSTALL, ZSTD, zstandard_or_none
from hydracache_sync.cache.store import CacheStore
from hydracache_sync.outbox.base import InvalidationOutbox

#: Codecs that need a key.
_SIGNING = ("signed", "pickle")


def contradictions(
    values: SettingValues, name: Callable[[Setting], str]
) -> Iterator[str]:
    """Say what is set against something else that is set.

    :param values: those of build.OF_STORE, build.OF_PREVIOUS and build.OF_WORKER.
    :param name: returns what a setting is called where it was set.
    """
    yield from store_contradictions(values, name)
    first, longest = values[settings.BACKOFF], values[settings.MAX_BACKOFF]
    if first > longest:
        yield (
            f"{name(settings.MAX_BACKOFF)} {longest:g} is below"
            f" {name(settings.BACKOFF)} {first:g}"
        )


def store_contradictions(
    values: SettingValues, name: Callable[[Setting], str]
) -> Iterator[str]:
    """As :func:`contradictions`, of what stores are made of."""
    given = [each for each in build.OF_PREVIOUS if values[each] is not None]
    together = (settings.PREVIOUS_MEMCACHED, settings.PREVIOUS_RING)
    if given and not set(together) <= set(given):
        yield f"{' and '.join(map(name, together))} belong together"
    elif given and values[settings.PREVIOUS_RING] == values[settings.RING]:
        yield (
            f"{name(settings.PREVIOUS_RING)} is {name(settings.RING)}:"
            f" {values[settings.RING]!r} names both server lists, and the ring id must"
            " be new at every change"
        )
    yield from tls_contradictions(values, name)
    login = (settings.MEMCACHED_USER, settings.MEMCACHED_PASSWORD)
    for each, other in (login, login[::-1]):
        if values[each] is None and values[other] is not None:
            yield f"{name(each)} is missing: {name(other)} has no effect without it"


def beside_objects(
    values: SettingValues, given: Container[Setting], name: Callable[[Setting], str]
) -> Iterator[str]:
    """Say what is set of an object, which has been made otherwise.

    :param given: what has been set, also to its default.
    """
    for made, kind, read in (
        (settings.OUTBOX, InvalidationOutbox, build.OF_OUTBOX),
        (settings.MEMCACHED, CacheStore, build.OF_STORE),
    ):
        thing = values[made]
        for each in read if isinstance(thing, kind) else ():
            if each is made or each not in given:
                continue
            if each is settings.RING and values[each] == getattr(thing, "ring", None):
                continue
            yield (
                f"{name(each)} has no effect where {name(made)} is an object: make that"
                " with it"
            )


def without_servers(
    values: SettingValues,
    given: Container[Setting],
    name: Callable[[Setting], str],
    *,
    read: Sequence[Setting] = (),
) -> Iterator[str]:
    """Say what is set of parts that are not made, because there is no memcached.

    :param given: as for :func:`beside_objects`.
    :param read: what such parts read beside build.OF_STORE and build.OF_PREVIOUS.
    """
    if values[settings.MEMCACHED] is None:
        for each in (*build.OF_STORE, *build.OF_PREVIOUS, *read):
            if each in given:
                yield f"{name(each)} has no effect without {name(settings.MEMCACHED)}"


def of_other_choices(
    values: SettingValues,
    given: Container[Setting],
    name: Callable[[Setting], str],
    *,
    commands: bool,
) -> Iterator[str]:
    """Say what is set and heeded only where another setting says otherwise.

    :param values: those of an app.
    :param given: as for :func:`beside_objects`.
    :param commands: the app's settings are those of its commands, too.
    """
    ttl, soft_ttl = values[app_settings.TTL], values[app_settings.SOFT_TTL]
    if soft_ttl is not None and 0 < ttl <= soft_ttl:
        yield (
            f"{name(app_settings.SOFT_TTL)} {soft_ttl:g} has no effect: it is not below"
            f" {name(app_settings.TTL)} {ttl:g}"
        )
    pool = values[app_settings.POOL]
    # Strict namespaces of others are drained by commands, which may share the settings.
    is_strict = values[app_settings.MODE] == "strict"
    some_strict = is_strict or values[settings.STRICT] is not None
    of_pool = (app_settings.POOL_THREADS, *(() if commands else build.OF_POOL))
    for heeded, setting, needed in (
        (some_strict, settings.HOLD_OFF, f"{name(app_settings.MODE)} strict"),
        (is_strict, app_settings.DEGRADE, f"{name(app_settings.MODE)} strict"),
        (pool == "one", app_settings.POOL_LOCK, f"{name(app_settings.POOL)} one"),
        *((pool != "none", each, "a pool of the app") for each in of_pool),
        (
            values[settings.KEEP_PUBLISHED] != math.inf,
            settings.PURGE_EVERY,
            f"an end of {name(settings.KEEP_PUBLISHED)}",
        ),
        (
            values[app_settings.COOKIE] != "",
            app_settings.WAIT,
            f"a {name(app_settings.COOKIE)}",
        ),
        (
            values[app_settings.COMPRESS_OVER] is not None,
            app_settings.COMPRESSION,
            f"{name(app_settings.COMPRESS_OVER)}",
        ),
        (
            values[app_settings.SNAPSHOT] != "replica",
            app_settings.READ_LAG,
            f"another {name(app_settings.SNAPSHOT)} than replica, which knows the lag",
        ),
        (
            not is_strict,
            app_settings.REQUEST_MEMO,
            f"another {name(app_settings.MODE)} than strict, which shows each commit",
        ),
        (
            values[settings.STATSD] is not None,
            settings.STATSD_PREFIX,
            f"a {name(settings.STATSD)}",
        ),
        (
            values[settings.MAX_STALENESS] is None,
            app_settings.REQUEST_MEMO,
            f"unsetting {name(settings.MAX_STALENESS)}, which bounds each read",
        ),
    ):
        if setting in given and not heeded:
            yield f"{name(setting)} has no effect without {needed}: unset it"


def bound_contradictions(
    values: SettingValues, name: Callable[[Setting], str]
) -> Iterator[str]:
    """Say what leaves no room for the bound of an app's reads.

    :param values: those of an app.
    """
    parts = {name(app_settings.CLOCK_SKEW): values[app_settings.CLOCK_SKEW]}
    if values[app_settings.POOL] != "none":
        parts[name(settings.POLL_INTERVAL)] = values[settings.POLL_INTERVAL]
    yield from _without_room(values, name, parts)


def pool_bound_contradictions(
    values: SettingValues, name: Callable[[Setting], str]
) -> Iterator[str]:
    """As :func:`bound_contradictions`, of a pool in a process of its own.

    :param values: MAX_STALENESS and POLL_INTERVAL.
    """
    parts = {name(settings.POLL_INTERVAL): values[settings.POLL_INTERVAL]}
    yield from _without_room(values, name, parts)


def _without_room(
    values: SettingValues, name: Callable[[Setting], str], parts: Mapping[str, float]
) -> Iterator[str]:
    bound = values[settings.MAX_STALENESS]
    parts = {"1 between two watermarks": WATERMARK_EVERY, **parts}
    if bound is not None and bound <= sum(parts.values()):
        yield (
            f"{name(settings.MAX_STALENESS)} {bound:g} must be above"
            f" {sum(parts.values()):g}, the sum of {', '.join(parts)}"
        )


def codec_contradictions(
    values: SettingValues, name: Callable[[Setting], str]
) -> Iterator[str]:
    """Say where a codec lacks its key, or a key its codec; by ``name``."""
    codec, key = name(app_settings.CODEC), name(app_settings.CODEC_KEY)
    signs = values[app_settings.CODEC] in _SIGNING
    has_key = values[app_settings.CODEC_KEY] is not None
    if signs and not has_key:
        yield f"{key} is missing: {codec} {values[app_settings.CODEC]} signs with it"
    if has_key and not signs:
        yield f"{key} has no effect without {codec} signed or pickle: unset it"
    if values[app_settings.COMPRESSION] == ZSTD and zstandard_or_none() is None:
        yield f"{name(app_settings.COMPRESSION)}: {INSTALL}"

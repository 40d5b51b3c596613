"""The ``HYDRACACHE_`` keys of an app's config, checked together when the app starts.

Knows no framework: any mapping will do. Reading it connects to nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Mapping

from hydracache_sync.app import (
    app_settings,
    build,
    contradictions,
    settings,
    switched_off,
)
from hydracache_sync.app.app_settings import misspelt
from hydracache_sync.app.setting import Setting, switch
from hydracache_sync.cache.store import CacheStore
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.outbox.base import InvalidationOutbox

#: Settings that mean something in an app.
KNOWN = (
    *build.OF_OUTBOX,
    settings.NAMESPACE,
    *build.OF_STORE,
    *build.OF_PREVIOUS,
    settings.STRICT,
    *build.OF_WORKER,
    *build.OF_POOL,
    settings.TRACING,
    *build.OF_STATSD,
    *app_settings.APP_SETTINGS,
)

#: Settings of commands, which Flask and Django have with the app's settings.
OF_COMMANDS = (
    settings.MAX_SECONDS,
    settings.MAX_AGE,
    settings.MAX_PENDING,
    settings.MAX_DEAD,
)

#: Settings that need a framework's requests.
OF_FLASK = (app_settings.WAIT, app_settings.COOKIE, app_settings.METRICS)

#: Settings that may be given as an object in place of text, for tests above all.
_OBJECTS: dict[str, type] = {"outbox": InvalidationOutbox, "memcached": CacheStore}

#: Settings that may be given as a dict.
_WEIGHTS = (settings.WEIGHTS, settings.PREVIOUS_WEIGHTS)

_REQUIRED = (settings.OUTBOX, settings.NAMESPACE)


class AppConfig:
    """The settings of one app by name, parsed, defaults filled in.

    :param config: an app's config; keys that do not begin with ``HYDRACACHE_`` are not
        looked at. Values are text as in the environment, numbers, booleans and lists.
    :param flask: it is Flask's, with a cookie.
    :param commands: it has commands with these settings; by default Flask's has.
    :raises ConfigurationError: keys are unknown, missing or wrong, or would have no
        effect. Names all of them.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        flask: bool = False,
        commands: bool | None = None,
    ) -> None:
        commands = flask if commands is None else commands
        self._values: dict[str, Any] = {}
        #: What was set, as text, for commands that read the same settings.
        #: None is what was given as an object.
        self.texts: dict[str, str | None] = {}
        problems = [
            f"{name} is no setting{f'; did you mean {meant}?' if meant else ''}"
            for name, meant in misspelt(
                name for name in config if isinstance(name, str)
            )
        ]
        problems += _without_effect(config, flask=flask, commands=commands)
        is_off = _is_off(config)
        for setting in KNOWN + OF_COMMANDS:
            value = config.get(setting.variable)
            if value is None:
                self._values[setting.name] = setting.default
                if setting in _REQUIRED and not (is_off and setting is settings.OUTBOX):
                    problems.append(f"{setting.variable} is missing: {setting.meaning}")
                continue
            try:
                self._values[setting.name] = self._read(setting, value)
            except (TypeError, ValueError, ConfigurationError) as exc:
                problems.append(f"{setting.variable}: {exc}")
        if not problems:
            problems += self._contradictions(commands=commands)
        if problems:
            raise ConfigurationError("; ".join(problems))
        self.texts.pop(settings.STRICT.name, None)
        if self[app_settings.MODE] == "strict":
            # The commands work for this one namespace, and call it what they do.
            self.texts[settings.STRICT.name] = self[settings.NAMESPACE]
        if is_off:
            self._values.update(switched_off.replaced())

    def __getitem__(self, setting: Setting) -> Any:
        return self._values[setting.name]

    def _read(self, setting: Setting, value: Any) -> Any:
        kind = _OBJECTS.get(setting.name)
        if kind is not None and isinstance(value, kind):
            self.texts[setting.name] = None
            return value
        if isinstance(value, dict) and setting not in _WEIGHTS:
            raise TypeError("must be text or a number, not dict")
        text = self.texts[setting.name] = _as_text(value)
        return setting.parse(text)

    def _contradictions(self, *, commands: bool) -> list[str]:
        found = []
        if "," in self[settings.NAMESPACE]:
            found.append(
                "HYDRACACHE_NAMESPACE has a comma: an app has one namespace, and the"
                " commands would take it for two"
            )
        if self[settings.NAMESPACE] != self[settings.NAMESPACE].strip():
            # A file of settings with Windows' ends of lines leaves one, too.
            found.append(
                f"HYDRACACHE_NAMESPACE {self[settings.NAMESPACE]!r} begins or ends with"
                " a blank, which the commands would take away"
            )
        # An environment may be shared with commands that drain other namespaces, too.
        strict = [each.strip() for each in (self[settings.STRICT] or "").split(",")]
        if self[settings.NAMESPACE] in strict and self[app_settings.MODE] != "strict":
            found.append(
                "HYDRACACHE_STRICT has the app's namespace: set HYDRACACHE_MODE to"
                " strict"
            )
        elif self[settings.NAMESPACE] not in strict and any(map(_says_yes, strict)):
            found.append(
                "HYDRACACHE_STRICT lists namespaces, for commands, and is no switch:"
                " set HYDRACACHE_MODE to strict"
            )
        found += contradictions.contradictions(self, _variable)
        found += contradictions.bound_contradictions(self, _variable)
        found += contradictions.codec_contradictions(self, _variable)
        given = [each for each in KNOWN if each.name in self.texts]
        if not self[app_settings.ENABLED]:
            # What is set for the app that is on may stay; an object is made for a test.
            return found + [
                f"{app_settings.ENABLED.variable} is off, and {each.variable} is an"
                " object that nothing would use: leave out one of them"
                for each in given
                if self.texts[each.name] is None
            ]
        # Commands of an app have these settings, too, and may be told the servers.
        carrying = () if commands else (*build.OF_WORKER, *build.OF_POOL)
        found += contradictions.beside_objects(self, given, _variable)
        found += contradictions.without_servers(
            self, given, _variable, read=(*build.OF_CACHE, *carrying)
        )
        found += contradictions.of_other_choices(
            self, given, _variable, commands=commands
        )
        if self[settings.MEMCACHED] is None:
            if self[app_settings.MODE] != "eventual":
                found.append(
                    f"HYDRACACHE_MEMCACHED is missing: HYDRACACHE_MODE"
                    f" {self[app_settings.MODE]} needs it"
                )
            if self[app_settings.POOL] != "none":
                found.append(
                    "HYDRACACHE_MEMCACHED is missing: the pool needs it; without one,"
                    " set HYDRACACHE_POOL to none and let cron or another process drain"
                )
        return found


def _is_off(config: Mapping[str, Any]) -> bool:
    value = config.get(app_settings.ENABLED.variable)
    try:
        return value is not None and not switch(_as_text(value))
    except (TypeError, ValueError):
        return False  # complained about with the others


def _variable(setting: Setting) -> str:
    return setting.variable


def _without_effect(
    config: Mapping[str, Any], *, flask: bool, commands: bool
) -> Iterator[str]:
    """Complain about settings that somebody else would heed, not this app."""
    of_others = {
        settings.THREADS: "is of `hydracache worker`; an app's pool takes"
        f" {app_settings.POOL_THREADS.variable}",
        **dict.fromkeys(
            (settings.METRICS_PORT, settings.HEALTH_PORT, settings.HEALTH_HOST),
            "is of `hydracache worker`: set it in its environment, not in the app's",
        ),
        settings.METRICS_FILE: "is of `hydracache drain`: set it in its environment,"
        " not in the app's",
    }
    if not commands:
        of_others.update(
            dict.fromkeys(
                OF_COMMANDS,
                "is of commands only, and has no effect in an app: set it in their"
                " environment, not in the app's",
            )
        )
    if not flask:
        of_others.update(
            dict.fromkeys(OF_FLASK, "is of the Flask extension only: unset it")
        )
    for setting, why in of_others.items():
        if config.get(setting.variable) is not None:
            yield f"{setting.variable} {why}"


def _says_yes(text: str) -> bool:
    try:
        return switch(text)
    except ValueError:
        return False


def _as_text(value: Any) -> str:
    """Write a value of Python as the environment would have it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return ",".join(f"{name}={number}" for name, number in value.items())
    if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return ",".join(value)
    raise TypeError(f"must be text or a number, not {type(value).__name__}")

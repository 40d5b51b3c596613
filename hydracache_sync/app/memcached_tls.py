"""TLS to memcached, made of the settings ``memcached_tls`` and those beside it.

A server that cannot prove who it is gets nothing: whoever can answer in its place can
put any value in place of a cached one. Knows no store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Iterator

from hydracache_sync.app import settings
from hydracache_sync.app.setting import Setting, SettingValues
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.memcached.server_list import parse_servers

if TYPE_CHECKING:
    from ssl import SSLContext

_FILES = (
    settings.MEMCACHED_TLS_CA,
    settings.MEMCACHED_TLS_CERT,
    settings.MEMCACHED_TLS_KEY,
)

#: Settings that make a context.
OF_TLS = (settings.MEMCACHED_TLS, *_FILES, settings.MEMCACHED_TLS_NAME)


def tls_contradictions(
    values: SettingValues, name: Callable[[Setting], str]
) -> Iterator[str]:
    """Say what of TLS is set against something else that is set; by ``name``."""
    files = [each for each in _FILES if values[each] is not None]
    if not values[settings.MEMCACHED_TLS]:
        for each in OF_TLS[1:]:
            if values[each] is None:
                continue
            yield f"{name(each)} has no effect without {name(settings.MEMCACHED_TLS)}"
        return
    pair = (settings.MEMCACHED_TLS_CERT, settings.MEMCACHED_TLS_KEY)
    if len(set(pair) & set(files)) == 1:
        missing, given = pair if pair[0] not in files else pair[::-1]
        yield (
            f"{name(missing)} is missing: {name(given)} needs it; they may name one"
            " file that has both"
        )
    for setting in (settings.MEMCACHED, settings.PREVIOUS_MEMCACHED):
        servers = values[setting]
        if not isinstance(servers, tuple):
            continue  # none, or an object
        for server in parse_servers(servers):
            if server.path is not None:
                yield (
                    f"{name(settings.MEMCACHED_TLS)} cannot be used with"
                    f" {server.name} in {name(setting)}: a unix socket is not encrypted"
                )


def tls_context(values: SettingValues) -> SSLContext | None:
    """Return how to speak TLS to memcached; None where plain text is spoken.

    :raises ConfigurationError: a file cannot be read, or is not what it should be.
    """
    if not values[settings.MEMCACHED_TLS]:
        return None
    # Not at the top: loading it takes as long as all else.
    import ssl

    ca = values[settings.MEMCACHED_TLS_CA]
    certificate = values[settings.MEMCACHED_TLS_CERT]
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as exc:
        raise _unusable(settings.MEMCACHED_TLS_CA, ca, exc) from exc
    # Python 3.9 would take older ones.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        key = values[settings.MEMCACHED_TLS_KEY]
        for setting, path in (
            (settings.MEMCACHED_TLS_CERT, certificate),
            (settings.MEMCACHED_TLS_KEY, key),
        ):
            _require_readable(setting, path)
        try:
            context.load_cert_chain(certificate, key, password=_no_passphrase)
        except OSError as exc:
            raise _unusable(
                settings.MEMCACHED_TLS_CERT,
                certificate,
                exc,
                f" with {settings.MEMCACHED_TLS_KEY.variable} {key!r}",
            ) from exc
    return context


def _no_passphrase() -> str:
    # Without this OpenSSL asks for it on the terminal, and a service hangs.
    raise ConfigurationError(
        f"{settings.MEMCACHED_TLS_KEY.variable}: the key has a passphrase, which"
        " cannot be entered here: name a file with the key alone, readable by this user"
        " only"
    )


def _require_readable(setting: Setting, path: str) -> None:
    """OpenSSL does not say which of two files it could not read."""
    try:
        with open(path, "rb"):
            pass
    except OSError as exc:
        raise _unusable(setting, path, exc) from exc


def _unusable(
    setting: Setting, path: str | None, exc: OSError, beside: str = ""
) -> ConfigurationError:
    what = "the system's certificates" if path is None else repr(path)
    reason = exc.strerror or exc
    return ConfigurationError(
        f"{setting.variable}: {what}{beside} cannot be used: {reason}"
    )

"""What a connection begins with: TLS, and a login for a server with the option ``-Y``.

memcached compares a login with the lines ``user:password`` of its file, so what no such
line can hold is refused here, before anything is sent. Knows no socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hydracache_sync.cache.keyspace import SCHEME
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.memcached.commands import EXPIRED

if TYPE_CHECKING:
    from ssl import SSLContext

#: Bytes of user and password together: memcached reads lines of up to 254.
MAX_LOGIN = 253

#: The server does not look at the key. One without ``-Y`` would store under it.
_KEY = f"{SCHEME}::login".encode("ascii")


class Handshake(NamedTuple):
    """How server and client prove to each other that they are who they say.

    :ivar tls_context: None for plain text.
    :ivar tls_name: what the certificate must name; None for the host of the list.
    :ivar login: the command that logs in; empty for none.
    """

    tls_context: SSLContext | None = None
    tls_name: str | None = None
    login: bytes = b""


def login_command(auth: tuple[str, str]) -> bytes:
    """Return the command that logs in.

    :param auth: user and password.
    :raises ConfigurationError: no login can have them. Shows nothing of them.
    """
    if not isinstance(auth, (tuple, list)) or len(auth) != 2:
        raise ConfigurationError("auth must be a pair of user and password")
    user, password = auth
    try:
        given = checked_user(user).encode() + b" " + checked_password(password).encode()
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"auth: {exc}") from None
    if len(given) - 1 > MAX_LOGIN:
        raise ConfigurationError(
            f"auth: user and password have {len(given) - 1} bytes of UTF-8 together,"
            f" over the {MAX_LOGIN} that memcached reads"
        )
    # One that asks for no login stores this like any value: gone as it comes.
    return b"set %b 0 %d %d\r\n%b\r\n" % (_KEY, EXPIRED, len(given), given)


def checked_user(text: Any) -> str:
    """Return the user, which ends at the first colon of a line.

    :raises TypeError, ValueError: it cannot be sent.
    """
    return _checked("the user", text, " :\r\n\0")


def checked_password(text: Any) -> str:
    """Return the password, which may have a colon.

    :raises TypeError, ValueError: it cannot be sent.
    """
    return _checked("the password", text, " \r\n\0")


def _checked(name: str, text: Any, refused: str) -> str:
    """Return ``text`` if it can be sent. What is wrong with it is told without it."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be text, not {type(text).__name__}")
    if not text:
        raise ValueError(f"{name} is empty")
    length = f"{name} of {len(text)} characters"
    for each in refused:
        if each in text:
            raise ValueError(f"{length} has a {_NAMES[each]}, which cannot be sent")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        # Neither the error nor what it was raised from may hold the text.
        size = -1
    if size < 0:
        raise ValueError(f"{length} is not text in UTF-8")
    if size > MAX_LOGIN - 1:
        raise ValueError(
            f"{name} has {size} bytes of UTF-8, over the {MAX_LOGIN} that memcached"
            " reads of user and password together"
        )
    return text


_NAMES = {" ": "blank", ":": "colon", "\r": "line's end", "\n": "line's end"}
_NAMES["\0"] = "NUL"

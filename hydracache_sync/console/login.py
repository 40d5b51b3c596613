"""The login of the console that stands alone: by a token, or by a password."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import threading
import time
from typing import Any, Callable, Iterator

from flask import Flask, abort, make_response, redirect, request, url_for

from hydracache_sync.console.guard import check_origin
from hydracache_sync.console.page import rendered
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Seconds that a login lasts.
LASTS = 12 * 3600.0

#: Logins at a time; the oldest ends for one more.
MOST_LOGINS = 100

#: Seconds that the answer to a wrong login takes: those of an address one by one.
WRONG_WAITS = 1.0

#: Logins of one address that are answered at a time; more are refused without a look.
#: Wrong passwords hold back the logins of their address, and no others.
_MOST_TRIES = 10

#: Addresses with such logins at a time. Each wrong login holds a thread of the server.
_MOST_ADDRESSES = 100

#: The operator of a login by token.
BY_TOKEN = "terminal"


class Logins:
    """The operators that are logged in, in memory: a restart logs all of them out.
    Thread-safe.

    :param port: part of the cookie's name, since browsers keep one jar for all ports.
    :param user: what to log in with; without it and a password it is a token.
    :param password: that user's.
    :param announce: called with each new token. Each is good for one login.
    :param sleep: delays the answer to a wrong login; replaced in tests, as
        ``monotonic``.
    """

    def __init__(
        self,
        port: int,
        *,
        user: str | None = None,
        password: str = "",
        announce: Callable[[str], None] = lambda token: None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._cookie = f"hydracache_login_{port}"
        self._user = user
        self._password = password
        self._announce = announce
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        #: Those that are being answered, by address.
        self._tries: dict[str, _Tries] = {}
        self._token = secrets.token_urlsafe(32)
        #: Name and end of each login, by its secret.
        self._logins: dict[str, tuple[str, float]] = {}

    def register(self, app: Flask) -> None:
        app.add_url_rule("/login", "login", self.page, methods=["GET"])
        app.add_url_rule("/login", "log_in", self.log_in, methods=["POST"])
        app.add_url_rule("/logout", "logout", self.log_out, methods=["POST"])
        if self._user is None:
            self._announce(self._token)

    def authenticate(self) -> Any:
        """For the blueprint: the name of the operator, or a redirect to the login."""
        with self._lock:
            name, ends = self._logins.get(self._sent(), ("", 0.0))
        if name and self._monotonic() < ends:
            return name
        return redirect(url_for("login"), 303) if request.method == "GET" else None

    def _sent(self) -> str:
        return request.cookies.get(self._cookie, "")

    def page(self, problem: str = "") -> str:
        """The form. It takes a token out of the link, and a click to use it up."""
        return rendered(
            "login.html",
            url=lambda endpoint: url_for(f"hydracache_console.{endpoint}"),
            action=url_for("log_in"),
            user=self._user is not None,
            token=request.args.get("token", ""),
            problem=problem,
        )

    def log_in(self) -> Any:
        check_origin()
        with self._one_try() as tries:
            name = self._checked()
            if name is None:
                logger.warning("console: a login from %s failed", request.remote_addr)
                with tries.wrong:
                    self._sleep(WRONG_WAITS)
                return self.page("This is wrong. A token is good for one login."), 403
        secret = secrets.token_urlsafe(32)
        with self._lock:
            self._logins.pop(self._sent(), None)
            while len(self._logins) >= MOST_LOGINS:
                self._logins.pop(next(iter(self._logins)))
            self._logins[secret] = name, self._monotonic() + LASTS
        logger.info("console: %s has logged in from %s", name, request.remote_addr)
        response = make_response(redirect(url_for("hydracache_console.overview"), 303))
        response.set_cookie(
            self._cookie,
            secret,
            httponly=True,
            samesite="Strict",
            secure=request.is_secure,
        )
        return response

    @contextlib.contextmanager
    def _one_try(self) -> Iterator[_Tries]:
        """Count a login while it is answered; refuse it if there are too many."""
        address = request.remote_addr or ""
        with self._lock:
            tries = self._tries.get(address)
            if tries is None and len(self._tries) < _MOST_ADDRESSES:
                tries = self._tries[address] = _Tries()
            if tries is None or tries.count >= _MOST_TRIES:
                abort(429, "Too many logins at a time. Try again in a minute.")
            tries.count += 1
        try:
            yield tries
        finally:
            with self._lock:
                tries.count -= 1
                if not tries.count:
                    del self._tries[address]

    def _checked(self) -> str | None:
        """The name of who may log in by what was sent; uses up a token."""
        form = request.form
        if self._user is not None:
            # Both, whatever the first one is: the time tells nothing.
            right = _equal(form.get("user", ""), self._user)
            right &= _equal(form.get("password", ""), self._password)
            return self._user if right else None
        with self._lock:
            if not _equal(form.get("token", ""), self._token):
                return None
            token = self._token = secrets.token_urlsafe(32)
        self._announce(token)
        return BY_TOKEN

    def log_out(self) -> Any:
        check_origin()
        with self._lock:
            self._logins.pop(self._sent(), None)
        response = make_response(redirect(url_for("login"), 303))
        response.delete_cookie(self._cookie)
        return response


class _Tries:
    """Logins of one address that are being answered.

    :ivar wrong: held by one of them that was wrong, for the time that it waits.
    """

    def __init__(self) -> None:
        self.count = 0
        self.wrong = threading.Lock()


def _equal(given: str, right: str) -> bool:
    """Compare in a time that tells neither the text nor its length."""
    hashes = [
        hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        for text in (given, right)
    ]
    return hmac.compare_digest(*hashes)

"""Who may see the console, and which requests may change something.

A request that changes something needs a console that is writable and the method POST.
Its form must be made by this console for this browser and this operator. No header of
the browser may name another site as the origin.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, Callable
from urllib.parse import urlsplit

from flask import Response, abort, current_app, g, request, url_for
from werkzeug.wrappers import Response as AnyResponse

#: Cookie that ties forms to a browser. Random; it opens nothing.
COOKIE = "hydracache_console"

#: Field of a form that has its token.
FIELD = "token"

#: Bytes of an operator's name at most.
MAX_OPERATOR = 200

#: Endpoints that everybody may see: they say nothing of keys, names or errors.
OPEN = ("styles", "healthz")

#: No script, no frame, nothing of other hosts; styles of the console's own file.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": with that browsers call the origin of a form null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_OPERATOR = "_hydracache_operator"
_BROWSER = "_hydracache_browser"

#: Returns the name of the operator that a request comes from, None if it has none, or a
#: response, as a redirect to a login.
Authenticate = Callable[[], Any]


def operator() -> str:
    """The name of the operator of this request."""
    name: str = g.get(_OPERATOR)
    return name


class Guard:
    """The door of one console.

    :param authenticate: see :data:`Authenticate`.
    :param writable: whether anything may be changed.
    """

    def __init__(self, authenticate: Authenticate, *, writable: bool) -> None:
        self._authenticate = authenticate
        self.writable = writable

    def let_in(self) -> Any:
        """Before each request: None lets it in."""
        if (request.endpoint or "").rpartition(".")[2] in OPEN:
            return None
        name = self._authenticate()
        if isinstance(name, AnyResponse):
            return name
        if name is None or name == "":
            abort(403, "You are not logged in, or are no operator.")
        if not isinstance(name, str) or len(name.encode()) > MAX_OPERATOR:
            raise TypeError(
                "authenticate() must return the name of the operator, a str of at most"
                f" {MAX_OPERATOR} bytes, or None; it returned {type(name).__name__}"
            )
        # Exactly a str: a subclass may say of itself that it is safe in a page.
        setattr(g, _OPERATOR, str(name))
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            self._check_change()
        return None

    def _check_change(self) -> None:
        if not self.writable:
            abort(403, "This console is read-only.")
        check_origin()
        if not hmac.compare_digest(
            request.form.get(FIELD, "").encode("utf-8", "replace"),
            self.token().encode(),
        ):
            abort(
                403, "This form is not of your session. Go back, reload, and try again."
            )

    def token(self) -> str:
        """What a form of this browser and operator must have in its field."""
        return self._signed("form", self._browser(), operator())

    def seal(self, text: str) -> str:
        """Proves to this browser that the console itself has said ``text``."""
        return self._signed("text", self._browser(), text)

    def is_sealed(self, text: str, seal: str) -> bool:
        return hmac.compare_digest(
            seal.encode("utf-8", "replace"), self.seal(text).encode()
        )

    def _signed(self, *parts: str) -> str:
        secret = current_app.secret_key or b""
        key = secret.encode() if isinstance(secret, str) else secret
        text = "".join(f"{len(part)}:{part}" for part in ("hydracache console", *parts))
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    def _browser(self) -> str:
        """The random name of this browser; made, and sent with the answer, if new."""
        name: str | None = g.get(_BROWSER)
        if name is None:
            name = request.cookies.get(COOKIE, "")
            if len(name) != 43 or not name.isascii():
                name = secrets.token_urlsafe(32)
            setattr(g, _BROWSER, name)
        return name

    def finish(self, response: Response) -> Response:
        """After each request: headers, and the cookie of a new browser."""
        for header, value in HEADERS.items():
            response.headers[header] = value
        name = g.get(_BROWSER)
        if name is not None and name != request.cookies.get(COOKIE):
            response.set_cookie(
                COOKIE,
                name,
                path=url_for(".overview"),
                httponly=True,
                samesite="Strict",
                secure=request.is_secure,
            )
        return response


def check_origin() -> None:
    """Refuse what a browser says another site has sent.

    A browser sends one of these headers at least with each POST; a program may send
    none, and has the token to prove itself.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        abort(403, "This request comes from another site.")
    origin = request.headers.get("Origin")
    if origin is not None and _host(origin) != request.host.lower():
        abort(
            403,
            "This request comes from another site. Behind a proxy, have it send the"
            " Host that browsers use, or use werkzeug's ProxyFix.",
        )


def _host(origin: str) -> str | None:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None  # as of brackets that are no address
    host = parts.netloc.lower()
    default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return host[: -len(default)] if default and host.endswith(default) else host

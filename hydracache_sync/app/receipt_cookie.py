"""Tells a browser's next request what its last one wrote: POST, redirect, GET.

A signed cookie carries the receipts that are not seen published yet. A cached read of
the next request waits for them a moment, and goes past the cache if they are late.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import urlsafe_b64encode
from typing import Any, Callable, Mapping, NamedTuple

from itsdangerous import Signer
from werkzeug.http import dump_cookie

from hydracache_sync.app import app_settings, open_transactions
from hydracache_sync.app.request_state import RequestState
from hydracache_sync.app.runtime import Runtime
from hydracache_sync.errors import OutboxError
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import (
    CommitPosition,
    InvalidationReceipt,
    created_ms_of,
)
from hydracache_sync.worker.wait import InvalidationWait

logger = printable_logger(__name__)

#: Seconds that a browser keeps the cookie. Rows that are later than that are in an
#: outage; a transaction that was rolled back is forgotten then.
MAX_AGE = 300

#: Receipts in a cookie, the latest. Each takes about a hundred bytes of 4096.
MOST_RECEIPTS = 8

#: Between two receipts; a character that a cookie keeps as it is and a receipt has not.
_BETWEEN = "~"

#: Begins the name of a cookie that the app has given none.
NAME = "hydracache"

#: Where a request's environment keeps what its cookie said.
_EARLIER = "hydracache_sync.earlier"


#: Stands for the value in a header that is made once; has nothing to be quoted.
_VALUE = "~receipts~"


class _Signed(NamedTuple):
    """The cookie by one secret: an app may change that while it runs."""

    secret: str | bytes
    name: str
    #: With the key set up, which takes longer than the rest.
    keyed: hmac.HMAC

    def sign(self, value: str) -> str:
        return f"{value}.{self._signature(value)}"

    def unsign(self, text: str) -> str | None:
        """Return what was signed; None if that was not done here."""
        value, _, signature = text.rpartition(".")
        if not text.isascii():
            return None
        known = hmac.compare_digest(signature, self._signature(value))
        return value if known else None

    def _signature(self, value: str) -> str:
        # What a Signer makes with the key.
        keyed = self.keyed.copy()
        keyed.update(value.encode("ascii"))
        return urlsafe_b64encode(keyed.digest()).decode("ascii").rstrip("=")


class ReceiptCookie:
    """The cookie of one app. Without a secret key there is none.

    A browser keeps one jar for all ports of a host, and sends what an app at ``/`` has
    set to all of the host's apps. So the name is that of the outbox, the namespace and
    the secret key, without which no app can read it.

    :param secret: returns the app's secret key.
    """

    def __init__(
        self, runtime: Runtime, secret: Callable[[], str | bytes | None]
    ) -> None:
        self._runtime = runtime
        given: str | None = runtime.config[app_settings.COOKIE]
        self._given = given
        #: What the header has at least if the cookie is there. Empty: there is none.
        self._mark = NAME if given is None else given
        self._wait: float = runtime.config[app_settings.WAIT]
        self._secret = secret
        self._signed: _Signed | None = None
        #: By name, path and scheme: the cookie's header before and after the value.
        self._header: tuple[tuple[str, str, bool], str, str] | None = None
        self._said = False

    def is_published(self, environ: dict[str, Any]) -> bool:
        """Whether all that the browser's earlier requests wrote is published.

        Waits once a request, and only while the write is younger than
        ``HYDRACACHE_WAIT``: a cache that is away costs a visitor that much in all.
        """
        if not self._mark or self._mark not in environ.get("HTTP_COOKIE", ""):
            return True
        late = environ.get(_EARLIER)
        if late is None:
            late = environ[_EARLIER] = [
                receipt
                for receipt in self._received(environ)
                if not self._wait_for(receipt)
            ]
        return not late

    def answer(
        self, environ: Mapping[str, Any], collected: RequestState | None, response: Any
    ) -> None:
        """Put what the browser's next request should know into ``response``."""
        late = environ.get(_EARLIER)
        new = [] if collected is None else self._unpublished(collected)
        if not self._mark or (not new and late is None):
            return
        signed = self._by_secret()
        if signed is None:
            return
        path = environ.get("SCRIPT_NAME") or "/"
        if not new and not late:
            # Another app of this host may be given the name: what it wrote stays.
            if self._received(environ):
                response.delete_cookie(signed.name, path=path)
            return
        if not new:
            return  # the browser has it already
        if late is None:
            # Nothing was read here, so nobody has asked about the earlier ones. The new
            # cookie takes the place of the one that names them.
            texts = self._texts(environ, signed)
        else:
            texts = [receipt.to_string() for receipt in late]
        texts += [receipt.to_string() for receipt in new]
        value = signed.sign(_BETWEEN.join(texts[-MOST_RECEIPTS:]))
        secure = environ.get("wsgi.url_scheme") == "https"
        before, after = self._around_value(signed.name, path, secure)
        response.headers.add("Set-Cookie", f"{before}{value}{after}")

    def _around_value(self, name: str, path: str, secure: bool) -> tuple[str, str]:
        """What the cookie's header has before the value, and after it."""
        kept, known = self._header, (name, path, secure)
        if kept is None or kept[0] != known:
            header = dump_cookie(
                name,
                _VALUE,
                max_age=MAX_AGE,
                sync_expires=False,  # max_age says it, at any time
                path=path,
                httponly=True,
                samesite="Lax",
                secure=secure,
            )
            before, _, after = header.partition(_VALUE)
            kept = self._header = known, before, after
        return kept[1:]

    def _unpublished(self, collected: RequestState) -> list[InvalidationReceipt]:
        found = [each.receipt for each in collected.written if not each.readable]
        if collected or open_transactions.writing():
            # It will be written after the headers are gone: its receipt is made now.
            # What a transaction of a watched model writes is not collected before.
            collected.promised = CommitPosition.generate()
            batch = collected.batch()
            found.append(
                InvalidationReceipt(
                    self._runtime.namespace,
                    collected.promised,
                    int(time.time() * 1000),
                    max(1, len(batch.distinct())),
                )
            )
        return found

    def _received(self, environ: Mapping[str, Any]) -> list[InvalidationReceipt]:
        try:
            signed = self._by_secret()
            texts = [] if signed is None else self._texts(environ, signed)
            receipts = list(map(InvalidationReceipt.from_string, texts))
        except ValueError as exc:
            # Of another version. The browser then knows of no writes.
            logger.debug("the cookie of receipts is not taken: %s", exc)
            return []
        return [each for each in receipts if each.namespace == self._runtime.namespace]

    def _texts(self, environ: Mapping[str, Any], signed: _Signed) -> list[str]:
        """The receipts that the browser has sent, as they were signed here."""
        header = environ.get("HTTP_COOKIE", "")
        text = _sent(header, signed.name) if self._mark in header else None
        if text is None:
            return []
        try:
            texts = signed.unsign(text)
            if texts is None:
                raise ValueError("its signature is another's")
            # Each by its own age. That of the signature would be of the last write, and
            # below 0 where a host whose clock is ahead has signed it.
            oldest = (time.time() - MAX_AGE) * 1000
            return [
                each for each in texts.split(_BETWEEN) if created_ms_of(each) >= oldest
            ]
        except ValueError as exc:
            # Of another app, or made up: the browser then knows of no writes.
            logger.debug("cookie %s is not taken: %s", signed.name, exc)
            return []

    def _wait_for(self, receipt: InvalidationReceipt) -> bool:
        age = time.time() - receipt.created_at_ms / 1000
        # Another host's clock may be ahead of ours.
        rest = min(max(0.0, self._wait - age), self._wait)
        try:
            return (
                InvalidationWait.best_effort(rest)
                .wait(self._runtime.outbox, receipt)
                .satisfied
            )
        except OutboxError as exc:
            # An unknown state counts as late: the database is asked.
            logger.warning("cannot tell whether %s is published: %s", receipt, exc)
            return False

    def _by_secret(self) -> _Signed | None:
        secret = self._checked_secret()
        if not secret:
            return None
        signed = self._signed
        if signed is None or signed.secret != secret:
            # Derived once, and not at each use.
            key = Signer(secret, salt="hydracache-receipts").derive_key()
            keyed = hmac.new(key, digestmod="sha1")
            signed = self._signed = _Signed(secret, self._name(secret), keyed)
        return signed

    def _name(self, secret: str | bytes) -> str:
        if self._given is not None:
            return self._given
        key = secret if isinstance(secret, bytes) else secret.encode("utf-8")
        rows = f"{self._runtime.outbox!r} {self._runtime.namespace}".encode()
        told = hmac.new(key, rows, hashlib.sha256)
        return f"{NAME}-{told.hexdigest()[:8]}"

    def _checked_secret(self) -> str | bytes | None:
        secret = self._secret()
        if not secret and not self._said:
            self._said = True
            logger.warning(
                "the app has no secret key: a browser's next request does not know what"
                " it wrote. Set one, or set HYDRACACHE_COOKIE to nothing"
            )
        return secret


def _sent(header: str, name: str) -> str | None:
    """The value of the first cookie of that name in a header; None without one.

    Of the others, which neighbours of the app may have set, no byte may keep ours from
    being read. Ours has nothing that would be quoted.
    """
    for each in header.split(";"):
        key, _, value = each.partition("=")
        if key.strip() == name:
            return value.strip().strip('"')
    return None

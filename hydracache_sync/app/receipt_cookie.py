"""Tells a browser's next request what its last one wrote: POST, redirect, GET.

A signed cookie carries the receipts that are not seen published yet. A cached read of
the next request waits for them a moment, and goes past the cache if they are late.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Any, Callable, Mapping

from itsdangerous import BadSignature, TimestampSigner
from werkzeug.http import parse_cookie

from hydracache_sync.app import app_settings
from hydracache_sync.app.request_state import RequestState
from hydracache_sync.app.runtime import Runtime
from hydracache_sync.errors import OutboxError
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
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


class ReceiptCookie:
    """The cookie of one app. Without a secret key there is none.

    A browser keeps one jar for all ports of a host, and sends what an app at ``/`` has
    set to all of the host's apps. So the name is that of the namespace and the secret
    key, without which no app can read it.

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
        secret = self._checked_secret()
        if not secret:
            return
        name = self._name(secret)
        options = {"path": environ.get("SCRIPT_NAME") or "/"}
        if not new and not late:
            # Another app of this host may be given the name: what it wrote stays.
            if self._received(environ):
                response.delete_cookie(name, **options)
            return
        if not new:
            return  # the browser has it already
        if late is None:
            # Nothing was read here, so nobody has asked about the earlier ones. The new
            # cookie takes the place of the one that names them.
            late = self._received(environ)
        texts = [receipt.to_string() for receipt in late + new]
        response.set_cookie(
            name,
            _signer(secret).sign(_BETWEEN.join(texts[-MOST_RECEIPTS:])).decode("ascii"),
            max_age=MAX_AGE,
            httponly=True,
            samesite="Lax",
            secure=environ.get("wsgi.url_scheme") == "https",
            **options,
        )

    def _unpublished(self, collected: RequestState) -> list[InvalidationReceipt]:
        found = [each.receipt for each in collected.written if not each.readable]
        if collected:
            # It will be written after the headers are gone: its receipt is made now.
            collected.promised = CommitPosition.generate()
            batch = collected.batch()
            found.append(
                InvalidationReceipt(
                    self._runtime.namespace,
                    collected.promised,
                    int(time.time() * 1000),
                    len(batch.distinct()),
                )
            )
        return found

    def _received(self, environ: Mapping[str, Any]) -> list[InvalidationReceipt]:
        secret = self._checked_secret()
        if not secret:
            return []
        name = self._name(secret)
        # Ours is of ASCII. Of the others, which neighbours of the app may have set, no
        # byte may keep it from being read.
        header = environ.get("HTTP_COOKIE", "").encode("ascii", "replace").decode()
        text = parse_cookie(header).get(name)
        if text is None:
            return []
        try:
            texts = _signer(secret).unsign(text, max_age=MAX_AGE).decode("ascii")
            receipts = map(InvalidationReceipt.from_string, texts.split(_BETWEEN))
            # By its own age: each write signs anew what the ones before it wrote.
            oldest = (time.time() - MAX_AGE) * 1000
            return [
                receipt
                for receipt in receipts
                if receipt.namespace == self._runtime.namespace
                and receipt.created_at_ms >= oldest
            ]
        except (BadSignature, ValueError) as exc:
            # Old, of another app, or made up: the browser then knows of no writes.
            logger.debug("cookie %s is not taken: %s", name, exc)
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
            # Not known is as good as late: the database is asked.
            logger.warning("cannot tell whether %s is published: %s", receipt, exc)
            return False

    def _name(self, secret: str | bytes) -> str:
        if self._given is not None:
            return self._given
        key = secret if isinstance(secret, bytes) else secret.encode("utf-8")
        told = hmac.new(key, self._runtime.namespace.encode("utf-8"), hashlib.sha256)
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


def _signer(secret: str | bytes) -> TimestampSigner:
    return TimestampSigner(secret, salt="hydracache-receipts")

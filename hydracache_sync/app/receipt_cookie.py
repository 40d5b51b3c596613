"""Tells a browser's next request what its last one wrote: POST, redirect, GET.

A signed cookie carries the receipts that are not seen published yet. A cached read of
the next request waits for them a moment, and goes past the cache if they are late.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Any, Callable, Mapping

from itsdangerous import BadSignature, Signer
from werkzeug.http import parse_cookie

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
        #: Name and signer, by the secret: an app may change that while it runs.
        self._keyed: tuple[str | bytes, str, Signer] | None = None
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
        keyed = self._name_and_signer()
        if keyed is None:
            return
        name, signer = keyed
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
            texts = self._texts(environ)
        else:
            texts = [receipt.to_string() for receipt in late]
        texts += [receipt.to_string() for receipt in new]
        response.set_cookie(
            name,
            signer.sign(_BETWEEN.join(texts[-MOST_RECEIPTS:])).decode("ascii"),
            max_age=MAX_AGE,
            httponly=True,
            samesite="Lax",
            secure=environ.get("wsgi.url_scheme") == "https",
            **options,
        )

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
            receipts = list(map(InvalidationReceipt.from_string, self._texts(environ)))
        except ValueError as exc:
            # Of another version. The browser then knows of no writes.
            logger.debug("the cookie of receipts is not taken: %s", exc)
            return []
        return [each for each in receipts if each.namespace == self._runtime.namespace]

    def _texts(self, environ: Mapping[str, Any]) -> list[str]:
        """The receipts that the browser has sent, as they were signed here."""
        keyed = self._name_and_signer()
        if keyed is None:
            return []
        name, signer = keyed
        # Ours is of ASCII. Of the others, which neighbours of the app may have set, no
        # byte may keep it from being read.
        header = environ.get("HTTP_COOKIE", "").encode("ascii", "replace").decode()
        text = parse_cookie(header).get(name)
        if text is None:
            return []
        try:
            texts = signer.unsign(text).decode("ascii")
            # Each by its own age. That of the signature would be of the last write, and
            # below 0 where a host whose clock is ahead has signed it.
            oldest = (time.time() - MAX_AGE) * 1000
            return [
                each for each in texts.split(_BETWEEN) if created_ms_of(each) >= oldest
            ]
        except (BadSignature, ValueError) as exc:
            # Of another app, or made up: the browser then knows of no writes.
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
            # An unknown state counts as late: the database is asked.
            logger.warning("cannot tell whether %s is published: %s", receipt, exc)
            return False

    def _name_and_signer(self) -> tuple[str, Signer] | None:
        secret = self._checked_secret()
        if not secret:
            return None
        keyed = self._keyed
        if keyed is None or keyed[0] != secret:
            # Derived once, and not at each use.
            key = Signer(secret, salt="hydracache-receipts").derive_key()
            signer = Signer(key, key_derivation="none")
            keyed = self._keyed = secret, self._name(secret), signer
        return keyed[1:]

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

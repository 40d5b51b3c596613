"""Views whose responses are cached whole: status, headers and body.

Read through the extension's own calls, under the request's rules for its own writes.
What is kept is the view's own response: functions of ``after_request``, and the
session's cookie, come after it, and to each response again.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from typing import Any, Callable, Collection, Iterable

from flask import Response, current_app, has_request_context, request
from werkzeug.datastructures import Headers

from hydracache_sync.app.extension import Extension
from hydracache_sync.cache.functions.call_keys import text_of
from hydracache_sync.cache.functions.decorator import KeyOf, TagsOf, refuse_memory
from hydracache_sync.cache.functions.inherited_tags import InheritedTags
from hydracache_sync.cache.tag_sets import several
from hydracache_sync.cache.unstorable import NotToBeStored
from hydracache_sync.integrations.flask.cookie_reads import (
    WatchedEnviron,
    unwatched_environ,
    watched_environ,
)
from hydracache_sync.integrations.flask.page_arguments import (
    header_names,
    query_names,
    status_codes,
)
from hydracache_sync.integrations.flask.page_names import is_alike, is_told_apart, named
from hydracache_sync.integrations.flask.request_reads import (
    JUDGED,
    header_of,
    session_is_read,
)
from hydracache_sync.keys import Identity, identity_text, identity_texts
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Statuses of responses that are kept by default.
STATUSES = (200, 203, 301, 404, 410)

#: Bytes of a query string at most; requests with a longer one are not cached.
MAX_QUERY = 1000

#: One that chooses the page, also where it was read before the view.
_LANGUAGE = "HTTP_ACCEPT_LANGUAGE"

#: In place of a page that is not to be stored.
_NOT_KEPT = b""


def cached_page(
    self: Extension,
    *,
    tags: Iterable[Identity] | TagsOf,
    ttl: float | None = None,
    key: KeyOf | None = None,
    vary: Iterable[str] = (),
    query: Iterable[str] | None = None,
    statuses: Collection[int] = STATUSES,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a view so that its responses are cached, below ``@app.route``.

    Kept is what answers GET, and it answers HEAD too, by this key: the view, scheme,
    host, path and query string, the headers of ``vary``, and ``key``. Not looked for,
    and not stored, without a ``key``: pages of requests with an ``Authorization``
    header or a ``REMOTE_USER``, and those of which the session was read. Nor is a
    response stored that sets a cookie, is streamed, has another status, has ``private``
    or ``no-store`` in its ``Cache-Control``, or names a header in ``Vary`` that is not
    in ``vary``; nor one whose view has read a cookie or another header that is not in
    ``vary``. Where a cookie, or ``Accept-Language``, was read before the view, requests
    that have it are treated as those with a session. All else that the view depends on
    is the caller's to name. A page has an ``ETag``, and is not
    sent to a browser that has it.

    :param tags: what the page shows, or a function that makes them from the view's
        arguments; those of cached functions and of other cached pages that the view
        calls are added. ``()`` says that only a flush or its TTL ends it.
    :param ttl: seconds that a page is kept; None for the cache's default, 0 for no
        limit.
    :param key: makes from the view's arguments what tells pages of one URL apart, the
        user's id say. It is added to the rest of the key.
    :param vary: names of request headers that the view depends on.
    :param query: names of the arguments in the query string that the view reads: no
        others are in the key then. None for all of it; a request with more than
        ``MAX_QUERY`` bytes is not cached then.
    :param statuses: those that are kept.
    :raises TypeError, ValueError: one of these is not as said. A call raises TypeError
        for arguments that do not come from the URL and cannot be part of a key, and in
        place of an error handler.
    """
    self.caches_pages = True
    if key is not None and not callable(key):
        raise TypeError(
            f"key must be a function of the view's arguments, not {key!r}: `lambda **_:"
            f" {key!r}` is one"
        )
    if not callable(tags):
        tags = identity_texts("tag", several(tags))
    page = functools.partial(
        _CachedPage,
        self,
        tags=tags,
        ttl=ttl,
        key=key,
        vary=header_names(vary),
        query=query_names(query),
        statuses=status_codes(statuses),
    )

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        return page(view)

    return decorate


class _CachedPage:
    """A view with a cache in front of it."""

    def __init__(
        self,
        app: Extension,
        view: Callable[..., Any],
        *,
        tags: tuple[str, ...] | TagsOf,
        ttl: float | None,
        key: KeyOf | None,
        vary: tuple[str, ...],
        query: tuple[str, ...] | None,
        statuses: frozenset[int],
    ) -> None:
        if inspect.iscoroutinefunction(view):
            raise TypeError(f"{view.__qualname__} is a coroutine: nothing to cache")
        refuse_memory(view)
        functools.update_wrapper(self, view)
        self._app = app
        self._view = view
        self._name = named(self, view)
        self._tags = tags
        self._ttl = ttl
        self._key = key
        self._vary = vary
        self._known = frozenset(name.lower() for name in vary)
        self._query = query
        self._statuses = statuses
        self._is_told = False
        self._inherited = InheritedTags(self._name, inherits=True)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        raise TypeError(
            f"{self._name} is a method: name cached_page in the `decorators` of its"
            " class"
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not has_request_context() or request.method not in ("GET", "HEAD"):
            return self._view(*args, **kwargs)
        if _has_body():
            # It may say what is asked for, and is no part of the key.
            return current_app.make_response(self._view(*args, **kwargs))
        if args and isinstance(args[0], Exception):
            raise TypeError(
                f"{self._name} is an error handler, which cached_page does not take: it"
                f" was given {args[0]!r}. Cache a function that the handler calls"
            )
        environ = request.environ
        of_user = isinstance(environ, WatchedEnviron) and environ.is_read
        by_language = isinstance(environ, WatchedEnviron) and (
            _LANGUAGE in environ.headers
        )
        # Before anything is judged: it may read the session, which Flask then notes;
        # and cookies, of which a page that calls this one then depends, too.
        key = self._key_of(args, kwargs)
        if (
            self._is_too_long()
            or not self._has_name()
            or not self._is_for_all(of_user)
            or (by_language and not self._is_for_all_languages())
        ):
            return current_app.make_response(self._view(*args, **kwargs))
        made: list[tuple[bytes, Response]] = []

        def load() -> bytes:
            response, page = self._load(args, kwargs)
            made.append((page, response))
            if page == _NOT_KEPT or request.method == "HEAD":
                raise NotToBeStored(page)
            return page

        page: bytes = self._inherited.read(
            key,
            self._tags_of(args, kwargs),
            load,
            functools.partial(self._app.get_or_load, ttl=self._ttl),
        )
        # An audit loads what is not returned.
        fresh = dict(made)
        response = fresh[page] if page in fresh else _unpacked(page)
        if response.status_code in (200, 203) and page != _NOT_KEPT:
            response.make_conditional(request.environ)
        return response

    # What is asked for

    def _key_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        parts: list[object] = [request.url_root, request.path]
        if args or not is_alike(kwargs, request.view_args or {}):
            # Called by another view, or with more than the URL says.
            parts.append(text_of((args, tuple(sorted(kwargs.items())))))
        if self._query is None:
            parts.append(request.query_string.decode("latin-1"))
        else:
            parts.append([request.args.getlist(name) for name in self._query])
        parts.append([request.headers.get(name) for name in self._vary])
        if self._key is not None:
            parts.append(identity_text("key", self._key(*args, **kwargs)))
        text = json.dumps(parts).encode("ascii")
        return f"page:{self._name}:{hashlib.sha256(text).hexdigest()}"

    def _tags_of(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, ...]:
        tags = self._tags
        if isinstance(tags, tuple):
            return tags
        return identity_texts("tag", several(tags(*args, **kwargs)))

    def _is_too_long(self) -> bool:
        return self._query is None and len(request.query_string) > MAX_QUERY

    def _is_for_all(self, of_user: bool = False) -> bool:
        """Whether nothing says that the page is one user's, or the key says whose.

        :param of_user: what ran before the page has read a cookie.
        """
        if self._key is not None:
            return True
        environ = unwatched_environ()
        if "cookie" not in self._known:
            if session_is_read():
                return False
            if of_user and environ.get("HTTP_COOKIE"):
                self._tell("what ran before it has read a cookie of the request")
                return False
        if environ.get("REMOTE_USER"):
            return False
        # A view that found none has made the page of requests without it.
        return "authorization" in self._known or "HTTP_AUTHORIZATION" not in environ

    def _is_for_all_languages(self) -> bool:
        """Whether the key says, or the request has not, what was read before."""
        if self._key is not None or "accept-language" in self._known:
            return True
        if _LANGUAGE not in unwatched_environ():
            return True
        self._tell_of_header("what ran before it has read", "Accept-Language")
        return False

    def _has_name(self) -> bool:
        """Whether no other page has the same key; one of another URL may call both."""
        if is_told_apart(self, self._name):
            return True
        self._tell(
            "another cached page has its name, and a view of another URL calls it, or a"
            " decorator without functools.wraps",
            "set a __name__ of its own below the decorator",
        )
        return False

    def _tell(
        self,
        why: str,
        remedy: str = "name Cookie in vary=, or give a key= that says whose the page"
        " is",
    ) -> None:
        """Say why a page is not cached, once: the request itself is answered well."""
        if not self._is_told:
            self._is_told = True
            logger.info("page %s is not cached: %s; %s", self._name, why, remedy)

    def _tell_of_header(self, why: str, name: str) -> None:
        self._tell(
            f"{why} the header {name}",
            "name it in vary=, or, where the page does not depend on it, give"
            ' key=lambda **_: "all"',
        )

    # What is answered

    def _load(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Response, bytes]:
        """Call the view, and return its response and what is kept of it."""
        environ = watched_environ()
        earlier, environ.is_read = environ.is_read, False
        headers, environ.headers = environ.headers, set()
        try:
            response = current_app.make_response(self._view(*args, **kwargs))
            if not self._may_be_kept(response, environ):
                return response, _NOT_KEPT
            if self._vary:
                response.vary.update(self._vary)
            return response, _packed(response)
        finally:
            # Or a page that calls this one would not be seen to have read them.
            environ.is_read |= earlier
            environ.headers |= headers

    def _may_be_kept(self, response: Response, environ: WatchedEnviron) -> bool:
        if response.status_code not in self._statuses:
            return False
        if response.is_streamed or response.direct_passthrough:
            return False
        control = response.cache_control
        if "Set-Cookie" in response.headers or control.no_store or control.private:
            return False
        if not self._known.issuperset(name.lower() for name in response.vary):
            return False
        if self._key is None and "cookie" not in self._known and environ.is_read:
            self._tell("its view has read a cookie, or iterated over all headers")
            return False
        for name in sorted(environ.headers if self._key is None else ()):
            header = header_of(name)
            if header.lower() not in JUDGED | self._known:
                self._tell_of_header("its view has read", header)
                return False
        return self._is_for_all()


def _has_body() -> bool:
    environ = unwatched_environ()
    length = environ.get("CONTENT_LENGTH") or "0"
    return length != "0" or "HTTP_TRANSFER_ENCODING" in environ


def _packed(response: Response) -> bytes:
    """Give ``response`` an ETag, and return it as bytes: a line of JSON, and the body.

    The ETag is made of all that is kept. That of tokens alone would leave browsers with
    what the code of an earlier version has made of the same rows.
    """
    body = response.get_data()
    if response.get_etag()[0] is None:
        text = json.dumps([response.status, response.headers.to_wsgi_list()])
        response.set_etag(hashlib.sha256(text.encode() + body).hexdigest()[:32])
    head = json.dumps([response.status, response.headers.to_wsgi_list()])
    return head.encode("ascii") + b"\n" + body


def _unpacked(page: bytes) -> Response:
    head, _, body = page.partition(b"\n")
    status, headers = json.loads(head)
    response: Response = current_app.response_class(body, status=status)
    # Not given to it: it would add a Content-Type to headers that have none.
    response.headers = Headers([tuple(each) for each in headers])
    return response

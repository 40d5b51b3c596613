"""Whether a request's cookies and other headers were read, by whatever way.

``request.cookies``, ``request.headers`` and ``request.environ`` all read the WSGI
environment. While a request is watched, that is a dict that notes such reads.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict

from flask import Flask, request
from werkzeug.datastructures import EnvironHeaders

from hydracache_sync.integrations.flask.object_reads import is_for_a_log

_COOKIE = "HTTP_COOKIE"
_HOST = "HTTP_HOST"
_HEADER = "HTTP_"

#: What a request parses once and keeps. What was parsed before the watch is forgotten,
#: or another look at it would not be seen. Cookies Flask has parsed for its session.
_PARSED = (
    *("cookies", "authorization", "user_agent", "access_route", "accept_mimetypes"),
    *("accept_charsets", "accept_encodings", "accept_languages"),
)


class WatchedEnviron(Dict[str, Any]):
    """A copy of a WSGI environment that notes which headers are read.

    What is changed in it is changed in the original, too. Of one request's thread.

    :ivar original: what the server has made.
    :ivar is_read: whether the cookies were read since it was last set to False.
    :ivar headers: names, as WSGI has them, of the headers that were read since it was
        last made empty, whether the request has them or not.
    """

    def __init__(self, original: dict[str, Any]) -> None:
        super().__init__(original)
        self.original = original
        self.is_read = False
        self.headers: set[str] = set()

    def update(self, *args: Any, **kwargs: Any) -> None:
        changes = dict(*args, **kwargs)
        self.original.update(changes)
        super().update(changes)

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self


def _of_one_key(name: str, *, changes: bool) -> Any:
    """Return a method of dict that notes the key of a header, and may change both."""
    method = getattr(dict, name)

    @functools.wraps(method)
    def run(self: WatchedEnviron, key: Any, *args: Any) -> Any:
        if isinstance(key, str) and key.startswith(_HEADER):
            # A formatter of logs that has the URL is in Flask's own documentation.
            if key != _HOST or not is_for_a_log():
                self.headers.add(key)
            if key == _COOKIE:
                self.is_read = True
        if changes:
            method(self.original, key, *args)
        return method(self, key, *args)

    return run


def _of_all_keys(name: str) -> Any:
    """Return a method of dict that looks at each key, the cookies' among them."""
    method = getattr(dict, name)

    @functools.wraps(method)
    def run(self: WatchedEnviron, *args: Any) -> Any:
        self.is_read = True
        return method(self, *args)

    return run


for _name in ("__getitem__", "__contains__", "get"):
    setattr(WatchedEnviron, _name, _of_one_key(_name, changes=False))
for _name in ("__setitem__", "__delitem__", "setdefault", "pop"):
    setattr(WatchedEnviron, _name, _of_one_key(_name, changes=True))
# With an __iter__ of its own, dict() and ** copy by these, too.
for _name in (
    *("__iter__", "__reversed__", "keys", "items", "values", "copy"),
    *("__eq__", "__ne__", "__or__", "__ror__", "__repr__"),
):
    setattr(WatchedEnviron, _name, _of_all_keys(_name))


def watched_environ() -> WatchedEnviron:
    """Return the environment of the request that is served, watched from now on."""
    # Past the proxy, which is looked up at each attribute.
    served: Any = request._get_current_object()  # type: ignore[attr-defined]
    environ = served.environ
    if not isinstance(environ, WatchedEnviron):
        environ = served.environ = WatchedEnviron(environ)
        if isinstance(served.headers, EnvironHeaders):
            served.headers.environ = environ
    for name in _PARSED:
        vars(served).pop(name, None)
    return environ


def unwatched_environ() -> dict[str, Any]:
    """Return the environment of the request, for reads that are not the view's."""
    served: Any = request._get_current_object()  # type: ignore[attr-defined]
    environ: dict[str, Any] = served.environ
    return environ.original if isinstance(environ, WatchedEnviron) else environ


def watch(app: Flask, is_wanted: Callable[[], bool]) -> None:
    """Watch the requests of ``app`` from before its own functions run."""
    # Not before_request(): request_started is sent before, and has receivers, too.
    dispatch = app.full_dispatch_request

    @functools.wraps(dispatch)
    def run(*args: Any) -> Any:
        if is_wanted():
            watched_environ()
        return dispatch(*args)

    app.full_dispatch_request = run  # type: ignore[method-assign]

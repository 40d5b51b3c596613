"""What a cached function reads of the request that is served, beside its arguments.

Its key has its arguments alone, so another request would be given what this one made.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Iterator

import flask.globals
from flask import has_request_context, request

from hydracache_sync.integrations.flask.cookie_reads import watched_environ
from hydracache_sync.integrations.flask.object_reads import noted_attributes

#: Headers that a view may read and its page is stored. They are in the page's key, or
#: judged by themselves, or of no effect on a whole page.
JUDGED = frozenset(
    ("host", "cookie", "authorization", "range", "if-range", "if-match")
    + ("if-none-match", "if-modified-since", "if-unmodified-since")
    + ("transfer-encoding",)
)

#: What a request parses of its query string, once, and keeps.
_QUERY = ("args", "values")

#: And of its host.
_HOST = ("host", "host_url", "url", "base_url", "url_root", "root_url")


def header_of(name: str) -> str:
    """The name of a header, from that which it has in a WSGI environment."""
    return name.partition("_")[2].replace("_", "-").title()


def session_is_read() -> bool:
    """Whether anything of this request has looked into its session.

    Before 3.1.3 Flask does not note every look: there, a session that holds something
    counts as read.
    """
    session, notes_all = _kept_session()
    return bool(session.accessed or (not notes_all and session))


def _kept_session() -> tuple[Any, bool]:
    """The session of this request, and whether Flask notes every look into it.

    Not by Flask's ``session``, which would be such a look.
    """
    kept = vars(_context())
    return (kept["_session"], True) if "_session" in kept else (kept["session"], False)


def _context() -> Any:
    """The context of the request that is served."""
    names = vars(flask.globals)
    if "_cv_request" in names:
        return names["_cv_request"].get()
    if "_request_ctx_stack" in names:
        return names["_request_ctx_stack"].top
    return names["_cv_app"].get()


@contextlib.contextmanager
def _noted_hosts() -> Iterator[list[str]]:
    """Note that the block has made a URL with the host that the client has named."""
    found: list[str] = []
    adapter = _context().url_adapter
    if adapter is None:  # an app without it
        yield found
        return
    build = adapter.build

    @functools.wraps(build)
    def noting(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("force_external"):
            found.append("the header Host")
        return build(*args, **kwargs)

    adapter.build = noting
    try:
        yield found
    finally:
        adapter.build = build


@contextlib.contextmanager
def noted_reads() -> Iterator[list[str]]:
    """Note what the block reads of the request; yields a list that has it at the end.

    Also what it reads of ``flask.g`` that was there before. Outside of a request there
    is nothing. What was read before the block, and what is read in it, counts as read
    afterwards, too.
    """
    found: list[str] = []
    if not has_request_context():
        yield found
        return
    environ, (session, _) = watched_environ(), _kept_session()
    served: Any = request._get_current_object()  # type: ignore[attr-defined]
    parsed = {name: vars(served).pop(name, None) for name in _QUERY + _HOST}
    earlier, accessed = environ.headers, getattr(session, "accessed", False)
    was_read, environ.is_read, environ.headers = environ.is_read, False, set()
    if accessed:
        session.accessed = False
    hosts: list[str] = []
    attributes: list[str] = []
    try:
        with noted_attributes() as attributes, _noted_hosts() as hosts:
            yield found
    finally:
        if getattr(session, "accessed", False):
            found.append("the session")
        elif accessed:
            session.accessed = True
        if environ.is_read:
            found.append("a cookie")
        names = sorted(map(header_of, environ.headers))
        own = JUDGED - {"authorization", "host"}
        found += [f"the header {name}" for name in names if name.lower() not in own]
        found += [each for each in hosts[:1] if each not in found]
        if any(name in vars(served) for name in _QUERY):
            found.append("the query string")
        found += attributes
        for name, value in parsed.items():
            if value is not None:
                vars(served).setdefault(name, value)
        environ.is_read |= was_read
        environ.headers |= earlier

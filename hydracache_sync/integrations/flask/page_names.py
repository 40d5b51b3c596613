"""Names of cached pages, and which of them a URL does not tell apart.

The key of a page has its name and the URL. Views that one function makes have one name:
the URL tells them apart, as long as none is called by a view of another URL.
"""

from __future__ import annotations

import weakref
from typing import Any, Callable, Mapping

from flask import current_app, request

#: Those of this process that are in use, by name.
_pages: dict[str, weakref.WeakSet[Any]] = {}


def named(page: object, view: Callable[..., Any]) -> str:
    """Return the name of ``page``, which is ``view`` with a cache in front of it."""
    qualname: str = getattr(view, "__qualname__", type(view).__name__)
    name = f"{view.__module__}.{qualname}"
    own = getattr(view, "__name__", None)
    if own is not None and own != qualname.rpartition(".")[2]:
        # Class-based views have one __qualname__ all, and a __name__ each.
        name = f"{name}({own})"
    _pages.setdefault(name, weakref.WeakSet()).add(page)
    return name


def is_told_apart(page: object, name: str) -> bool:
    """Whether no other page has this name, or it is the view of the request's URL.

    Found below other decorators by ``__wrapped__``, which ``functools.wraps`` sets.
    """
    if len(_pages[name]) == 1:
        return True
    view: Any = current_app.view_functions.get(request.endpoint or "")
    while view is not None and view is not page:
        view = getattr(view, "__wrapped__", None)
    return view is page


def is_alike(given: Mapping[str, Any], of_url: Mapping[str, Any]) -> bool:
    """Whether a view is given what the URL says: 1 is neither 1.0 nor True."""
    return given == of_url and all(
        type(value) is type(of_url[name]) for name, value in given.items()
    )

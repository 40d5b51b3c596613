"""Defaults of arguments that are objects, as the names that they have.

Sphinx shows a default by its value, ``3600.0``, which is what a reader wants to know.
The ``<built-in function time>`` of ``clock=`` is none, and no signature for Sphinx.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

OBJECT = re.compile(r"<(?:built-in )?(?:function|class|object) '?([\w.]+)[^>]*>")


def name_defaults(
    app: Sphinx,
    what: str,
    name: str,
    of: Any,
    options: Any,
    signature: Any,
    returns: Any,
) -> tuple[Any, Any]:
    """Return the signature with names in place of objects."""
    if signature:
        signature = OBJECT.sub(r"\1", signature)
    return signature, returns


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-signature", name_defaults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

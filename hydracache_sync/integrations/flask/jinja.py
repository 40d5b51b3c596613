"""A block of a Jinja template that is cached: ``{% cache key, tags, ttl %}``.

Read through the calls of the app that is served, as a cached function is. What it keeps
has been escaped where it was made, and comes back as ``Markup``.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

from flask import current_app
from jinja2 import Environment, Undefined, nodes, pass_eval_context
from jinja2.ext import Extension
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from hydracache_sync.cache.functions.inherited_tags import InheritedTags
from hydracache_sync.cache.tag_sets import several
from hydracache_sync.integrations.flask.state import state_of
from hydracache_sync.keys import identity_text, identity_texts


class _OfTheMacro(NodeTransformer):
    """Gives the body of a block the ``caller`` of the macro that it stands in.

    The body is compiled as a macro, which would have these names again: empty ones.

    :ivar assignments: what has to stand before the block.
    """

    _NAMES = ("caller", "varargs", "kwargs")

    def __init__(self, parser: Parser, body: list[nodes.Node]) -> None:
        self._parser = parser
        every = [each for node in body for each in node.find_all(nodes.Name)]
        #: What the body itself sets is its own.
        self._own = {each.name for each in every if each.ctx != "load"}
        for each in (ref for node in body for ref in node.find_all(nodes.NSRef)):
            if each.name not in self._own:
                # What follows would see another value where the block is cached.
                parser.fail(
                    f"{{% cache %}} sets {each.name}.{each.attr}, of a namespace that"
                    " was made before it: only a block that is rendered would do so",
                    each.lineno,
                )
        self._known: dict[str, nodes.InternalName] = {}
        self.assignments: list[nodes.Node] = []

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        if node.name not in self._NAMES or node.name in self._own:
            return node
        if node.name not in self._known:
            known = self._parser.free_identifier(node.lineno)
            self._known[node.name] = known
            self.assignments.append(nodes.Assign(known, node))
        return self._known[node.name]

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        # Its call is made here; its body has a caller of its own.
        node.call = self.visit(node.call)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return node

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
        # Compiled apart from all that it stands in.
        return node


class CacheBlock(Extension):
    """``{% cache key, tags, ttl %} ... {% endcache %}``, by ``add_extension``.

    The key of the entry is ``fragment:`` and the block's, or ``text fragment:`` where
    the template does not escape: what is not escaped must not be served as if it was.
    ``tags`` are several, ``[]`` for none; those of blocks and of cached functions in
    the block are added. ``ttl`` is in seconds, none for the cache's default.

    A block raises what ``hydracache.get_or_load`` does.
    """

    tags = {"cache"}

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._inherited = InheritedTags("{% cache %}", inherits=True)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        if self.environment.is_async:
            # What it would keep is a coroutine, and no text.
            parser.fail("{% cache %} has no place beside enable_async", line)
        arguments = [parser.parse_expression()]
        while parser.stream.skip_if("comma"):
            arguments.append(parser.parse_expression())
        if len(arguments) not in (2, 3):
            parser.fail(
                "cache takes a key, tags and, if you like, a TTL:"
                f" {{% cache key, tags, ttl %}}; it has {len(arguments)}",
                line,
            )
        body = parser.parse_statements(("name:endcache",), drop_needle=True)
        outer = _OfTheMacro(parser, body)
        body = [outer.visit(node) for node in body]
        call = self.call_method("_read", arguments, lineno=line)
        block = nodes.CallBlock(call, [], [], body)
        return [each.set_lineno(line) for each in (*outer.assignments, block)]

    @pass_eval_context
    def _read(
        self,
        context: EvalContext,
        key: Any,
        tags: Any,
        ttl: float | None = None,
        *,
        caller: Callable[[], str],
    ) -> str:
        if isinstance(tags, Undefined):
            # It would pass for no tags.
            raise TypeError(f"the tags of {{% cache {key!r} %}} are undefined")
        escaped = bool(context.autoescape)
        prefix = "fragment" if escaped else "text fragment"
        text = self._inherited.read(
            f"{prefix}:{identity_text('key', key)}",
            identity_texts("tag", several(tags)),
            lambda: str(caller()),
            functools.partial(state_of(current_app).calls.get_or_load, ttl=ttl),
        )
        return Markup(text) if escaped else text

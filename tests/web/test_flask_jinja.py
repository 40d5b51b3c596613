"""Blocks of Jinja templates that are cached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import render_template, render_template_string
from jinja2 import DictLoader, Environment, TemplateSyntaxError
from markupsafe import Markup
from shop import Shop, hydracache, text

from hydracache_sync import InvalidationIntentBatch, MemcachedApplier, OutboxWorker
from hydracache_sync.integrations.flask.jinja import CacheBlock
from support.servers import Memcached

BLOCK = "hydracache_sync.integrations.flask.jinja.CacheBlock"


class Templates:
    """An app whose ``/`` renders a template, with counters of what was rendered."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.made: list[str] = []
        shop.app.jinja_env.add_extension(BLOCK)
        shop.app.jinja_env.globals["made"] = self.note
        shop.app.jinja_env.globals["hydracache"] = hydracache
        self.source = ""
        shop.app.add_url_rule(
            "/", "page", lambda: render_template_string(self.source, **self.values)
        )
        self.values: dict[str, Any] = {}

    def note(self, what: str) -> str:
        self.made.append(what)
        return f"{what} {self.made.count(what)}"

    def get(self, source: str, **values: Any) -> str:
        self.source, self.values = source, values
        return text(self.shop.client.get("/"))

    def invalidate(self, tag: str) -> None:
        batch = InvalidationIntentBatch().invalidate_tag(tag)
        MemcachedApplier(self.shop.store, "shop").apply_batch(list(batch.intents))


@pytest.fixture
def templates(tmp_path: Path) -> Templates:
    shop = Shop(tmp_path / "j.db", HYDRACACHE_SNAPSHOT="fresh", HYDRACACHE_WAIT=0)
    shop.app.testing = True
    return Templates(shop)


def test_a_block_is_rendered_once_and_escaped_once(templates: Templates) -> None:
    source = (
        "{% cache 'side', ['t'], 60 %}<b>{{ made('x') }} {{ name }}</b>{% endcache %}!"
    )

    pages = [templates.get(source, name="a<i>&") for _ in range(3)]

    assert pages == ["<b>x 1 a&lt;i&gt;&amp;</b>!"] * 3


def test_a_block_within_an_expression_is_markup(templates: Templates) -> None:
    source = (
        "{% set side %}{% cache 'side', [] %}<b>{{ made('x') }}</b>{% endcache %}"
        "{% endset %}{{ side }}{{ is_markup(side) }}"
    )
    templates.shop.app.jinja_env.globals["is_markup"] = lambda value: isinstance(
        value, Markup
    )

    assert [templates.get(source) for _ in range(2)] == ["<b>x 1</b>True"] * 2


def test_a_text_is_not_served_as_if_it_was_escaped(templates: Templates) -> None:
    app = templates.shop.app
    block = "{% cache 'name', [] %}{{ name }}{% endcache %}"
    app.jinja_env.loader = DictLoader({"mail.txt": block, "page.html": block})

    with app.test_request_context():
        made = [
            render_template(each, name="<script>")
            for each in ["mail.txt", "page.html"] * 2
        ]

    assert made == ["<script>", "&lt;script&gt;"] * 2


def test_a_block_is_no_other_value_of_its_key(templates: Templates) -> None:
    with templates.shop.app.test_request_context():
        hydracache.get_or_load("name", lambda: "<script>")

    page = templates.get("{% cache 'name', [] %}{{ made('x') }}{% endcache %}")

    assert page == "x 1"


def test_a_block_ends_with_its_tags_and_with_its_key(templates: Templates) -> None:
    source = "{% cache 7, tags %}{{ made('x') }}{% endcache %}"
    tags = ("product:1", "product:2")
    assert templates.get(source, tags=tags) == "x 1"

    templates.invalidate("product:2")

    assert [templates.get(source, tags=tags) for _ in range(2)] == ["x 2"] * 2
    batch = InvalidationIntentBatch().invalidate_key("fragment:7")
    applier = MemcachedApplier(templates.shop.store, "shop")
    applier.apply_batch(list(batch.intents))
    assert templates.get(source, tags=tags) == "x 3"


def test_a_block_has_the_tags_of_those_within_it(templates: Templates) -> None:
    source = (
        "{% cache 'outer', ['o'] %}{{ made('outer') }}, "
        "{% cache 'inner', ['i'] %}{{ made('inner') }}{% endcache %}{% endcache %}"
    )
    for _ in range(3):
        templates.get(source)  # The first load learns what the block shows.
    assert templates.made == ["outer", "inner", "outer"]

    templates.invalidate("i")

    assert templates.get(source) == "outer 3, inner 2"


def test_a_page_has_the_tags_of_its_blocks(templates: Templates) -> None:
    source = "{% cache 'side', ['side'] %}{{ made('x') }}{% endcache %}"
    templates.shop.app.add_url_rule(
        "/kept",
        "kept",
        hydracache.cached_page(tags=())(lambda: render_template_string(source)),
    )
    client = templates.shop.client
    assert [text(client.get("/kept")) for _ in range(3)] == ["x 1"] * 3

    templates.invalidate("side")

    assert text(client.get("/kept")) == "x 2"


def test_a_block_in_a_loop_has_what_its_turn_has(templates: Templates) -> None:
    source = (
        "{% for name in names %}"
        "{% cache 'row:' ~ name, ['row'] %}{{ loop.index }}{{ name }};{% endcache %}"
        "{% endfor %}"
    )

    pages = [templates.get(source, names=["a", "b"]) for _ in range(2)]

    assert pages == ["1a;2b;"] * 2


def test_a_block_shows_what_the_browser_has_written(templates: Templates) -> None:
    shop = templates.shop
    source = "{% cache 'name', ['name'] %}{{ name() }}{% endcache %}"

    @shop.app.post("/<name>")
    def rename(name: str) -> str:
        with hydracache.transaction(shop.db()):
            shop.rename(name)
            hydracache.invalidate_tag("name")
        return "done"

    assert templates.get(source, name=shop.name) == "before"
    shop.client.post("/after")

    assert templates.get(source, name=shop.name) == "after"
    assert text(shop.app.test_client().get("/")) == "before"
    worker = OutboxWorker(shop.outbox, MemcachedApplier(shop.store, "shop"))
    assert worker.drain().complete
    assert text(shop.app.test_client().get("/")) == "after"


def test_templates_of_coroutines_are_refused() -> None:
    environment = Environment(enable_async=True, extensions=[CacheBlock])

    with pytest.raises(TemplateSyntaxError, match="enable_async"):
        environment.from_string("{% cache 'k', [] %}{% endcache %}")


def test_a_block_that_raises_stores_nothing(templates: Templates) -> None:
    source = "{% cache 'k', [] %}{{ 1 // divisor }}{% endcache %}"

    with pytest.raises(ZeroDivisionError):
        templates.get(source, divisor=0)

    assert templates.get(source, divisor=1) == "1"


@pytest.mark.parametrize(
    "source",
    [
        "{% cache 'key' %}{% endcache %}",
        "{% cache 'key', [], 60, 1 %}{% endcache %}",
        "{% cache 'key', [] %}",
        "{% cache %}{% endcache %}",
        # A hit would set nothing.
        "{% set ns = namespace(a=1) %}"
        "{% cache 'key', [] %}{% set ns.a = 2 %}{% endcache %}{{ ns.a }}",
    ],
)
def test_a_block_that_is_not_as_said_is_an_error(
    templates: Templates, source: str
) -> None:
    with pytest.raises(TemplateSyntaxError):
        templates.get(source)


@pytest.mark.parametrize(
    "source, said",
    [
        ("{% cache none, [] %}{% endcache %}", "key must be"),
        ("{% cache nothing, [] %}{% endcache %}", "key must be"),
        ("{% cache 'key', 'tag' %}{% endcache %}", "tag"),
        ("{% cache 'key', nothing %}{% endcache %}", "undefined"),
        ("{% cache 'key', [nothing] %}{% endcache %}", "tag must be"),
    ],
)
def test_arguments_that_are_wrong_or_undefined_are_refused(
    templates: Templates, source: str, said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        templates.get(source)


def test_blocks_of_two_apps_are_each_in_its_own_cache(
    tmp_path: Path, memcached: Memcached, unique: str
) -> None:
    source = "{% cache 'k', [] %}{{ made('x') }} {{ which }}{% endcache %}"
    sites = [
        Templates(
            Shop(
                tmp_path / f"{which}.db",
                namespace=f"{unique}{which}",
                HYDRACACHE_MEMCACHED=memcached.address,
                HYDRACACHE_SNAPSHOT="fresh",
            )
        )
        for which in ("a", "b")
    ]

    for _ in range(2):
        for which, site in zip("ab", sites):
            assert site.get(source, which=which).endswith(which)


@pytest.mark.parametrize(
    "source, shown",
    [
        (
            "{% macro box() %}{% cache 'k', [] %}[{{ caller() }}]{% endcache %}"
            "{% endmacro %}{% call box() %}<i>{{ made('x') }}{{ name }}</i>"
            "{% endcall %}",
            "[<i>x 1&lt;</i>]",
        ),
        (
            "{% macro box() %}{% for each in 'ab' %}{% cache each, [] %}"
            "{{ caller(each) }}{% endcache %}{% endfor %}{% endmacro %}"
            "{% call(it) box() %}{{ it }}{{ made('x') }};{% endcall %}",
            "ax 1;bx 2;",
        ),
        (
            "{% macro box() %}{% cache 'k', [] %}{% cache 'within', [] %}{{ caller() }}"
            "{% endcache %}{{ varargs }}{{ kwargs }}{% endcache %}{% endmacro %}"
            "{% call box(1, of=2) %}{{ made('x') }}{% endcall %}",
            "x 1(1,){'of': 2}",
        ),
        (
            "{% macro box() %}<{{ caller() }}>{% endmacro %}{% cache 'k', [] %}"
            "{% call box() %}{{ made('x') }}{% endcall %}{% endcache %}",
            "<x 1>",
        ),
        (
            "{% macro box() %}{% cache 'k', [] %}{% set kwargs = made('x') %}"
            "{{ kwargs }}{% endcache %}{% endmacro %}{{ box() }}",
            "x 1",
        ),
    ],
    ids=["caller", "with arguments", "nested", "of another macro", "its own"],
)
def test_a_block_in_a_macro_has_what_the_macro_was_called_with(
    templates: Templates, source: str, shown: str
) -> None:
    for _ in range(2):
        assert templates.get(source, name="<").replace("&#39;", "'") == shown

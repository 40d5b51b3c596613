"""The default key of a call is what ``inspect`` binds, however the call is written."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any, Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync.cache.functions.call_keys import default_key

MODULE = "shop_of_call_keys"

#: Every kind of parameter, with and without a default, and names that ``**`` may take.
SIGNATURES = (
    "",
    "a",
    "a, b",
    "a, b=None",
    "a=1, b='two'",
    "a, /, b",
    "a, b=2, /, c=3",
    "a, /, **more",
    "a=1, /, **more",
    "*rest",
    "a, *rest",
    "a, *rest, b=2",
    "*, a",
    "*, a=1, b",
    "a, *, b, c=3",
    "a, b=2, *rest, c, d=4, **more",
    "a, **more",
    "\u00e4, *, \u00f6=1",
)


@pytest.fixture(scope="module")
def functions() -> Iterator[list[Callable[..., Any]]]:
    module = ModuleType(MODULE)
    for number, signature in enumerate(SIGNATURES):
        exec(f"def f{number}({signature}): pass", module.__dict__)
    sys.modules[MODULE] = module
    module.__dict__["__name__"] = MODULE
    made = [getattr(module, f"f{number}") for number in range(len(SIGNATURES))]
    yield made
    del sys.modules[MODULE]


class Cache:
    pass


def bound_key(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    """The key by the book: all that is bound, in order."""
    signature = inspect.signature(function)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    parts: list[str] = []
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            parts += map(ascii, value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            parts += [f"{word(k)}={v!a}" for k, v in sorted(value.items())]
        elif kind is inspect.Parameter.KEYWORD_ONLY:
            parts.append(f"{word(name)}={value!a}")
        else:
            parts.append(ascii(value))
    return f"{function.__module__}.{function.__qualname__}({', '.join(parts)})"


def word(name: str) -> str:
    return name if name.isascii() and name.isidentifier() else ascii(name)


VALUES = st.sampled_from([None, True, 0, 1, "1", "a b", "\u00e4", b"x"])
NAMES = st.sampled_from(["a", "b", "c", "d", "\u00e4", "\u00f6", "rest", "more", "x y"])


@given(
    args=st.lists(VALUES, max_size=4).map(tuple),
    kwargs=st.dictionaries(NAMES, VALUES, max_size=3),
)
def test_key_is_that_of_the_bound_arguments(
    functions: list[Callable[..., Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    for function in functions:
        key = default_key(Cache(), function)
        try:
            expected = bound_key(function, args, kwargs)
        except TypeError as exc:
            with pytest.raises(TypeError) as caught:
                key(*args, **kwargs)
            assert str(caught.value) == str(exc)
        else:
            assert key(*args, **kwargs) == expected

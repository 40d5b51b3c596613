"""What a block of Python says of the library, checked without running it."""

from __future__ import annotations

import ast
import importlib
import inspect
from typing import Any, Iterator

import hydracache_sync
from hydracache_sync.integrations.flask import HydraCache
from support.page_blocks import Block

#: What pages call the objects that they do not make themselves, as a rule: a fixture
#: or another library's object may have the name, and other methods.
USUAL = {
    "batch": hydracache_sync.InvalidationIntentBatch,
    "cache": hydracache_sync.TaggedCache,
    "hydracache": HydraCache,
    "outbox": hydracache_sync.InvalidationOutbox,
    "pool": hydracache_sync.WorkerPool,
    "store": hydracache_sync.MemcachedStore,
    "worker": hydracache_sync.OutboxWorker,
}


def problems(blocks: list[Block]) -> list[str]:
    """What is wrong in the Python of a page, each with its place.

    Imports of the library are resolved. Calls of its public names, and of methods of
    objects of its classes, must fit the signatures.
    """
    known = {name: getattr(hydracache_sync, name) for name in hydracache_sync.__all__}
    classes: dict[str, Any] = dict(USUAL)
    found = []
    for block in blocks:
        if block.language != "python":
            continue
        for node, problem in _problems(ast.parse(block.body), known, classes):
            found.append(f"{block.page}:{block.line + node.lineno - 1}: {problem}")
    return found


def _problems(
    tree: ast.AST, known: dict[str, Any], classes: dict[str, Any]
) -> Iterator[tuple[Any, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    yield node, f"{node.module} has no {alias.name}"
                    continue
                known[alias.asname or alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _is_ours(alias.name):
                    importlib.import_module(alias.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = _called(node.value, known, classes)
            if inspect.isclass(made):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        classes[target.id] = made
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _misfits(node, known, classes)


def _misfits(
    call: ast.Call, known: dict[str, Any], classes: dict[str, Any]
) -> Iterator[tuple[Any, str]]:
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        owner = classes.get(call.func.value.id)
        surely = owner is not USUAL.get(call.func.value.id)
        if owner is not None and surely and not hasattr(owner, call.func.attr):
            yield call, f"{owner.__name__} has no {call.func.attr}"
    called = _called(call, known, classes)
    if (
        called is None
        or any(isinstance(each, ast.Starred) for each in call.args)
        or any(each.arg is None for each in call.keywords)
    ):
        return
    values: list[Any] = [None] * len(call.args)
    if not inspect.isclass(called) and isinstance(call.func, ast.Attribute):
        values.insert(0, None)  # self
    try:
        signature = inspect.signature(called)
        signature.bind(*values, **{str(each.arg): None for each in call.keywords})
    except TypeError as error:
        yield call, f"{ast.unparse(call.func)}: {error}"


def _called(call: ast.Call, known: dict[str, Any], classes: dict[str, Any]) -> Any:
    """The function or class of the library that is called; None if it is another."""
    if isinstance(call.func, ast.Name):
        return known.get(call.func.id)
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        owner = classes.get(call.func.value.id)
        method = inspect.getattr_static(owner, call.func.attr, None) if owner else None
        return method if inspect.isfunction(method) else None
    return None


def _is_ours(module: str | None) -> bool:
    return module is not None and module.split(".")[0] == "hydracache_sync"

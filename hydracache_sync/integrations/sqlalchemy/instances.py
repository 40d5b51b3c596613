"""What an object of a watched model stands for: its entity, and what its change means.

By the names and functions that ``watch`` was given, so that a tag of an object is the
one that its change invalidates.
"""

from __future__ import annotations

from typing import Any, Iterable

from sqlalchemy import inspect

from hydracache_sync.integrations.sqlalchemy.watched_models import WatchedModels
from hydracache_sync.intents import InvalidationIntent


def intents_of(
    instance: object, watched: Iterable[WatchedModels]
) -> list[InvalidationIntent]:
    """What a change of ``instance`` invalidates.

    :raises TypeError: its model is not watched.
    :raises ValueError: it has no primary key yet.
    """
    known = [intents for each in watched for _, intents in each.of_instance(instance)]
    if not known:
        raise _unknown(instance)
    key = _primary_key(instance)
    return [intent for each in known for intent in each.of_object(instance, [key])]


def tag_of(instance: object, watched: Iterable[WatchedModels]) -> str:
    """Tag of the entity that ``instance`` is, under the name of its nearest class.

    :raises TypeError: its model is not watched with ``entity=``, or with several.
    :raises ValueError: it has no primary key yet.
    """
    known = [found for each in watched for found in each.of_instance(instance)]
    for kind in type(instance).__mro__:
        named = [
            intents
            for model, intents in known
            if model is kind and intents.entity is not None
        ]
        if named:
            key = _primary_key(instance)
            tags = {
                intent.to_cache_invalidation().value
                for intent in (each.of_entity(key) for each in named)
                if intent is not None
            }
            if len(tags) > 1:
                raise TypeError(
                    f"{kind.__name__} is watched under several names: make the tag by"
                    " entity_tag()"
                )
            [tag] = tags
            assert tag is not None
            return tag
    raise _unknown(instance)


def _unknown(instance: object) -> TypeError:
    name = type(instance).__name__
    return TypeError(
        f"nothing is known of a {name}: neither is it an intent, nor is it watched as"
        f" an entity. For a mapped class say watch({name}, entity=...) on what attach()"
        " returns"
    )


def _primary_key(instance: object) -> tuple[Any, ...]:
    state: Any = inspect(instance)
    key: tuple[Any, ...] | None = state.identity
    if key is None:
        key = tuple(state.mapper.primary_key_from_instance(instance))
        if None in key:
            raise ValueError(
                f"a {type(instance).__name__} has no primary key yet: flush its session"
                " before"
            )
    return key

"""Why an object that was to be invalidated, or to be a tag, stands for no entity."""

from __future__ import annotations

from uuid import UUID


def unknown_object(instance: object) -> TypeError:
    """The error to raise, with what to give instead."""
    if isinstance(instance, type):
        return TypeError(
            f"{instance.__name__} is a class, which names no row: give an object of it,"
            " or for all of its rows the tag of a collection"
        )
    name = type(instance).__name__
    if isinstance(instance, (str, int, UUID)):
        return TypeError(
            f"{name} may be a key, a tag or an entity's id: say which, by"
            " invalidate_key(), invalidate_tag() or invalidate_entity()"
        )
    return TypeError(
        f"nothing is known of a {name}: neither is it an intent, nor is it watched as"
        f" an entity. For a mapped class say watch({name}, entity=...) on what attach()"
        " returns"
    )

"""``attach`` of an app's ``HydraCache``, and what objects of watched models stand for.

It loads SQLAlchemy when it is called: only who attaches something has it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Callable

from hydracache_sync.app.extension import Extension
from hydracache_sync.integrations.unknown_object import unknown_object
from hydracache_sync.intents import InvalidationIntent

if TYPE_CHECKING:
    from hydracache_sync.integrations.sqlalchemy import Attached, Engine


def attach(
    self: Extension, target: Any, *, bind: Engine | Callable[[], Engine] | None = None
) -> Attached:
    """Have SQLAlchemy write what is collected, in the transaction it commits.

    Once, beside the target: ``hydracache.attach(db.session)``. Serves every app that
    this object serves.

    :param target: as for ``hydracache_sync.integrations.sqlalchemy.attach``.
    :param bind: as there.
    :return: what maps models to intents: ``attached.watch(User, entity="user")``.
    """
    from hydracache_sync.integrations.sqlalchemy import attach_to

    return attach_to(self, target, bind=bind)


def intents_of(self: Extension, instance: object) -> list[InvalidationIntent]:
    """What a change of an object of a watched model invalidates.

    :raises TypeError, ValueError: nothing is known of it, or it has no key yet.
    """
    loaded: Any = sys.modules.get("hydracache_sync.integrations.sqlalchemy")
    if loaded is None:
        raise unknown_object(instance)
    found: list[InvalidationIntent] = loaded.intents_of(self, instance)
    return found

"""``attach`` of an app's ``HydraCache``, under every framework.

It loads SQLAlchemy when it is called: only who attaches something has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from hydracache_sync.app.extension import Extension

if TYPE_CHECKING:
    from hydracache_sync.integrations.sqlalchemy import Attached, Engine


def attach(
    self: Extension, target: Any, *, bind: Engine | Callable[[], Engine] | None = None
) -> Attached:
    """Have SQLAlchemy write what is collected, in the transaction it commits.

    Once, beside the target: ``hydracache.attach(db.session)``. Serves every app that
    this object serves.

    :param target, bind: as for ``hydracache_sync.integrations.sqlalchemy.attach``.
    :return: what maps models to intents: ``attached.watch(User, entity="user")``.
    """
    from hydracache_sync.integrations.sqlalchemy import attach_to

    return attach_to(self, target, bind=bind)

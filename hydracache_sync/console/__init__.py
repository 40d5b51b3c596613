"""The operator's console: pages that show what an outbox does, and act on it.

``console_blueprint`` is for an app of Flask, ``hydracache console`` stands alone. Needs
the extra ``console``. Each page is a bounded number of bounded statements, whatever the
size of the tables. No page has a script.
"""

from hydracache_sync.console.blueprint import console_blueprint

__all__ = ["console_blueprint"]

"""Flask: the extension, pages that are cached whole, and blocks of Jinja templates."""

from hydracache_sync.integrations.flask.extension import HydraCache
from hydracache_sync.integrations.flask.state import FlaskState

__all__ = ["FlaskState", "HydraCache"]

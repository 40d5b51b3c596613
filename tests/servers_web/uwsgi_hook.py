"""The app with uWSGI's hook, as docs/operations/servers.md has it."""

from served_app import app, hydracache

try:
    import uwsgi
    from uwsgidecorators import postfork
except ImportError:  # not under uWSGI
    pass
else:
    if uwsgi.worker_id():  # --lazy-apps: this is the worker already
        hydracache.start_pool(app)
    else:
        postfork(lambda: hydracache.start_pool(app))

"""gunicorn reads this file from the folder that it is started in."""

bind = "127.0.0.1:8000"
workers = 2
worker_class = "gthread"
threads = 4

# The app is loaded once and its memory is shared; each worker's pool is its own.
preload_app = True

# The pool waits up to 5 seconds for its batch at the end of a process.
graceful_timeout = 30


def post_worker_init(worker):
    """Start the pool with the worker, and not at its first request."""
    from shop import app, hydracache

    hydracache.start_pool(app)

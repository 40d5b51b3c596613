"""Where the library meets an app: Flask, SQLAlchemy, plain WSGI.

Import the one you use; each loads its framework, and nothing else does.
"""

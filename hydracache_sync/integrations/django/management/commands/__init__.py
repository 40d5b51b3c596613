"""Commands of ``manage.py``, each of which is a file here."""

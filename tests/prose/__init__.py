"""Looks at the project's English: pages, comments, docstrings, messages.

Code and the suite's own texts aside: ``python -m prose``, which ``make lint`` runs.
"""

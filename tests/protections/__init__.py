"""Each protection is taken out of the code in turn, and a test must notice.

``python -m protections`` does it, ``taken_away`` says what and which test.
"""

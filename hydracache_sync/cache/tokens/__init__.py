"""Tokens: what they are, how they are written, and when one may be served."""

"""Cached functions: their keys, their tags, and the tags they inherit."""

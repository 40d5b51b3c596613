"""Loads of missing values: their limit, the reader that runs each, what is stored."""

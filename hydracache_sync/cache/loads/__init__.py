"""Loads of missing values: how many run at once, who runs them, what they may store."""

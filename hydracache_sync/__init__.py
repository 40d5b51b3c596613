"""Cache invalidation that is part of the transaction, in plain threads."""

__version__ = "0.1.0"

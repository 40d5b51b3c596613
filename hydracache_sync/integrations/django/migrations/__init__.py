"""Migrations of the app ``hydracache``: the outbox's tables."""

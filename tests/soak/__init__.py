"""A soak: pools carry rows for an hour while everything they need comes and goes."""

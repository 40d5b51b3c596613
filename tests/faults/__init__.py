"""Programs that break things on purpose; see ``kill_storm.py``."""

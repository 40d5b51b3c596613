"""The outbox in a file of SQLite: what differs from MySQL, a part a file."""

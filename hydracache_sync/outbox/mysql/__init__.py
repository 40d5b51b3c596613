"""The outbox in MySQL and MariaDB: what differs from SQLite, a part a file."""

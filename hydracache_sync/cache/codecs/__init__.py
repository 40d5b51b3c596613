"""From values to bytes and back: one codec a file, and what they share."""

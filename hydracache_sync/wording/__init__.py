"""What operators read, in a terminal and in a browser alike: moments, rows, counts."""

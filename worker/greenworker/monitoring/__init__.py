"""What a worker counts and measures, and the port that shows it."""

"""Redis as a broker that loses nothing. Needs redis-py, so it is imported only where the broker is Redis."""

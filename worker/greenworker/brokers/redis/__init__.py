"""Redis as a broker that loses nothing. What needs redis-py is imported only where the broker is Redis."""

"""What a worker owes a broker: fetching, acknowledgements, what is given back, dead letters."""

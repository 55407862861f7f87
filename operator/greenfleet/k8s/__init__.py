"""Talking to the API server: client, server-side apply, watched caches, Lease, Events. The only layer that writes."""

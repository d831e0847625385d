"""Pure: which instance serves a request, which machine starts a new one, and by which policy."""

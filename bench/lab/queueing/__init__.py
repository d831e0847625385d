"""Queues: simulated, calculated, compared, and run as services."""

"""Experiments: a durable queue, what runs it, and all that is kept of each."""

"""Policies under test: one experiment over several of them, and a report."""

"""Traces of requests: made by parameters, taken from elsewhere, split over workers."""

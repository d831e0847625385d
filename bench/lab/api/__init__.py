"""Experiments over HTTP, for programs and for the page in `bench/lab/page`."""

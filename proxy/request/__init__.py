"""One HTTP request: what is changed in it, its attempts, its time, and its answer."""

"""Load: when requests are due, what they are, and who sends them when they are due."""

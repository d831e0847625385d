"""Functions and applications as services: from the program that has them to where they run."""

"""What a program imports, and the `myxo` umbrella command."""

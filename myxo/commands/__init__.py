"""The sub-commands of `myxo`, by what they are about."""

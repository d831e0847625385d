"""Images of containers: fetched from peers or registries, handed on, kept and dropped."""

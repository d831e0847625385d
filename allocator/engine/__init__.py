"""The Docker engine: its containers, its events, and the network sandboxes that it holds ready."""

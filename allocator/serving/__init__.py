"""What others ask of an allocator: starts, offers, leases, and the way to its instances."""

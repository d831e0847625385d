"""What services are: the registry service, its stores, and registry-cli."""

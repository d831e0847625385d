"""The ways to instances: on this machine, through other machines' gateways, or as a table says."""

"""A service's configuration as people write it: `service-conf.json`, or the same as YAML."""

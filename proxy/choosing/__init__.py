"""From a service to an instance that serves: there already, with room soon, or started for it."""

"""Connections and datagrams of services that speak no HTTP, and the local ports that lead there."""

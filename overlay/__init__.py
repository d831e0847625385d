"""The shared peer-to-peer core: identity, host, records, RTT, wire messages and HTTP streams."""

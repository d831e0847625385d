"""The shared peer-to-peer core: identity, host, records, RTT, wire messages and HTTP streams."""

from overlay.name_servers import bear_their_absence

bear_their_absence()

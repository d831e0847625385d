"""The shared peer-to-peer core: identity, host, records, RTT, wire messages and HTTP streams."""

from overlay.lean_libp2p import postpone

postpone()  # before anything of libp2p is imported, hence by the package itself

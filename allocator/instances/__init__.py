"""The instances of this machine, from the request that wants one to the end of the last."""

"""The local HTTP proxy: resolve, select, forward, hold while starting, retry."""

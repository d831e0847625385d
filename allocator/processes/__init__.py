"""Commands of this machine's user as instances, where no container engine is wanted."""

"""Which service a request asks for, who asks, by which way it came, and how long it may take."""

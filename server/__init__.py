"""Everything that waits: the listener, the API, the peer transport, the loop of a member."""

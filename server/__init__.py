"""Everything that waits: the listener, the API, the peer transport and the loop that drives a member."""

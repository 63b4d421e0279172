"""Raft without I/O: message or tick in, Ready out. No clock, socket, disk or randomness."""

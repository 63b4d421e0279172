"""Raft without I/O: message or tick in, Ready out. No clock, no socket, no disk, no global randomness."""

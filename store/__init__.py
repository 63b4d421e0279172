"""The durable log and the replicated state machine, on SQLite. The clock is handed in."""

"""How ctl prints: one file per output format."""

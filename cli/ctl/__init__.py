"""The ctl commands, one file per command family."""

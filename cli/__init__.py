"""What a person types: server, ctl, utl, bench."""

"""Whom a client trusts, and as whom it is trusted."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trust:
    """How TLS is spoken: files, and the name that a certificate is checked for if not the host's.
    The files were read once, by check_files."""

    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    server_name: str = ""

"""TLS for the v2 commands; loaded for endpoints with https alone."""

import contextlib
import os
import socket
import ssl
from typing import Final

from pyetcd.cli.ctl2.trust import Trust

_UNTRUSTED: Final = "x509: certificate signed by unknown authority"
# In Go's words; its TLS 1.2 has no "certificate required".
_ALERTS: Final = {
    "unknown ca": "unknown certificate authority",
    "certificate required": "bad certificate",
}


def secure(trust: Trust, plain: socket.socket, host: str, *, latest: bool = True) -> ssl.SSLSocket:
    """TLS on a connection; raises OSError. Not the `latest`: no later than 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not latest:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if trust.cert_file:
        context.load_cert_chain(trust.cert_file, trust.key_file, password="")  # never asks for one
    if not trust.ca_file:
        context.load_default_certs()
    else:
        with contextlib.suppress(ssl.SSLError):  # no certificate in it: trusts nobody
            context.load_verify_locations(trust.ca_file)
    return context.wrap_socket(plain, server_hostname=trust.server_name or host)


def is_late_to_refuse(channel: ssl.SSLSocket) -> bool:
    """Whether the server looks at our certificate after the handshake only."""
    return channel.version() == "TLSv1.3"


def has_hung_up(failure: OSError) -> bool:
    """The connection ended, and not as TLS ends one."""
    return isinstance(failure, ssl.SSLEOFError)


def words(failure: OSError) -> str:
    """Why a handshake failed, as Go says it where OpenSSL says the same."""
    if isinstance(failure, ssl.SSLCertVerificationError):
        if failure.verify_code in (18, 19, 20, 21):
            return _UNTRUSTED
        return f"x509: {failure.verify_message}"
    if isinstance(failure, ssl.SSLError):
        reason = failure.reason or ""
        if has_hung_up(failure) or reason == "UNEXPECTED_EOF_WHILE_READING":
            return "EOF"
        if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return "tls: first record does not look like a TLS handshake"
        _, alert, told = reason.partition("ALERT_")
        if alert:
            told = told.lower().replace("_", " ")
            return f"remote error: tls: {_ALERTS.get(told, told)}"
        return f"tls: {reason.lower().replace('_', ' ')}"
    if isinstance(failure, ConnectionResetError):
        return "EOF"
    return os.strerror(failure.errno).lower() if failure.errno else "EOF"

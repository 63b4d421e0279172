"""Endpoints of the cluster as the proxy dials them: their places, TLS, and why they fail.

With TLS when an endpoint says https:// (or unixs:), or says nothing and a TLS file is given.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from pyetcd.server.proxy import addresses
from pyetcd.server.proxy.addresses import BadAddress
from pyetcd.server.proxy.settings import Settings
from pyetcd.server.tls import TlsError

PROBE_S: Final = 1.0
HTTPS_PORT: Final = "443"


@dataclass(frozen=True, slots=True)
class Place:
    """One endpoint: `target` is grpc's word for it, `address` Go's."""

    target: str
    address: str
    scheme: str

    def is_secure(self, settings: Settings) -> bool:
        if self.scheme in ("https", "unixs"):
            return True
        return self.scheme not in ("http", "unix") and wants_tls(settings)


def wants_tls(settings: Settings) -> bool:
    """Whether a flag asks for TLS to the cluster."""
    files = settings.cert_file or settings.key_file or settings.ca_file
    return bool(files) or settings.skips_verify


def place_of(endpoint: str) -> Place:
    """An endpoint as it was given."""
    scheme, colon, rest = endpoint.partition(":")
    if scheme in ("unix", "unixs") and colon:
        path = rest.removeprefix("//")
        return Place(f"unix:{path}", path, scheme)
    scheme = endpoint.partition("://")[0] if "://" in endpoint else ""
    address = addresses.without_scheme(endpoint)
    return Place(f"{_resolver(address)}{address}", address, scheme)


def _resolver(address: str) -> str:
    host = address.rpartition(":")[0].strip("[]")
    for family, name in ((socket.AF_INET, "ipv4:"), (socket.AF_INET6, "ipv6:")):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return name
    return "dns:///"


def check(settings: Settings) -> None:
    """The files for TLS to the cluster. Raises TlsError, in etcd's words."""
    cert, key, ca = settings.cert_file, settings.key_file, settings.ca_file
    if bool(cert) != bool(key):
        pair = f"[key: {key}, cert: {cert}]"
        raise TlsError(f"KeyFile and CertFile must both be present{pair}")
    try:
        if cert:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key)
            name = _common_name(cert)
            if name:  # the cluster would take every client for this user
                raise TlsError(f"cert has non empty Common Name ({name}): {cert}")
        if ca:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca)
    except ssl.SSLError as failure:
        raise TlsError(f"tls: {failure.reason or failure}") from None
    except OSError as failure:
        missing = next((name for name in (cert, key, ca) if name and not os.access(name, 4)), ca)
        raise TlsError(f"open {missing}: {os.strerror(failure.errno or 0).lower()}") from None


def _common_name(cert_file: str) -> str:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    with open(cert_file, "rb") as file:
        certificate = x509.load_pem_x509_certificate(file.read())
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def fetched_certificate(place: Place, settings: Settings) -> tuple[bytes | None, str]:
    """What the server shows, and a name that it is valid for. Raises OSError, ValueError."""
    from cryptography import x509

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    try:
        host, port = addresses.split(place.address)
    except BadAddress as mistake:
        raise ValueError(str(mistake)) from None
    with (
        socket.create_connection((host, addresses.number(port)), timeout=PROBE_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as channel,
    ):
        raw = channel.getpeercert(binary_form=True)
    if not raw:
        return None, ""
    certificate = x509.load_der_x509_certificate(raw)
    names: list[str] = []
    with contextlib.suppress(x509.ExtensionNotFound):
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names += found.get_values_for_type(x509.DNSName)
        names += [str(one) for one in found.get_values_for_type(x509.IPAddress)]
    return ssl.DER_cert_to_PEM_cert(raw).encode(), names[0] if names else ""


async def reason_of(place: Place) -> str:
    """Why it takes no connection, in Go's words; empty when it takes one."""
    dialing = "Error while dialing dial"
    try:
        if place.target.startswith("unix:"):
            async with asyncio.timeout(PROBE_S):
                _, writer = await asyncio.open_unix_connection(place.address)
        else:
            host, port = addresses.split(place.address)
            async with asyncio.timeout(PROBE_S):
                _, writer = await asyncio.open_connection(host or "localhost", port or 0)
    except BadAddress as mistake:
        return f"{dialing} tcp: {mistake}"
    except TimeoutError:
        return f"{dialing} tcp {place.address}: i/o timeout"
    except (socket.gaierror, UnicodeError):
        return f"{dialing} tcp: lookup {place.address.rpartition(':')[0]}: no such host"
    except OSError as failure:
        kind = "unix" if place.target.startswith("unix:") else "tcp"
        # asyncio joins what several addresses said
        reason = os.strerror(failure.errno).lower() if failure.errno else "connection refused"
        return f"{dialing} {kind} {place.address}: connect: {reason}"
    writer.close()
    return ""

"""Certificates made at the start for --auto-tls and --peer-auto-tls, as etcd's SelfCert makes them.

They lie in `fixtures/client` and `fixtures/peer` of the data directory and are used again at the
next start. They keep listeners from reading along, and prove nothing to anybody.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pyetcd.server.logs import get
from pyetcd.server.tls import TlsError

if TYPE_CHECKING:  # the library is imported only when a certificate is made
    from cryptography.x509 import GeneralName, KeyUsage

DAYS_PER_YEAR: Final = 365


def self_signed(folder: str, hosts: Sequence[str], *, years: int) -> tuple[str, str]:
    """The paths of a certificate and its key for these host names and addresses."""
    if years == 0:
        raise TlsError("selfSignedCertValidity is invalid,it should be greater than 0")
    folder = os.path.abspath(folder)
    cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    if os.path.exists(cert) and os.path.exists(key):
        return cert, key
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        cert_pem, key_pem = _make(hosts, years)
        _write(key, key_pem)
        _write(cert, cert_pem)
    except OSError as error:
        raise TlsError(f"{folder}: {(error.strerror or str(error)).lower()}") from error
    get("tls").warn("automatically generate certificates", cert_file=cert, key_file=key)
    return cert, key


def _make(hosts: Sequence[str], years: int) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    # etcd takes P-521, which gRPC's C library (Python, C++, Ruby clients) does not offer.
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "etcd")])
    now = datetime.datetime.now(datetime.UTC)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=years * DAYS_PER_YEAR))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signs_and_enciphers(), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternatives(hosts)), critical=False)
        .sign(private, hashes.SHA256())
    )
    key_pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key_pem


def _signs_and_enciphers() -> "KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(hosts: Sequence[str]) -> "list[GeneralName]":
    from cryptography import x509

    found: list[GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found


def _write(path: str, content: bytes) -> None:
    """Whole or not at all, and for nobody else to read."""
    temporary = f"{path}.tmp"
    descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)

"""TLS of the two listeners and of the way to the peers: contexts, who is let in, renewed files.

Strategy. One `TlsFiles` says what etcd's TLSInfo says. `server_context` and `client_context` make
Python's contexts of it; `Admission` looks at a connection after its handshake for what OpenSSL
does not check: revoked serial numbers, allowed names, a peer's address against its certificate.
Certificates are read again when their files change, for new connections (`Renewal`).

Rules. TLS 1.2 at least, whatever is asked for; only suites with forward secrecy and AEAD unless
suites are named. Common names stand for host names nowhere (RFC 6125). A certificate that cannot
be used is a refusal at the start, one line; later it is a warning, and the old one stays.
"""

import asyncio
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pyetcd.proto.gotext import quote
from pyetcd.server.handshake import ServerContext, note_server_name
from pyetcd.server.logs import get

ALPN: Final = ("h2", "http/1.1")
_AEAD: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS: Final[Mapping[str, ssl.TLSVersion]] = {
    "TLS1.2": ssl.TLSVersion.TLSv1_2,
    "TLS1.3": ssl.TLSVersion.TLSv1_3,
}
# Go's names of the suites for TLS 1.2, and OpenSSL's (client/pkg/tlsutil/cipher_suites.go). Those
# that OpenSSL no longer has are known, and select nothing.
SUITES: Final[Mapping[str, str]] = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA": "",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA": "",
    "TLS_RSA_WITH_RC4_128_SHA": "",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA": "",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA": "",
    "TLS_AES_128_GCM_SHA256": "",  # of TLS 1.3, which are always on
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
}
AnyContext = TypeVar("AnyContext", bound=ssl.SSLContext)


class TlsError(Exception):
    """The files or settings cannot be used. One line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """What one listener, or the way to the peers, goes by; empty strings for what is not given."""

    cert_file: str = ""
    key_file: str = ""
    client_cert_file: str = ""
    client_key_file: str = ""
    trusted_ca_file: str = ""
    crl_file: str = ""
    client_cert_auth: bool = False
    allowed_cn: str = ""
    allowed_hostname: str = ""
    checks_address: bool = False  # a client's certificate must name where it comes from
    is_self_signed: bool = False
    suites: tuple[str, ...] = ()
    version_min: str = "TLS1.2"
    version_max: str = ""

    @property
    def is_empty(self) -> bool:
        return not self.cert_file and not self.key_file

    @property
    def summary(self) -> str:
        """For the log, as etcd shows it."""
        return (
            f"cert = {self.cert_file}, key = {self.key_file}, "
            f"client-cert={self.client_cert_file}, client-key={self.client_key_file}, "
            f"trusted-ca = {self.trusted_ca_file}, "
            f"client-cert-auth = {str(self.client_cert_auth).lower()}, "
            f"crl-file = {self.crl_file}"
        )

    @property
    def wants_client_certificate(self) -> bool:
        return self.client_cert_auth or bool(self.trusted_ca_file)


def server_context(files: TlsFiles, *, alpn: Sequence[str] = ALPN) -> ServerContext:
    """Raises TlsError."""
    context = _context(ServerContext(ssl.PROTOCOL_TLS_SERVER), files)
    context.sni_callback = note_server_name
    _load_chain(context, files.cert_file, files.key_file)
    context.set_alpn_protocols(list(alpn))
    if files.wants_client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, files.trusted_ca_file, ssl.Purpose.CLIENT_AUTH)
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For calls to peers; without files, a client that trusts what the machine trusts. Raises
    TlsError."""
    context = _context(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)
    context.hostname_checks_common_name = False
    if not files.is_empty:
        cert, key = files.cert_file, files.key_file
        if files.client_cert_file:
            cert, key = files.client_cert_file, files.client_key_file
        _load_chain(context, cert, key)
    if files.is_self_signed:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        _trust(context, files.trusted_ca_file, ssl.Purpose.SERVER_AUTH)
    return context


def _context(context: AnyContext, files: TlsFiles) -> AnyContext:
    """The same with what both sides have in common."""
    if files.allowed_cn and files.allowed_hostname:
        raise TlsError(
            f"AllowedCN and AllowedHostname are mutually exclusive (cn={quote(files.allowed_cn)}"
            f", hostname={quote(files.allowed_hostname)})"
        )
    if bool(files.cert_file) != bool(files.key_file):
        raise TlsError(
            "KeyFile and CertFile must both be present"
            f"[key: {files.key_file}, cert: {files.cert_file}]"
        )
    if bool(files.client_cert_file) != bool(files.client_key_file):
        raise TlsError(
            "ClientKeyFile and ClientCertFile must both be present or both absent: "
            f"key: {files.client_key_file}, cert: {files.client_cert_file}]"
        )
    if files.client_cert_file:
        _load_chain(
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files.client_cert_file, files.client_key_file
        )
    context.minimum_version = _version("tls-min-version", files.version_min or "TLS1.2")
    if files.version_max:
        context.maximum_version = _version("tls-max-version", files.version_max)
        if context.maximum_version < context.minimum_version:
            raise TlsError(
                f"min version ({files.version_min}) is greater than max version "
                f"({files.version_max})"
            )
    if files.version_min == "TLS1.3" and files.suites:
        raise TlsError("cipher suites cannot be configured when only TLS1.3 is enabled")
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as Go: what is trusted needs no root
    context.set_ciphers(_ciphers(files.suites))
    return context


def _version(flag: str, text: str) -> ssl.TLSVersion:
    found = _VERSIONS.get(text)
    if found is None:
        raise TlsError(f"unexpected TLS version {quote(text)}; --{flag} is TLS1.2 or TLS1.3")
    return found


def _ciphers(suites: Sequence[str]) -> str:
    names = []
    for suite in suites:
        if suite not in SUITES:
            raise TlsError(f"unexpected TLS cipher suite {quote(suite)}")
        if SUITES[suite]:
            names.append(SUITES[suite])
    return ":".join(names) or _AEAD


def _load_chain(context: ssl.SSLContext, cert: str, key: str) -> None:
    contents = [_read(path) for path in (cert, key)]
    try:
        # Never ask at a terminal for the password of a key.
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or ""
        words = pair_words(contents[0], contents[1], reason)
        raise TlsError(f"{words} [cert: {cert}, key: {key}]") from error


def pair_words(cert: bytes, key: bytes, reason: str) -> str:
    """Go's words for a pair that OpenSSL did not take, for `reason` (crypto/tls: X509KeyPair)."""
    kinds = [found.decode("ascii", "replace") for found in _PEM_BEGIN.findall(cert)]
    if not kinds:
        return "tls: failed to find any PEM data in certificate input"
    if "CERTIFICATE" not in kinds:
        if len(kinds) == 1 and kinds[0].endswith("PRIVATE KEY"):
            return (
                "tls: failed to find certificate PEM data in certificate input, but did find a "
                "private key; PEM inputs may have been switched"
            )
        return (
            'tls: failed to find "CERTIFICATE" PEM block in certificate input after skipping PEM '
            f"blocks of the following types: [{' '.join(kinds)}]"
        )
    kinds = [found.decode("ascii", "replace") for found in _PEM_BEGIN.findall(key)]
    if not kinds:
        return "tls: failed to find any PEM data in key input"
    if not any(kind.endswith("PRIVATE KEY") for kind in kinds):
        if kinds == ["CERTIFICATE"]:
            return "tls: found a certificate rather than a key in the PEM for the private key"
        return (
            'tls: failed to find PEM block with type ending in "PRIVATE KEY" in key input after '
            f"skipping PEM blocks of the following types: [{' '.join(kinds)}]"
        )
    if reason == "KEY_VALUES_MISMATCH":
        return "tls: private key does not match public key"
    if reason == "KEY_TYPE_MISMATCH":
        return "tls: private key type does not match public key type"
    from cryptography import x509

    try:
        x509.load_pem_x509_certificate(cert)
    except ValueError:
        return "x509: malformed certificate"
    return "tls: failed to parse private key"


_PEM_BEGIN: Final = re.compile(rb"^-----BEGIN ([A-Z0-9 ]+)-----", re.MULTILINE)


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _trust(context: ssl.SSLContext, path: str, purpose: ssl.Purpose) -> None:
    if not path:
        context.load_default_certs(purpose)
        return
    _read(path)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise TlsError(f"{path}: no certificate of an authority in it") from error


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except IsADirectoryError as error:
        raise TlsError(f"read {path}: is a directory") from error
    except OSError as error:
        raise TlsError(f"open {path}: {(error.strerror or str(error)).lower()}") from error


# ---- after the handshake ----


class Admission:
    """Whether a connection whose chain was verified may stay."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._crl_stamp: tuple[object, ...] = ()
        self._revoked: frozenset[int] = frozenset()

    def refusal(self, tls: ssl.SSLObject) -> str:
        """Why not, of a peer that was called; empty when it may."""
        return self.handshake_refusal(tls) or self.revocation(tls)

    def handshake_refusal(self, tls: ssl.SSLObject) -> str:
        """What the name in the certificate says: part of the handshake in etcd."""
        files = self._files
        if not files.allowed_cn and not files.allowed_hostname:
            return ""
        certificate: Mapping[str, Any] | None = tls.getpeercert()
        if not certificate:
            return ""  # nobody asked for one
        if files.allowed_cn and files.allowed_cn != common_name(tls):
            return "client certificate authentication failed"
        if files.allowed_hostname and not names_host(certificate, files.allowed_hostname):
            return "client certificate authentication failed"
        return ""

    def revocation(self, tls: ssl.SSLObject) -> str:
        """Whether a certificate of its chain is on the list. A list that cannot be read lets
        nobody in."""
        path = self._files.crl_file
        chain = peer_chain(tls) if path else []
        if not chain:
            return ""
        try:
            revoked = self._revoked_serials()
        except OSError as error:
            return f"open {path}: {(error.strerror or str(error)).lower()}"
        except ValueError as error:
            return f"{path}: {error}"
        for serial in map(_serial_of, chain):
            if serial in revoked:
                text = f"{serial:x}"
                return f"transport: certificate serial {text.zfill(len(text) + 1 & ~1)} revoked"
        return ""

    async def address_refusal(self, tls: ssl.SSLObject, host: str) -> str:
        """The same for where it comes from: an address that the certificate names, or one that a
        name of the certificate stands for (etcd listener_tls.go: checkCertSAN)."""
        certificate: Mapping[str, Any] | None = tls.getpeercert()
        if not self._files.checks_address or not certificate:
            return ""
        addresses, names = alternatives(certificate)
        if not addresses and not names:
            return ""
        if addresses and names_host(certificate, host):
            return ""
        if not names:
            return f"x509: certificate is valid for {', '.join(addresses)}, not {host}"
        if await _stands_for(names, host):
            return ""
        listed = " ".join(map(quote, names))
        return f"tls: {quote(host)} does not match any of DNSNames [{listed}]"

    @property
    def checks_address(self) -> bool:
        return self._files.checks_address

    def _revoked_serials(self) -> frozenset[int]:
        """Of the file as it is now; read again when it has changed."""
        path = self._files.crl_file
        stamp = _stamp(path)
        if stamp != self._crl_stamp or not all(stamp):
            from cryptography import x509  # only who has such a file pays for the import

            with open(path, "rb") as file:
                content = file.read()
            is_pem = content.lstrip().startswith(b"-----")
            load = x509.load_pem_x509_crl if is_pem else x509.load_der_x509_crl
            self._revoked = frozenset(entry.serial_number for entry in load(content))
            self._crl_stamp = stamp
        return self._revoked


def common_name(tls: ssl.SSLObject | None) -> str:
    """Of the certificate of the other side, verified; of several names the last, as in Go."""
    certificate: Mapping[str, Any] | None = tls.getpeercert() if tls is not None else None
    found = ""
    for names in (certificate or {}).get("subject", ()):
        for kind, value in names:
            if kind == "commonName":
                found = str(value)
    return found


def alternatives(certificate: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Its addresses and names."""
    found = certificate.get("subjectAltName", ())
    addresses = [value for kind, value in found if kind == "IP Address"]
    return addresses, [value for kind, value in found if kind == "DNS"]


def peer_chain(tls: ssl.SSLObject) -> list[bytes]:
    """What the other side sent, leaf first, as DER."""
    under: Any = getattr(
        tls, "_sslobj", tls
    )  # the method is public on SSLObject from Python 3.13 on
    der = 2  # _ssl.ENCODING_DER
    return [made.public_bytes(der) for made in under.get_unverified_chain() or ()]


def _serial_of(der: bytes) -> int:
    from cryptography import x509

    return x509.load_der_x509_certificate(der).serial_number


def names_host(certificate: Mapping[str, Any] | None, host: str) -> bool:
    """Whether the certificate is one for this address or name (Go: VerifyHostname)."""
    addresses, names = alternatives(certificate or {})
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        return any(_name_fits(name, host) for name in names)
    return any(ipaddress.ip_address(address) == wanted for address in addresses)


def _name_fits(pattern: str, host: str) -> bool:
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if pattern.startswith("*."):
        head, _, rest = host.partition(".")
        return bool(head) and rest == pattern[2:]
    return pattern == host


async def _stands_for(names: Sequence[str], host: str) -> bool:
    """By reverse lookup, then by looking up each name."""
    loop = asyncio.get_running_loop()
    try:
        known, _ = await loop.getnameinfo((host, 0), socket.NI_NAMEREQD)
        if any(_reverse_fits(name, known.rstrip(".")) for name in names):
            return True
    except OSError:
        pass
    for name in names:
        if name.startswith("*."):
            continue
        try:
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError:
            continue
        if any(entry[4][0] == host for entry in found):
            return True
    return False


def _reverse_fits(pattern: str, known: str) -> bool:
    if pattern.startswith("*."):
        return known.endswith(pattern[1:])
    return pattern == known


# ---- files that change ----


class Renewal:
    """Loads a context's certificate again when its files have changed. A tick listener."""

    def __init__(
        self, monotonic_s: Any, contexts: Sequence[tuple[ssl.SSLContext, str, str]]
    ) -> None:
        """`contexts`: each with its certificate and key file."""
        self._monotonic_s = monotonic_s
        self._contexts = list(contexts)
        self._seen = [_stamp(cert, key) for _, cert, key in self._contexts]
        self._look_at_s = monotonic_s() + _LOOK_S
        self._log = get("tls")

    def ticked(self) -> None:
        if self._monotonic_s() >= self._look_at_s:
            self.look()

    def look(self) -> None:
        """Called before each handshake, too: as in etcd, it has what is in the files by then."""
        self._look_at_s = self._monotonic_s() + _LOOK_S
        for place, (context, cert, key) in enumerate(self._contexts):
            stamp = _stamp(cert, key)
            if stamp == self._seen[place] or not all(stamp):
                continue
            try:
                # A context that refuses a pair has lost the one it had: try another one first.
                _load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)
                _load_chain(context, cert, key)
            except TlsError as error:
                # Half of a new pair is there: the next look sees the rest.
                self._log.warn("failed to create certificate", cert_file=cert, error=str(error))
                continue
            self._seen[place] = stamp
            self._log.info("loaded certificate", cert_file=cert, key_file=key)


_LOOK_S: Final = 1.0


def _stamp(*paths: str) -> tuple[tuple[int, int] | None, ...]:
    return tuple(map(_stamp_of, paths))


def _stamp_of(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino

"""Certificates made for a test, and members that use them."""

import datetime
import ipaddress
import json
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from ports import free_ports

USAGES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    """Signs certificates; each is a pair of files."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path = str(folder / f"{name}.pem")
        Path(self.path).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: Any, from_days: float = 0
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + datetime.timedelta(days=from_days, hours=-1))
            .not_valid_after(NOW + datetime.timedelta(days=from_days + 2))
        )

    def issue(
        self,
        name: str,
        *,
        hosts: tuple[str, ...] = ("127.0.0.1",),
        from_days: float = 0,
        usages: list[x509.ObjectIdentifier] = USAGES,
    ) -> "Pair":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
        name = name or "nameless"
        builder = self._builder(subject, key.public_key(), from_days)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if hosts:
            names = [x509.IPAddress(ipaddress.ip_address(h)) if h[0].isdigit() else x509.DNSName(h)
                     for h in hosts]  # fmt: skip
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pair = Pair(str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key"), certificate)
        pair.write(certificate.public_bytes(serialization.Encoding.PEM), key)
        return pair

    def revoke(self, *pairs: "Pair") -> str:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(NOW)
            .next_update(NOW + datetime.timedelta(days=1))
        )
        for pair in pairs:
            revoked = (
                x509.RevokedCertificateBuilder()
                .serial_number(pair.certificate.serial_number)
                .revocation_date(NOW)
                .build()
            )
            builder = builder.add_revoked_certificate(revoked)
        path = self.folder / "crl.pem"
        signed = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return str(path)


class Pair:
    def __init__(self, cert: str, key: str, certificate: x509.Certificate) -> None:
        self.cert, self.key, self.certificate = cert, key, certificate

    def write(self, cert_pem: bytes, key: Any) -> None:
        Path(self.cert).write_bytes(cert_pem)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        Path(self.key).write_bytes(key_pem)


class Node:
    """A member with TLS where it is asked for; healthy once etcdctl can put."""

    def __init__(self, machine: Any, name: str, *flags: str, client: str = "https",
                 peer: str = "http", ports: tuple[int, int] | None = None,
                 cluster: str = "", program: str = "pyetcd") -> None:  # fmt: skip
        self.machine = machine
        self.name = name if program == "pyetcd" else f"{program}-{name}"
        self.client_port, self.peer_port = ports or tuple(free_ports(2))
        self.endpoint = f"{client}://127.0.0.1:{self.client_port}"
        peer_url = f"{peer}://127.0.0.1:{self.peer_port}"
        argv = [
            *([machine.pyetcd, "server"] if program == "pyetcd" else [machine.etcd]),
            f"--name={name}",
            f"--data-dir={machine.folder / self.name}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster={cluster or f'{name}={peer_url}'}",
            *flags,
        ]
        self.process = machine.process(argv, name=self.name, client_port=self.client_port).start()

    def ctl(self, *args: str, check: bool = True) -> Any:
        return self.machine.run(
            self.machine.etcdctl, f"--endpoints={self.endpoint}", *args, check=check
        )

    def said(self, since: int = 0) -> list[tuple[str, str]]:
        """Message and error of each warning of its log, without what differs each time."""
        found = []
        for line in self.process.log[since:].splitlines():
            if line.startswith("{"):
                row = json.loads(line)
                if row["level"] in ("warn", "error"):
                    found.append((row["msg"], row.get("error", "")))
        return found

    def wait(self, *tls: str) -> "Node":
        deadline_s = time.monotonic() + 30
        while self.ctl(*tls, "--dial-timeout=1s", "put", "k", "v", check=False).returncode:
            assert not self.process.has_ended() and time.monotonic() < deadline_s, self.process.log
            time.sleep(0.1)
        return self

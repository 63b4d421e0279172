"""The TLS of one member, made of its options: who is asked for what, on which side.

Peers speak HTTP/1.1 to each other, so nothing else is offered on that port.
"""

import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace

from pyetcd.server.config import Config
from pyetcd.server.config_values import Url
from pyetcd.server.logs import get
from pyetcd.server.selfcert import self_signed
from pyetcd.server.startup import StartupRefused
from pyetcd.server.tls import (
    Admission,
    Renewal,
    TlsError,
    TlsFiles,
    client_context,
    server_context,
)


class MemberTls:
    """Contexts and checks. Raises StartupRefused for options or files that cannot be used."""

    def __init__(self, config: Config) -> None:
        try:
            client_files, peer_files = _client_files(config), _peer_files(config)
            secure_clients = any(
                url.is_tls for url in (*config.client_urls, *config.listen_metrics_urls)
            )
            secure_peers = any(url.is_tls for url in config.listen_peer_urls)
            if secure_peers and peer_files.is_empty:
                url = next(url for url in config.listen_peer_urls if url.is_tls)
                raise TlsError(
                    f"cannot listen on TLS for {url.address}: KeyFile and CertFile are not "
                    "presented; give --peer-cert-file and --peer-key-file, or --peer-auto-tls"
                )
            self.clients = server_context(client_files) if secure_clients else None
            self.peers = server_context(peer_files, alpn=("http/1.1",)) if secure_peers else None
            self.to_peers = client_context(peer_files)
        except TlsError as error:
            raise StartupRefused(str(error)) from error
        _say("client", client_files, config.client_urls, config)
        _say("peer", peer_files, config.listen_peer_urls, config)
        self.client_admission = Admission(client_files)
        self.peer_admission = Admission(peer_files)
        self._client_files, self._peer_files = client_files, peer_files
        self._renewal: Renewal | None = None

    def renewal(self, monotonic_s: Callable[[], float]) -> Renewal:
        """Looks after the files of every context."""
        contexts: list[tuple[ssl.SSLContext, str, str]] = []
        client, peer = self._client_files, self._peer_files
        if self.clients is not None:
            contexts.append((self.clients, client.cert_file, client.key_file))
        if self.peers is not None:
            contexts.append((self.peers, peer.cert_file, peer.key_file))
        if not peer.is_empty:
            cert, key = peer.cert_file, peer.key_file
            if peer.client_cert_file:
                cert, key = peer.client_cert_file, peer.client_key_file
            contexts.append((self.to_peers, cert, key))
        self._renewal = Renewal(monotonic_s, contexts)
        return self._renewal

    def look(self) -> None:
        """Before each handshake: what is in the files now is what it is made with."""
        if self._renewal is not None:
            self._renewal.look()


def _say(side: str, files: TlsFiles, urls: Sequence[Url], config: Config) -> None:
    log, field = get("tls"), f"{side}_url"
    if not files.is_empty:
        log.info(
            f"starting with {side} TLS",
            tls_info=files.summary,
            cipher_suites=list(config.cipher_suites),
        )
    flag = "--client-cert-auth" if side == "client" else "--peer-client-cert-auth"
    for url in urls:
        if url.is_tls:
            continue
        if not files.is_empty:
            log.warn(
                "scheme is HTTP while key and cert files are present; ignoring key and cert files",
                **{field: url.text},
            )
        if files.client_cert_auth:
            log.warn(
                f"scheme is HTTP while {flag} is enabled; ignoring client cert auth for this URL",
                **{field: url.text},
            )


def _client_files(config: Config) -> TlsFiles:
    given = config.cert_file, config.key_file
    return replace(
        _files(config, "client", given, config.client_urls, is_auto=config.auto_tls),
        client_cert_file=config.client_cert_file,
        client_key_file=config.client_key_file,
        trusted_ca_file=config.trusted_ca_file,
        crl_file=config.client_crl_file,
        client_cert_auth=config.client_cert_auth,
        allowed_hostname=config.client_cert_allowed_hostname,
    )


def _peer_files(config: Config) -> TlsFiles:
    given = config.peer_cert_file, config.peer_key_file
    return replace(
        _files(config, "peer", given, config.listen_peer_urls, is_auto=config.peer_auto_tls),
        client_cert_file=config.peer_client_cert_file,
        client_key_file=config.peer_client_key_file,
        trusted_ca_file=config.peer_trusted_ca_file,
        crl_file=config.peer_crl_file,
        client_cert_auth=config.peer_client_cert_auth,
        allowed_cn=config.peer_cert_allowed_cn,
        allowed_hostname=config.peer_cert_allowed_hostname,
        checks_address=not config.experimental_peer_skip_client_san_verification,
    )


def _files(
    config: Config, side: str, given: tuple[str, str], urls: Sequence[Url], *, is_auto: bool
) -> TlsFiles:
    """What both sides have in common; a certificate is made for who gives none."""
    is_self_signed = is_auto and not any(given)
    if is_self_signed:
        given = _make(config, side, urls)
    elif is_auto:
        get("tls").warn(f"ignoring {side} auto TLS since certs given")
    return TlsFiles(
        cert_file=given[0],
        key_file=given[1],
        is_self_signed=is_self_signed,
        suites=config.cipher_suites,
        version_min=config.tls_min_version,
        version_max=config.tls_max_version,
    )


def _make(config: Config, side: str, urls: Sequence[Url]) -> tuple[str, str]:
    folder = os.path.join(config.data_dir, "fixtures", side)
    years = config.self_signed_cert_validity_years
    return self_signed(folder, [url.host for url in urls], years=years)

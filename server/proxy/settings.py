"""What a proxy goes by, as its flags said it."""

from dataclasses import dataclass

from pyetcd.server.tls import TlsFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`endpoints` are those of the cluster behind it."""

    endpoints: tuple[str, ...]
    listen_addr: str = "127.0.0.1:23790"
    metrics_addr: str = ""
    advertise_client_url: str = ""
    namespace: bytes = b""
    resolver_prefix: str = ""
    resolver_ttl_s: int = 0
    cert_file: str = ""  # to the cluster
    key_file: str = ""
    ca_file: str = ""
    skips_verify: bool = False
    send_bytes_max: int = 1572864
    receive_bytes_max: int = 2**31 - 1
    keeps_order: bool = False  # of the revisions that serializable reads see
    keepalive_min_time_s: float = 5.0
    keepalive_interval_s: float = 7200.0
    keepalive_timeout_s: float = 20.0
    streams_max: int = 0  # that a client may have open; 0: the listener's own
    tls: TlsFiles | None = None  # to the clients

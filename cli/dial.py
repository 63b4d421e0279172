"""How `ctl` reaches a cluster: endpoints, TLS files, user; and why a connection failed.

Endpoints are `host:port`, with or without http:// or https://, or unix sockets. TLS is on when an
endpoint says https, a TLS file is given, or --insecure-transport=false. grpcio cannot skip the
verification of a certificate, so --insecure-skip-tls-verify fetches the certificate first and
trusts that one.
"""

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pyetcd.cli.flags import FlagSet
from pyetcd.cli.terminal import Terminal

if TYPE_CHECKING:
    import ssl

    import grpc

    from pyetcd.cli.direct import Address, Direct

PORT_MAX = 65535
SEND_BYTES_MAX = 2 * 1024 * 1024  # clientv3: defaultMaxCallSendMsgSize
LOOKUP_S = 0.25  # for a name; who is slower is grpc's to wait for
LISTEN_S = 0.2  # for who hangs up on HTTP/2 to do so
KEEPALIVE_MIN_NS = 10 * 10**9  # grpc-go raises a shorter --keepalive-time to this


_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_SWITCHED = (
    "tls: failed to find certificate PEM data in certificate input, but did find a private key;"
    " PEM inputs may have been switched"
)


class BadSettings(Exception):
    """Flags that allow no connection; the command ends with `code`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Settings(NamedTuple):
    """What the flags say about connections."""

    endpoints: list[str]
    dial_timeout_s: float
    keepalive_ms: int
    keepalive_timeout_ms: int
    secure: bool = False
    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    skip_verify: bool = False
    user: str = ""
    password: str = ""
    token: str = ""  # a JWT in the place of user and password
    send_bytes_max: int = SEND_BYTES_MAX
    receive_bytes_max: int = -1


def read_settings(terminal: Terminal, flags: FlagSet) -> Settings:
    """The settings that the command's flags make; exits when they contradict."""
    files = {}
    for name in ("cert", "key", "cacert"):
        files[name] = flags.text(name)
        if not files[name] and name in flags.changed:
            raise terminal.fail(128, f"empty string is passed to --{name} option")
    user, password = flags.text("user"), flags.text("password")
    token = flags.text("auth-jwt-token")
    if token:
        user = password = ""
    if user and not password:
        user, colon, password = user.partition(":")
        if not colon:
            password = ask_password(terminal)
    return Settings(
        [endpoint.strip() for endpoint in flags.texts("endpoints")],
        flags.integer("dial-timeout") / 1e9,
        max(flags.integer("keepalive-time"), KEEPALIVE_MIN_NS) // 10**6,
        flags.integer("keepalive-timeout") // 10**6,
        secure=not flags.boolean("insecure-transport"),
        cert_file=files["cert"],
        key_file=files["key"],
        ca_file=files["cacert"],
        skip_verify=flags.boolean("insecure-skip-tls-verify"),
        user=user,
        password=password,
        token=token,
        send_bytes_max=flags.integer("max-request-bytes") or SEND_BYTES_MAX,
        receive_bytes_max=flags.integer("max-recv-bytes") or -1,
    )


def ask_password(terminal: Terminal, prompt: str = "Password: ") -> str:
    """Without an echo from a terminal, else a line of stdin."""
    terminal.write(prompt.encode())
    terminal.flush()
    if terminal.stdin.isatty():
        import getpass

        return getpass.getpass("")
    line = terminal.stdin.readline().rstrip(b"\n").decode("utf-8", "surrogateescape")
    terminal.write(b"\n")
    return line


def open_directly(endpoint: str, settings: Settings) -> "Direct | None":
    """A connection without grpc, if the endpoint takes one at once."""
    way = route(endpoint, settings)
    if way is None:
        return None
    address: Address | None = way.address
    if isinstance(way.address, str):
        if way.is_secure:
            return None
    elif not _is_number(way.host):
        address = _looked_up(*way.address)
    if address is None:
        return None
    context = None
    if way.is_secure:
        try:
            context = trust(settings)
        except OSError:  # files that OpenSSL does not like; what is wrong with them is grpc's
            return None
    from pyetcd.cli.direct import connect

    return connect(
        address,
        way.authority,
        trust=None if context is None else (context, way.host),
        keepalive_s=settings.keepalive_ms / 1000,
        patience_s=settings.keepalive_timeout_ms / 1000,
    )


class Route(NamedTuple):
    """How a socket gets to an endpoint."""

    address: "Address"
    authority: str
    is_secure: bool
    host: str  # that a certificate must name


def route(endpoint: str, settings: Settings) -> Route | None:
    """None for what is no address."""
    if endpoint.startswith(("unix:", "unixs:")):
        secure = endpoint.startswith("unixs:")
        return Route(_unix_path(endpoint), "localhost", secure, "localhost")
    try:
        host, port = _place(endpoint)
    except _NoAddress:
        return None
    secure = _is_secure(endpoint, settings)
    place = host or "localhost"
    return Route((place, port), _address(endpoint), secure, place)


def trust(settings: Settings) -> "ssl.SSLContext":
    """Whom to trust, and who we are; as in Go, only the alternative names of a certificate count.
    Raises OSError for files that do not do."""
    import ssl

    context = ssl.create_default_context(cafile=settings.ca_file or None)
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["h2"])
    if settings.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context


def _is_number(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            return bool(socket.inet_pton(family, host))
    return False


def _looked_up(name: str, port: int) -> "Address | None":
    """Where a name leads to, if that is known at once: asking for it may take longer than all of
    the command, and cannot be stopped."""
    import queue
    import threading

    found: queue.SimpleQueue[list[tuple[str, int]]] = queue.SimpleQueue()

    def look() -> None:
        found.put(_addresses(f"{name}:{port}"))

    threading.Thread(target=look, daemon=True).start()
    try:
        return next(iter(found.get(timeout=LOOKUP_S)), None)
    except queue.Empty:
        return None


def open_channel(endpoints: Sequence[str], settings: Settings) -> "grpc.Channel | None":
    """A channel to the endpoints; None when none of them can be an address."""
    import grpc

    if has_choice(endpoints, settings):
        endpoints = [_first_trusted(endpoints, settings)]
    credentials = _credentials(endpoints[0], settings)
    options: list[tuple[str, str | int]] = [
        ("grpc.enable_retries", 0),  # retries are ours: they are logged and never repeat a write
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", settings.receive_bytes_max),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", settings.keepalive_ms),
        ("grpc.keepalive_timeout_ms", settings.keepalive_timeout_ms),
    ]
    target = _target(endpoints)
    if target is None:
        return None
    if "," in target:
        options.append(("grpc.lb_policy_name", "round_robin"))
    if credentials is None:
        return grpc.insecure_channel(target, options)
    name = _host_port(endpoints[0])[0]
    if settings.skip_verify:
        name = _fetched_name(credentials) or name
    options.append(("grpc.ssl_target_name_override", name))
    return grpc.secure_channel(target, credentials.channel, options)


def has_choice(endpoints: Sequence[str], settings: Settings) -> bool:
    """Whether one endpoint is chosen for a channel: grpcio expects one name of all the servers of a
    channel, or one certificate, where clientv3 expects of each its own."""
    names = {_host_port(endpoint)[0] for endpoint in endpoints}
    many = len(names) > 1 or (settings.skip_verify and len(endpoints) > 1)
    return many and _is_secure(endpoints[0], settings)


def _first_trusted(endpoints: Sequence[str], settings: Settings) -> str:
    """The endpoint that is first to end a handshake; when there is none, the first."""
    import queue
    import threading

    ends: queue.SimpleQueue[str] = queue.SimpleQueue()

    def probe(endpoint: str) -> None:
        try:
            trusted = _shakes_hands(endpoint, settings)
        except (OSError, _NoAddress):
            trusted = False
        ends.put(endpoint if trusted else "")

    for endpoint in endpoints:
        threading.Thread(target=probe, args=(endpoint,), daemon=True).start()
    for _ in endpoints:
        if found := ends.get():
            return found
    return endpoints[0]


def _shakes_hands(endpoint: str, settings: Settings) -> bool:
    """Raises OSError and _NoAddress."""
    context = trust(settings)
    host, port = _place(endpoint)
    place = (host or "localhost", port)
    with socket.create_connection(place, timeout=settings.dial_timeout_s) as plain:
        context.wrap_socket(plain, server_hostname=host).close()
    return True


class _Files(NamedTuple):
    cert: bytes | None
    key: bytes | None
    roots: bytes | None


class _Credentials(NamedTuple):
    channel: "grpc.ChannelCredentials"
    roots: bytes | None


def check_files(settings: Settings) -> _Files:
    """What the TLS files hold. Raises BadSettings for files that do not do."""
    files = (settings.cert_file, settings.key_file, settings.ca_file)
    if bool(settings.cert_file) != bool(settings.key_file):
        pair = f"[key: {settings.key_file}, cert: {settings.cert_file}]"
        raise BadSettings(128, f"KeyFile and CertFile must both be present{pair}")
    cert, key, roots = (_read(name) if name else None for name in files)
    for part, what in ((cert, "certificate"), (key, "key")):
        if part is not None and b"-----BEGIN " not in part:
            raise BadSettings(128, f"tls: failed to find any PEM data in {what} input")
    if cert is not None and _CERTIFICATE not in cert:
        raise BadSettings(128, _SWITCHED)
    if key is not None and b"PRIVATE KEY-----" not in key:
        text = "tls: found a certificate rather than a key in the PEM for the private key"
        raise BadSettings(128, text)
    if roots is not None and b"-----BEGIN " in roots and _CERTIFICATE not in roots:
        raise BadSettings(128, f"{settings.ca_file} holds no certificate")
    return _Files(cert, key, roots)


def _credentials(endpoint: str, settings: Settings) -> _Credentials | None:
    """None for plain text. Raises BadSettings."""
    import grpc

    cert, key, roots = check_files(settings)
    wanted = settings.cert_file or settings.key_file or settings.ca_file or settings.secure
    if endpoint.startswith(("http://", "unix:")) or not (
        wanted or endpoint.startswith(("https://", "unixs:"))
    ):
        return None
    if settings.skip_verify:
        roots = _fetched(endpoint, settings) or roots
    return _Credentials(grpc.ssl_channel_credentials(roots, key, cert), roots)


def _fetched(endpoint: str, settings: Settings) -> bytes | None:
    """The certificate that the server shows; some servers want to see one first."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(OSError, _NoAddress):
        host, port = _place(endpoint)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        place = (host or "localhost", port)
        with (
            socket.create_connection(place, timeout=settings.dial_timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as channel,
        ):
            raw = channel.getpeercert(binary_form=True)
            return ssl.DER_cert_to_PEM_cert(raw).encode() if raw else None
    return None


def _read(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as failure:
        reason = os.strerror(failure.errno or 0).lower()
        did = "read" if isinstance(failure, IsADirectoryError) else "open"  # Go opens folders
        raise BadSettings(128, f"{did} {name}: {reason}") from None


def _fetched_name(credentials: _Credentials) -> str:
    """A name that the fetched certificate is valid for."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(credentials.roots or b"")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.DNSName)
        found += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    except (ValueError, x509.ExtensionNotFound):
        return ""
    return found[0] if found else ""


def _target(endpoints: Sequence[str]) -> str | None:
    """grpc's name for all addresses of the endpoints."""
    if endpoints[0].startswith(("unix:", "unixs:")):
        return "unix:" + _unix_path(endpoints[0])
    found = [address for endpoint in endpoints for address in _addresses(endpoint)]
    if not found:
        return None
    if all(":" not in host for host, _ in found):
        return "ipv4:" + ",".join(f"{host}:{port}" for host, port in found)
    mapped = [(host if ":" in host else f"::ffff:{host}", port) for host, port in found]
    return "ipv6:" + ",".join(f"[{host}]:{port}" for host, port in mapped)


def _unix_path(endpoint: str) -> str:
    return endpoint.partition(":")[2].removeprefix("//")


def _addresses(endpoint: str) -> list[tuple[str, int]]:
    try:
        host, port = _place(endpoint)
        rows = socket.getaddrinfo(host or "localhost", port, type=socket.SOCK_STREAM)
    except (OSError, _NoAddress):
        return []
    return [(str(row[4][0]), int(row[4][1])) for row in rows]


def _host_port(endpoint: str) -> tuple[str, str]:
    host, _, port = _address(endpoint).rpartition(":")
    return host.strip("[]"), port


def _address(endpoint: str) -> str:
    """What stands for host and port: a path behind it counts only without a scheme."""
    scheme, separator, rest = endpoint.partition("://")
    if separator and scheme in ("http", "https"):
        return rest.partition("/")[0]
    return endpoint


class _NoAddress(Exception):
    """An endpoint that cannot be dialled; the text is Go's."""


def _place(endpoint: str) -> tuple[str, int]:
    """Host and port of an endpoint; raises _NoAddress."""
    address = _address(endpoint)
    if not address:
        raise _NoAddress("missing address")
    host, colon, port = address.rpartition(":")
    if not colon:
        raise _NoAddress(f"address {address}: missing port in address")
    if ":" in host and not host.startswith("["):
        raise _NoAddress(f"address {address}: too many colons in address")
    if port.isascii() and port.isdecimal():
        if int(port) > PORT_MAX:
            raise _NoAddress(f"address {port}: invalid port")
        return host.strip("[]"), int(port)
    try:
        return host.strip("[]"), socket.getservbyname(port, "tcp")
    except OSError:
        raise _NoAddress(f"address tcp/{port}: unknown port") from None


def connection_failure(endpoints: Sequence[str], settings: Settings) -> str:
    """Why the last endpoint takes no connection, in Go's words; empty when it does."""
    endpoint = endpoints[-1]
    dialing = "Error while dialing dial"
    if endpoint.startswith(("unix:", "unixs:")):
        path = _unix_path(endpoint)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(path)
        except OSError as failure:
            reason = os.strerror(failure.errno or 0).lower()
            return _desc(f"{dialing} unix {path}: connect: {reason}")
        return ""
    try:
        host, port = _place(endpoint)
        rows = socket.getaddrinfo(host or "localhost", port, type=socket.SOCK_STREAM)
    except _NoAddress as failure:
        return _desc(f"{dialing} tcp: {failure}")
    except OSError:
        return _desc(f"{dialing} tcp: lookup {host}: no such host")
    address = rows[0][4]
    shown = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
    shown = shown if host else ""  # Go names the place as it was given
    try:
        with socket.create_connection(address[:2], timeout=1) as connection:  # type: ignore[arg-type]
            failed = _handshake_failure(connection, endpoint, settings)
            return _desc(failed) if failed else _preface_failure(connection, endpoint, settings)
    except TimeoutError:
        return _desc(f"{dialing} tcp {shown}:{port}: i/o timeout")
    except OSError as failure:
        reason = os.strerror(failure.errno or 0).lower()
        return _desc(f"{dialing} tcp {shown}:{port}: connect: {reason}")


def _desc(reason: str) -> str:
    return f'connection error: desc = "transport: {reason}"'


def _preface_failure(connection: socket.socket, endpoint: str, settings: Settings) -> str:
    """Whether who listens there hangs up on HTTP/2, as a web server or another program does."""
    if _is_secure(endpoint, settings):
        return ""
    connection.settimeout(LISTEN_S)
    try:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        while connection.recv(4096):
            pass
    except TimeoutError:
        return ""
    except OSError:
        pass
    return "connection closed"


def _is_secure(endpoint: str, settings: Settings) -> bool:
    files = settings.cert_file or settings.key_file or settings.ca_file
    return not endpoint.startswith("http://") and bool(
        files or settings.secure or endpoint.startswith("https://")
    )


def _handshake_failure(connection: socket.socket, endpoint: str, settings: Settings) -> str:
    """Why TLS fails on a connection that opens; empty for plain text."""
    if not _is_secure(endpoint, settings):
        return ""
    import ssl

    host = _host_port(endpoint)[0]
    failed = "authentication handshake failed"
    try:
        trust = ssl.create_default_context(cafile=settings.ca_file or None)
        trust.wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLCertVerificationError as failure:
        if failure.verify_code in (18, 19, 20, 21):
            return f"{failed}: x509: certificate signed by unknown authority"
        return f"{failed}: x509: {failure.verify_message}"
    except ssl.SSLEOFError:
        return f"{failed}: EOF"
    except ssl.SSLError as failure:
        if failure.reason == "NO_CERTIFICATE_OR_CRL_FOUND":  # an empty file trusts nobody
            return f"{failed}: x509: certificate signed by unknown authority"
        return f"{failed}: {failure.reason}"
    except OSError:
        return f"{failed}: EOF"
    return ""

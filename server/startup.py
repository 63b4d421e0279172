"""What a start may be refused for by its surroundings: the data directory and the ports.

Every refusal is one line, `StartupRefused`: what is wrong, in etcd's words where it has some, and
what to do. The checks create nothing; `bind` leaves no socket open when it refuses.
"""

import contextlib
import ctypes
import errno
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyetcd.server.config import Config
from pyetcd.server.config_values import Url

_MCL_CURRENT, _MCL_FUTURE = 1, 2  # <sys/mman.h>, of Linux and of the BSDs
BACKLOG = 4096  # connections the kernel holds until they are accepted; beyond it clients retry


class StartupRefused(Exception):
    """The member cannot start here. `text` is the one line for the user."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class LogWasLost(StartupRefused):
    """The log has forgotten what it promised: this member must not vote. Who may help is known."""

    def __init__(
        self,
        text: str,
        *,
        member_id: int,
        is_learner: bool,
        peer_urls: Sequence[str],
        client_urls: Sequence[str],
        is_in_files: bool = True,
    ) -> None:
        """`peer_urls` are this member's own, `client_urls` those of all others. Unless the loss
        `is_in_files`, only a leader knew of it: the next start would not see it, and vote."""
        super().__init__(text)
        self.is_in_files = is_in_files
        self.member_id = member_id
        self.is_learner = is_learner
        self.peer_urls = tuple(peer_urls)
        self.client_urls = tuple(client_urls)


def check_wal_dir(path: str) -> None:
    """The same of --wal-dir."""
    if _entries(path, "--wal-dir") is None:
        _check_parent(path, "--wal-dir")
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StartupRefused(
            f"{path}: permission denied; give {_user()} write permission, or choose another "
            "--wal-dir"
        )


def check_data_dir(path: str) -> None:
    """The directory, or the place where it will be made, can be written to."""
    names = _entries(path)
    if names is None:
        _check_parent(path)
        return
    if "member" in names and "proxy" in names:
        raise StartupRefused(
            f"{path}: invalid datadir; both member and proxy directories exist; "
            "choose another --data-dir"
        )
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StartupRefused(
            f"{path}: permission denied; give {_user()} write permission, or choose another "
            "--data-dir"
        )
    member = os.path.join(path, "member")
    if "member" in names:
        if _entries(member) is None:
            raise StartupRefused(f"{member}: no such directory; choose another --data-dir")
        if not os.access(member, os.R_OK | os.W_OK | os.X_OK):
            raise StartupRefused(
                f"{member}: permission denied; run as the user who owns it, or give {_user()} "
                "write permission"
            )


def _entries(path: str, flag: str = "--data-dir") -> list[str] | None:
    """What is in the directory; None when it does not exist."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise StartupRefused(
                f"{path}: a link to nothing; correct it, or choose another {flag}"
            ) from None
        return None
    except NotADirectoryError:
        raise StartupRefused(
            f"{path}: not a directory; remove the file, or choose another {flag}"
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StartupRefused(f"{path}: {reason}; choose another {flag}") from None


def _check_parent(path: str, flag: str = "--data-dir") -> None:
    parent = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise StartupRefused(f"mkdir {path}: not a directory: {parent}; choose another {flag}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StartupRefused(
            f"mkdir {path}: permission denied; give {_user()} write permission on {parent}, or "
            f"choose another {flag}"
        )


def _user() -> str:
    return f"user id {os.geteuid()}"


def notify_ready(env: Mapping[str, str]) -> None:
    """Tell systemd that the member serves (sd_notify(3)); nothing without NOTIFY_SOCKET."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.setblocking(False)
            sender.sendto(b"READY=1", address)
        except OSError:
            pass  # the supervisor is gone or deaf: the member serves all the same


def lock_memory() -> None:
    """--experimental-memory-mlock: no page of this process is ever swapped out."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "mlockall", None)
    if call is None or call(_MCL_CURRENT | _MCL_FUTURE) != 0:
        reason = os.strerror(ctypes.get_errno()).lower() if call else "not on this system"
        raise StartupRefused(
            f"failed to lock memory pages: {reason}; raise the limit (ulimit -l), or leave out "
            "--experimental-memory-mlock"
        )


# ---- ports ----


@dataclass(frozen=True, slots=True)
class Bound:
    """A listening socket and the URL it is for."""

    url: Url
    socket: socket.socket


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """All sockets of a member."""

    clients: list[Bound]
    http: list[Bound]  # --listen-client-http-urls
    peers: list[Bound]
    metrics: list[Bound]

    def close(self) -> None:
        for bound in (*self.clients, *self.http, *self.peers, *self.metrics):
            _let_go(bound)


def bind_member(config: Config) -> Sockets:
    """All of them, or StartupRefused and none."""
    kinds = {
        "clients": ("listen-client-urls", config.listen_client_urls),
        "http": ("listen-client-http-urls", config.listen_client_http_urls),
        "peers": ("listen-peer-urls", config.listen_peer_urls),
        "metrics": ("listen-metrics-urls", config.listen_metrics_urls),
    }
    sockets = Sockets(clients=[], http=[], peers=[], metrics=[])
    try:
        for kind, (flag, urls) in kinds.items():
            reuse_port = config.socket_reuse_port
            if kind == "clients":
                urls = tuple(dict.fromkeys(urls))  # twice the same is once, as in etcd
            getattr(sockets, kind).extend(bind_all(flag, urls, reuse_port=reuse_port))
    except BaseException:
        sockets.close()
        raise
    return sockets


def bind_all(
    flag: str, urls: Sequence[Url], *, reuse_port: bool = False, reuse_address: bool = False
) -> list[Bound]:
    """A listening socket for each URL, all or none. `flag` is named when that fails."""
    bound: list[Bound] = []
    try:
        for url in urls:
            one = bind(flag, url, reuse_port=reuse_port, reuse_address=reuse_address)
            bound.append(Bound(url, one))
    except BaseException:
        for one_bound in bound:
            _let_go(one_bound)
        raise
    return bound


def _let_go(bound: Bound) -> None:
    """Closes a socket that nobody has served yet; no file of it stays."""
    if bound.url.is_unix and bound.socket.fileno() >= 0:
        with contextlib.suppress(OSError):
            os.unlink(bound.url.address)
    bound.socket.close()


def bind(flag: str, url: Url, *, reuse_port: bool, reuse_address: bool) -> socket.socket:
    """One listening socket, as Go opens it: `localhost` is its first address, IPv4 preferred."""
    del reuse_address  # Go sets SO_REUSEADDR on every listener: so do we, asked or not
    if url.is_unix:
        return _bind_unix(flag, url)
    try:
        family, address = _resolve(url)
    except OSError as error:
        raise StartupRefused(
            f"listen tcp: lookup {url.host}: {error.strerror}; correct --{flag}"
        ) from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # A wildcard takes both families; a real IPv6 address only its own.
            dual = address[0] == "::"
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        shown = url.address if url.host in ("0.0.0.0", "::") else f"{host}:{address[1]}"
        raise StartupRefused(bind_error_text(flag, f"tcp {shown}", error)) from None
    return listener


def bind_error_text(flag: str, where: str, error: OSError) -> str:
    """`where` is what Go names: `tcp 127.0.0.1:2379`."""
    reason = (error.strerror or str(error)).lower()
    remedy = {
        errno.EADDRINUSE: f"stop the process that listens there, or change --{flag}",
        errno.EADDRNOTAVAIL: f"use an address of this machine in --{flag}",
        errno.EACCES: f"use a port above 1023 in --{flag}",
    }.get(error.errno or 0, f"change --{flag}")
    return f"listen {where}: bind: {reason}; {remedy}"


def _resolve(url: Url) -> tuple[socket.AddressFamily, tuple[str, int]]:
    port = int(url.port or "0")
    if url.host in ("0.0.0.0", "::") and socket.has_dualstack_ipv6():
        return socket.AF_INET6, ("::", port)
    found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    family, _, _, _, address = found[0]
    return family, (str(address[0]), port)


def _bind_unix(flag: str, url: Url) -> socket.socket:
    path = url.address
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # left over from an earlier run, as etcd assumes too
    except OSError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartupRefused(bind_error_text(flag, f"unix {path}", error)) from None
    return listener

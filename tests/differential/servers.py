"""Real etcd and pyetcd, one member each, over one kind of transport.

plain   no TLS
tls     a server certificate that clients verify
mtls    clients show a certificate, too; its common name is the user when there is no token
auto    --auto-tls: each server makes its own certificate, which its clients trust

Both get the same files.
"""

import re
import ssl
import time
import urllib.request
from typing import Any

import grpc
from certificates import Authority, Node
from differential.draw_auth import USERS
from differential.plain import Names
from differential.relay import Relay
from differential.sides import OPTIONS, Side
from ports import free_ports

from pyetcd.proto import rpc_pb2 as rpc

TRANSPORTS = ("plain", "tls", "mtls", "auto")
COMMON_NAMES = (*(user for user in USERS if user), "stranger")  # stranger is never a user
START_S = 60.0


def start(machine: Any, transport: str) -> tuple[Side, Side]:
    """etcd, pyetcd."""
    assert transport in TRANSPORTS, transport
    flags = ["--bcrypt-cost=4"]
    pairs: dict[str, Any] = {}
    roots = None
    if transport in ("tls", "mtls"):
        authority = Authority(machine.folder)
        server = authority.issue("server")
        flags += [f"--cert-file={server.cert}", f"--key-file={server.key}"]
        roots = read(authority.path)
        if transport == "mtls":
            flags += ["--client-cert-auth", f"--trusted-ca-file={authority.path}"]
            pairs = {name: authority.issue(name) for name in COMMON_NAMES}
    if transport == "auto":
        flags.append("--auto-tls")
    scheme = "http" if transport == "plain" else "https"
    made = []
    for program in ("etcd", "pyetcd"):
        (metrics,) = free_ports(1)
        listen = f"--listen-metrics-urls=http://127.0.0.1:{metrics}"
        node = Node(machine, "m", *flags, listen, client=scheme, program=program)
        made.append(side(node, roots, pairs, metrics))
    return made[0], made[1]


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def side(node: Node, roots: bytes | None, pairs: dict[str, Any], metrics_port: int) -> Side:
    port, relay = node.client_port, None
    if node.endpoint.startswith("https") and roots is None:
        relay = Relay(port, shown_certificate(node))
        port = relay.port

    def channel(pair: Any) -> grpc.Channel:
        target = f"127.0.0.1:{port}"
        if roots is None:
            return grpc.insecure_channel(target, OPTIONS)
        files = (read(pair.key), read(pair.cert)) if pair else (None, None)
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(roots, *files), OPTIONS)

    channels = {name: channel(pair) for name, pair in pairs.items()}
    channels[""] = channels.pop("stranger") if channels else channel(None)
    peer_url = f"http://127.0.0.1:{node.peer_port}"
    names = Names(self_id=ready(channels[""], node), client_url=node.endpoint, peer_url=peer_url)
    return Side(channels, names, relay=relay, unsynced=lambda: unsynced_watchers(metrics_port))


def unsynced_watchers(metrics_port: int) -> int:
    """Those that are still read from the history."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5) as answer:
        found = re.search(rb"^etcd_debugging_mvcc_slow_watcher_total (\S+)", answer.read(), re.M)
    assert found
    return int(float(found[1]))


def shown_certificate(node: Node) -> str:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            return ssl.get_server_certificate(("127.0.0.1", node.client_port))
        except OSError:
            assert time.monotonic() < deadline_s and not node.process.has_ended(), node.process.log
            time.sleep(0.05)


def ready(channel: grpc.Channel, node: Node) -> int:
    """The id of the member, once it leads and has told its name and the cluster's version."""
    deadline_s = time.monotonic() + START_S
    members = channel.unary_unary("/etcdserverpb.Cluster/MemberList")
    downgrade = channel.unary_unary("/etcdserverpb.Maintenance/Downgrade")
    validate = rpc.DowngradeRequest(version="3.4.0").SerializeToString()
    while True:
        try:
            downgrade(validate, timeout=5, wait_for_ready=True)
            data = members(b"", timeout=5)
        except grpc.RpcError as error:
            assert not node.process.has_ended(), node.process.log
            assert time.monotonic() < deadline_s, f"{error}\n{node.process.log}"
        else:
            (member,) = rpc.MemberListResponse.FromString(data).members
            if member.clientURLs:
                return int(member.ID)
        time.sleep(0.02)

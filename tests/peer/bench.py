"""Raft members without a store over the production transport, and real etcd members beside."""

import asyncio
import json
import os
import random
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.raft.codec import decode_conf_change
from pyetcd.raft.rawnode import Config, RawNode
from pyetcd.raft.storage import MemoryStorage
from pyetcd.raft.types import Entry, EntryType, Message, RaftError
from pyetcd.server.bootstrap import InitialCluster, Plan, plan_new
from pyetcd.server.listen import Listener
from pyetcd.server.peer.client import HttpClient
from pyetcd.server.peer.handshake import Identity
from pyetcd.server.peer.inbound import PeerRequests
from pyetcd.server.peer.transport import PeerTransport
from pyetcd.server.wire.http1 import HttpRequest, HttpResponder, HttpService
from pyetcd.store.members import Member, encode_member

TICK_S = 0.05
TOKEN = "bench"


def free_socket() -> socket.socket:
    """Bound and not yet listening, so that the port is ours for the whole test."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


def free_port() -> int:
    with free_socket() as sock:
        return int(sock.getsockname()[1])


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline_s, f"timed out waiting for {what}"
        await asyncio.sleep(0.01)


class FileInstaller:
    """Received files end in a directory, after an optional refusal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refusal: Exception | None = None
        self.digests: list[bytes | None] = []

    def temporary_path(self, index: int) -> str:
        return str(self.folder / f"tmp-{index}")

    def keep(self, temporary: str, index: int, sha256: bytes | None) -> str:
        if self.refusal is not None:
            raise self.refusal
        self.digests.append(sha256)
        kept = str(self.folder / f"{index}.db")
        os.rename(temporary, kept)
        return kept


@dataclass
class Recorder:
    """A RaftHandler that only remembers."""

    messages: list[Message] = field(default_factory=list)
    unreachable: list[int] = field(default_factory=list)
    snapshots: list[tuple[int, bool]] = field(default_factory=list)
    received: list[tuple[Message, str]] = field(default_factory=list)
    removed_ids: set[int] = field(default_factory=set)
    local_removals: int = 0

    def process(self, message: Message) -> None:
        self.messages.append(message)

    def is_removed(self, id: int) -> bool:
        return id in self.removed_ids

    def report_unreachable(self, id: int) -> None:
        self.unreachable.append(id)

    def report_snapshot(self, id: int, *, ok: bool) -> None:
        self.snapshots.append((id, ok))

    def snapshot_received(self, message: Message, path: str) -> None:
        self.received.append((message, path))

    def local_removed(self) -> None:
        self.local_removals += 1


class Station:
    """A transport with its listener."""

    def __init__(self, member_id: int, cluster_id: int, handler, folder: Path, sock=None) -> None:
        self.sock = sock or free_socket()
        self.port = int(self.sock.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.handler = handler
        self.installer = FileInstaller(folder)
        self.transport = PeerTransport(
            Identity(member_id, cluster_id, (self.url,), "0.1.0"),
            handler,
            installer=self.installer,
        )
        self.requests = PeerRequests(self.transport)
        self.members: list[Member] = []
        service = HttpService(
            self._handle,
            body_bytes_max=self.requests.body_bytes_max,
            sink=self.requests.sink,
        )
        self.listener = Listener(None, service)

    async def start(self) -> "Station":
        await self.listener.start(sock=self.sock)
        await self.transport.start()
        return self

    async def stop(self) -> None:
        await self.transport.stop()
        # asyncio of 3.11 leaks a connection that is accepted in the turn in which its server
        # closes (python/cpython#109564), and real members dial all the time.
        asyncio.get_running_loop().remove_reader(self.sock.fileno())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await self.listener.stop(0.0)

    def cut(self) -> None:
        """Drop every connection that others have made to us."""
        for wire in list(self.listener.connections):
            wire.transport.abort()

    def _handle(self, request: HttpRequest, responder: HttpResponder) -> None:
        """What real members ask a peer besides raft."""
        if request.path == "/version":
            body = b'{"etcdserver":"3.5.1","etcdcluster":"3.5.0"}'
            responder.send(200, {"Content-Type": "application/json"}, body)
        elif request.path == "/members":
            cluster = {"X-Etcd-Cluster-ID": f"{self.transport.identity.cluster_id:x}"}
            items = [json.loads(encode_member(member)) for member in self.members]
            responder.send(200, cluster, json.dumps(items).encode())
        else:
            self.requests.handle(request, responder)


class MemoryMember(Recorder):
    """A raft member in memory, a follower unless it wins: enough to keep a cluster going."""

    def __init__(self, plan: Plan, folder: Path, sock: socket.socket) -> None:
        super().__init__()
        self.plan = plan
        self.storage = MemoryStorage()
        self.storage.append(list(plan.entries))
        self.storage.hard_state = plan.hard_state
        self.node = RawNode(
            Config(id=plan.member_id, storage=self.storage, rng=random.Random(plan.member_id))
        )
        self.applied: list[Entry] = []
        self.station = Station(plan.member_id, plan.cluster_id, self, folder, sock)
        self.station.members = list(plan.members)
        self.errors: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False
        self._stopped = False

    async def start(self) -> "MemoryMember":
        await self.station.start()
        for member in self.plan.peers:
            self.station.transport.add_peer(member.id, member.peer_urls)
        self._tick()
        return self

    async def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        await self.station.stop()
        self.station.sock.close()

    def process(self, message: Message) -> None:
        super().process(message)
        try:
            self.node.step(message)
        except RaftError as error:
            self.errors.append(str(error))
        self.wake()

    def wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def puts(self) -> dict[bytes, bytes]:
        """What the applied log has put."""
        found: dict[bytes, bytes] = {}
        for entry in self.applied:
            if entry.type is EntryType.NORMAL and entry.data:
                try:
                    request = InternalRaftRequest.FromString(entry.data)
                except DecodeError:
                    continue  # etcd 3.5 publishes its name by a request of version 2
                if request.HasField("put"):
                    found[request.put.key] = request.put.value
        return found

    def _tick(self) -> None:
        self.node.tick()
        self.wake()
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _turn(self) -> None:
        self._scheduled = False
        while self.node.has_ready() and not self._stopped:
            ready = self.node.ready()
            self.station.transport.send(ready.messages)
            self.storage.append(ready.entries)
            if ready.hard_state is not None:
                self.storage.hard_state = ready.hard_state
            self.station.transport.send(ready.messages_after_append)
            for entry in ready.committed_entries:
                if entry.type is EntryType.CONF_CHANGE:
                    self.node.apply_conf_change(decode_conf_change(entry.data))
                self.applied.append(entry)
            self.node.advance(ready)


class RealEtcd:
    """A process of the reference implementation."""

    def __init__(self, binary: str, name: str, initial_cluster: str, peer_port: int, folder: Path):
        self.name = name
        self.client_port = free_port()
        self.client_url = f"http://127.0.0.1:{self.client_port}"
        self.peer_url = f"http://127.0.0.1:{peer_port}"
        self.log_path = folder / f"{name}.log"
        self._client = HttpClient()
        self.options: dict[str, object] = {
            "name": name,
            "data-dir": str(folder / name),
            "initial-cluster": initial_cluster,
            "initial-cluster-token": TOKEN,
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.peer_url,
            "listen-client-urls": self.client_url,
            "advertise-client-urls": self.client_url,
            "heartbeat-interval": 50,
            "election-timeout": 500,
            "unsafe-no-fsync": True,
        }
        self._config_path = folder / f"{name}.json"
        self._argv = [binary, "--config-file", str(self._config_path)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RealEtcd":
        self._config_path.write_text(json.dumps(self.options))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(self._argv, stdout=log, stderr=log, env=environment)
        return self

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._client.close()

    async def post(self, path: str, fields: dict[str, object], timeout_s: float = 10.0):
        body = json.dumps(fields).encode()
        response = await self._client.request(
            "POST", self.client_url, path, headers={}, body=body, timeout_s=timeout_s
        )
        return response.status, json.loads(response.body)


@dataclass
class MixedCluster:
    """Real members and one of ours, from one --initial-cluster."""

    initial_cluster: str
    real: list[RealEtcd]
    ours: MemoryMember

    async def start(self) -> "MixedCluster":
        self.start_real()
        await self.ours.start()
        return self

    def start_real(self) -> None:
        for member in self.real:
            member.start()

    async def stop(self) -> None:
        await self.ours.stop()
        for member in self.real:
            member.kill()


def mixed_cluster(binary: str, real: int, folder: Path) -> MixedCluster:
    sock = free_socket()
    ports = {f"etcd{n}": free_port() for n in range(real)}
    ports["ours"] = int(sock.getsockname()[1])
    urls = {name: (f"http://127.0.0.1:{port}",) for name, port in ports.items()}
    text = ",".join(f"{name}={url[0]}" for name, url in urls.items())
    members = [
        RealEtcd(binary, name, text, port, folder) for name, port in ports.items() if name != "ours"
    ]
    plan = plan_new(InitialCluster("ours", urls, TOKEN, urls["ours"], is_new=True))
    return MixedCluster(text, members, MemoryMember(plan, folder, sock))

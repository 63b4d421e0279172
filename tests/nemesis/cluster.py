"""Real member processes on free ports, with a proxy in front of each peer port."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
from proxy import Links

sys.path.append(str(Path(__file__).resolve().parent.parent / "common"))
from ports import free_ports

from pyetcd.proto import rpc_pb2 as rpc

START = "import sys; from pyetcd.cli.main import main; sys.exit(main())"
PROGRAM = [sys.executable, "-c", START, "server"]
CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", -1),
]
BAD_WORDS = ("Traceback", '"level":"fatal"', '"level":"panic"', "AssertionError")


class Api:
    """Blocking calls to one member."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.channel = grpc.insecure_channel(endpoint, CHANNEL_OPTIONS)
        kv, lease, cluster, maintenance = (
            f"/etcdserverpb.{name}" for name in ("KV", "Lease", "Cluster", "Maintenance")
        )
        self.put = self.unary(f"{kv}/Put", rpc.PutRequest, rpc.PutResponse)
        self.range = self.unary(f"{kv}/Range", rpc.RangeRequest, rpc.RangeResponse)
        self.compact = self.unary(f"{kv}/Compact", rpc.CompactionRequest, rpc.CompactionResponse)
        self.delete = self.unary(
            f"{kv}/DeleteRange", rpc.DeleteRangeRequest, rpc.DeleteRangeResponse
        )
        self.txn = self.unary(f"{kv}/Txn", rpc.TxnRequest, rpc.TxnResponse)
        self.grant = self.unary(
            f"{lease}/LeaseGrant", rpc.LeaseGrantRequest, rpc.LeaseGrantResponse
        )
        self.revoke = self.unary(
            f"{lease}/LeaseRevoke", rpc.LeaseRevokeRequest, rpc.LeaseRevokeResponse
        )
        self.leases = self.unary(
            f"{lease}/LeaseLeases", rpc.LeaseLeasesRequest, rpc.LeaseLeasesResponse
        )
        self.status = self.unary(f"{maintenance}/Status", rpc.StatusRequest, rpc.StatusResponse)
        self.defragment = self.unary(
            f"{maintenance}/Defragment", rpc.DefragmentRequest, rpc.DefragmentResponse
        )
        self.hash_kv = self.unary(f"{maintenance}/HashKV", rpc.HashKVRequest, rpc.HashKVResponse)
        self.member_add = self.unary(
            f"{cluster}/MemberAdd", rpc.MemberAddRequest, rpc.MemberAddResponse
        )
        self.member_remove = self.unary(
            f"{cluster}/MemberRemove", rpc.MemberRemoveRequest, rpc.MemberRemoveResponse
        )
        self.member_promote = self.unary(
            f"{cluster}/MemberPromote", rpc.MemberPromoteRequest, rpc.MemberPromoteResponse
        )
        self.member_list = self.unary(
            f"{cluster}/MemberList", rpc.MemberListRequest, rpc.MemberListResponse
        )
        self.move_leader = self.unary(
            f"{maintenance}/MoveLeader", rpc.MoveLeaderRequest, rpc.MoveLeaderResponse
        )
        self.keep_alive = self.channel.stream_stream(
            f"{lease}/LeaseKeepAlive",
            request_serializer=rpc.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=rpc.LeaseKeepAliveResponse.FromString,
        )
        self.snapshot = self.channel.unary_stream(
            f"{maintenance}/Snapshot",
            request_serializer=rpc.SnapshotRequest.SerializeToString,
            response_deserializer=rpc.SnapshotResponse.FromString,
        )
        self.watch = self.channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )

    def unary(self, path, request, response):
        return self.channel.unary_unary(
            path,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    def close(self) -> None:
        self.channel.close()


class Node:
    """One member's process, its log and its data directory."""

    def __init__(
        self, folder: Path, name: str, client_port: int, flags: list[str], program: list[str]
    ) -> None:
        self.name = name
        self.environment: dict[str, str] = {}  # of the next start, besides the machine's
        self.flags_more: list[str] = []  # of the next start; a later flag counts
        self.ended_well: set[int] = set()  # exit codes of its own that are wanted
        self.endpoint = f"127.0.0.1:{client_port}"
        self.log_path = folder / f"{name}.log"
        self.data_dir = folder / name
        self.api = Api(self.endpoint)
        self.faults: list[str] = []  # a process that ended by itself
        self.starts = self.kills = 0
        self.rss_mb_max = self.fds_max = 0
        self._folder = folder
        self._argv = [*program, f"--name={name}", *flags]
        self._argv += [
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls=http://{self.endpoint}",
            f"--advertise-client-urls=http://{self.endpoint}",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._process is None
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv + self.flags_more,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment | self.environment,
            )
        self.starts += 1

    @property
    def is_up(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def look(self) -> None:
        """Note a process that ended by itself, and what it uses."""
        process = self._process
        if process is None:
            return
        code = process.poll()
        if code is not None:
            if code not in self.ended_well:
                self.faults.append(f"{self.name} ended by itself with {code}")
            self._process = None
            return
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            fds = len(os.listdir(f"/proc/{process.pid}/fd"))
        except OSError:
            return
        rss_kb = int(status.split("VmRSS:")[1].split()[0]) if "VmRSS:" in status else 0
        self.rss_mb_max = max(self.rss_mb_max, rss_kb // 1024)
        self.fds_max = max(self.fds_max, fds)

    def kill(self) -> None:
        self.look()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.kills += 1

    def quit(self) -> None:
        """SIGQUIT, which nobody catches, and its data is gone."""
        self.signal(signal.SIGQUIT)
        if self._process is not None:
            self._process.wait()
            self._process = None
        shutil.rmtree(self.data_dir)

    def signal(self, number: int) -> None:
        self.look()
        if self._process is not None:
            self._process.send_signal(number)

    def terminate(self) -> float:
        """A clean stop; how long it took."""
        self.look()
        if self._process is None:
            return 0.0
        began_s = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.faults.append(f"{self.name} did not stop within 20 s of SIGTERM")
            self._process.kill()
            code = self._process.wait()
        else:
            if code not in (0, 128 + signal.SIGTERM, -signal.SIGTERM):
                self.faults.append(f"{self.name} ended with {code} after SIGTERM")
        self._process = None
        return time.monotonic() - began_s

    def status(self, timeout_s: float = 1.0) -> rpc.StatusResponse | None:
        try:
            return self.api.status(rpc.StatusRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return None

    def serves(self) -> bool:
        try:
            self.api.range(rpc.RangeRequest(key=b"health"), timeout=1)
        except grpc.RpcError:
            return False
        return True

    def bad_log_lines(self) -> list[str]:
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return [
            f"{self.name}: {line[:300]}"
            for line in text.splitlines()
            if any(word in line for word in BAD_WORDS)
        ]


class Cluster:
    """`is_direct`: no proxies, so no faults between members either."""

    def __init__(
        self,
        folder: Path,
        size: int,
        *flags: str,
        program: list[str] = PROGRAM,
        is_direct: bool = False,
    ) -> None:
        ports = free_ports(3 * size)
        clients, fronts, backs = ports[:size], ports[size : 2 * size], ports[2 * size :]
        self.links = Links([] if is_direct else list(zip(fronts, backs, strict=True)))
        if is_direct:
            fronts = backs
        self.peer_urls = [f"http://127.0.0.1:{port}" for port in fronts]
        together = ",".join(f"m{i}={url}" for i, url in enumerate(self.peer_urls))
        self.nodes = [
            Node(
                folder,
                f"m{i}",
                clients[i],
                [
                    f"--listen-peer-urls=http://127.0.0.1:{backs[i]}",
                    f"--initial-advertise-peer-urls=http://127.0.0.1:{fronts[i]}",
                    f"--initial-cluster={together}",
                    *flags,
                ],
                program,
            )
            for i in range(size)
        ]

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        deadline_s = time.monotonic() + 60
        while not all(node.serves() for node in self.nodes):
            assert time.monotonic() < deadline_s, "the cluster did not come up"
            for node in self.nodes:
                node.look()
            time.sleep(0.05)
        self.know()

    def know(self) -> None:
        """Tell the proxies who is who: after the start, and after a member was replaced."""
        ids = {}
        for number, node in enumerate(self.nodes):
            status = node.status(5)
            assert status is not None
            ids[f"{status.header.member_id:x}"] = number
        self.links.know(ids)

    def leader(self) -> int | None:
        """The number of the member that says it leads, in the newest term."""
        best: tuple[int, int] | None = None
        for number, node in enumerate(self.nodes):
            status = node.status() if node.is_up else None
            if status is not None and status.leader == status.header.member_id:
                found = (status.raftTerm, number)
                best = found if best is None else max(best, found)
        return best[1] if best is not None else None

    def leader_or_any(self, rng: random.Random) -> int:
        deadline_s = time.monotonic() + 5
        while time.monotonic() < deadline_s:
            found = self.leader()
            if found is not None:
                return found
            time.sleep(0.05)
        return rng.randrange(len(self.nodes))

    def close(self) -> None:
        for node in self.nodes:
            node.signal(signal.SIGCONT)
            node.kill()
            node.api.close()
        self.links.close()

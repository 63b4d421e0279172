"""A member is made to die at every failpoint, under load: it starts again with all it has answered.

One node goes through all points in turn, each start with the next one armed. Every request of the
load makes exactly one revision and leaves a key of its own, so what is found afterwards says which
of the unanswered requests took place; a keyspace in this process repeats them, and HashKV of both
must be equal at several revisions. PYETCD_FAILPOINT_ROUNDS=n goes through them n times, and through
all of the snapshot points, of which there are otherwise a few.
"""

import json
import os
import random
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.store.backend import Backend
from pyetcd.store.compact import compact, hash_kv
from pyetcd.store.failpoints import PANIC_EXIT
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.txn import apply_txn
from pyetcd.store.verify import verify

ROUNDS = int(os.environ.get("PYETCD_FAILPOINT_ROUNDS", "0"))
REACH_S = 20.0
PIPELINED = 8

pytestmark = pytest.mark.timeout(120 + 200 * ROUNDS)

# The n-th time: after the start, which passes most points a few times, and under load.
ONE_NODE = {
    "beforeApplyOneConfChange": 1,  # at the first start of all
    "raftBeforeSave": 40,
    "walBeforeSync": 40,
    "walAfterSync": 40,
    "raftAfterSave": 40,
    "raftBeforeAdvance": 80,
    "beforeApply": 40,
    "afterApply": 40,
    "beforeStartDBTxn": 5,
    "afterStartDBTxn": 5,
    "commitBeforePreCommitHook": 5,
    "commitAfterPreCommitHook": 5,
    "beforeCommit": 5,
    "afterCommit": 5,
    "compactBeforeCommitScheduledCompact": 3,
    "compactAfterCommitScheduledCompact": 3,
    "compactBeforeCommitBatch": 3,
    "compactAfterCommitBatch": 3,
    "compactBeforeSetFinishedCompact": 3,
    "compactAfterSetFinishedCompact": 3,
    "defragBeforeSlice": 3,
    "defragAfterSlice": 3,
    "beforeCheckpoint": 4,  # each start makes one, in two passes
    "afterCheckpoint": 4,
    "raftAfterWALRelease": 1,
}
# Where the disk fails instead: the member says so and ends.
DISK_FAILS = {
    "walBeforeSync": 40,
    "commitAfterPreCommitHook": 5,
    "beforeCheckpoint": 4,
    "defragBeforeSlice": 3,
    "compactBeforeCommitBatch": 3,
}
DISK_EXIT = 1
# On the follower that is sent a snapshot, in the order in which they are passed. Up to the log's
# commit the snapshot is asked for again; from there on it is installed at the next start.
SNAPSHOT = [
    "snapshotBeforeReceive",
    "snapshotBeforeKeep",
    "snapshotAfterKeep",
    "raftBeforeSaveSnap",
]
SNAPSHOT_LOGGED = [
    "raftAfterSaveSnap",
    "raftBeforeApplySnap",
    "snapshotBeforeInstall",
    "snapshotBeforeRename",
    "snapshotAfterRename",
    "applyBeforeOpenSnapshot",
    "applyAfterOpenSnapshot",
    "raftAfterApplySnap",
]
FLAGS = ("--snapshot-count=40", "--experimental-snapshot-catchup-entries=10")


def request(number: int) -> rpc.TxnRequest:
    """Always the same for a number: its own key, and one of a few that come and go."""
    txn = rpc.TxnRequest()
    put = txn.success.add().request_put
    put.key, put.value = b"u%06d" % number, random.Random(number).randbytes(number % 300)
    if number % 7 == 0:
        delete = txn.success.add().request_delete_range
        delete.key, delete.range_end = b"h", b"i"
    else:
        put = txn.success.add().request_put
        put.key, put.value = b"h%d" % (number % 5), bytes(2000)
    return txn


class Client:
    """Calls to one start of one member."""

    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(endpoint, [("grpc.enable_http_proxy", 0)])
        kv, maintenance = "/etcdserverpb.KV", "/etcdserverpb.Maintenance"
        self.txn = self._unary(f"{kv}/Txn", rpc.TxnRequest, rpc.TxnResponse)
        self.range = self._unary(f"{kv}/Range", rpc.RangeRequest, rpc.RangeResponse)
        self.compact = self._unary(f"{kv}/Compact", rpc.CompactionRequest, rpc.CompactionResponse)
        self.hash_kv = self._unary(f"{maintenance}/HashKV", rpc.HashKVRequest, rpc.HashKVResponse)
        self.status = self._unary(f"{maintenance}/Status", rpc.StatusRequest, rpc.StatusResponse)
        self.defragment = self._unary(
            f"{maintenance}/Defragment", rpc.DefragmentRequest, rpc.DefragmentResponse
        )

    def _unary(self, path, request, response):
        return self.channel.unary_unary(
            path,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )


class History:
    """What was asked and answered, and a keyspace that repeats what took place."""

    def __init__(self, path):
        self.number = 0
        self.answered: dict[int, int] = {}
        self.compacted = -1
        self.compactions = {-1}
        self.twin = Keyspace(Backend.open(str(path), create=True))

    def load(self, client, *, rounds, beside=True):
        """`rounds` of pipelined requests, compactions and defragmentations beside them; False
        once the member is gone."""
        try:
            for _ in range(rounds):
                pending = []
                for _ in range(PIPELINED):
                    self.number += 1
                    pending.append(
                        (self.number, client.txn.future(request(self.number), timeout=5))
                    )
                failure = None
                for number, each in pending:  # all of them: an answer is an answer
                    try:
                        self.answered[number] = each.result().header.revision
                    except grpc.RpcError as error:
                        failure = error
                if failure is not None:
                    raise failure
                if beside:
                    at = max(self.answered.values()) - 20
                    if at > self.compacted and at > 0:
                        self.compactions.add(at)
                        client.compact(rpc.CompactionRequest(revision=at), timeout=5)
                        self.compacted = at
                    client.defragment(rpc.DefragmentRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return True

    def check(self, client):
        """The member has everything that was answered, and nothing that was not asked."""
        every = rpc.RangeRequest(key=b"u", range_end=b"v", serializable=True, keys_only=True)
        found = client.range(every, timeout=10)
        revisions = {int(kv.key[1:]): kv.mod_revision for kv in found.kvs}
        lost = {n: at for n, at in self.answered.items() if revisions.get(n) != at}
        assert not lost, f"answered and not there: {lost}"
        assert all(0 < number <= self.number for number in revisions)
        newest = found.header.revision
        assert sorted(revisions.values()) == list(range(2, newest + 1)), "one revision a request"

        for revision, number in sorted((at, n) for n, at in revisions.items()):
            if revision > self.twin.revision:
                apply_txn(self.twin, None, request(number))
                assert self.twin.revision == revision
        # It took place, and so it must stay.
        self.answered.update(revisions)
        compacted = client.hash_kv(rpc.HashKVRequest(), timeout=10).compact_revision
        assert compacted >= self.compacted and compacted in self.compactions
        if compacted > self.twin.compact_revision:
            compact(self.twin, compacted)
        self.compacted = compacted
        for revision in {newest, max(compacted + 1, 1), (newest + max(compacted, 1) + 1) // 2}:
            answer = client.hash_kv(rpc.HashKVRequest(revision=revision), timeout=10)
            assert answer.hash == hash_kv(self.twin, revision).hash, f"at revision {revision}"


@pytest.fixture
def history(tmp_path):
    made = History(tmp_path / "twin.db")
    yield made
    made.twin.backend.close()


def arm(node, armed):
    """The points for the next start."""
    if node.argv[0] != "/usr/bin/env":
        node.argv[:0] = ["/usr/bin/env", ""]
    node.argv[1] = f"PYETCD_FAILPOINTS={armed}"


def died_of(node):
    """What a panic says last; a line of the log, which a thread writes, may still follow it."""
    return [line for line in node.log.splitlines() if line.startswith("failpoint ")][-1]


def test_one_node_at_every_point(machine, free_ports, wait_until):
    points = [(point, "panic", time) for point, time in ONE_NODE.items()]
    points += points[1:] * max(ROUNDS - 1, 0)
    points += [(point, "error", time) for point, time in DISK_FAILS.items()]
    # Two at a time: most of the time a node is only starting.
    with ThreadPoolExecutor(2) as pool:
        for done in [
            pool.submit(go_through, points[at::2], machine, f"n{at}", free_ports(2), wait_until)
            for at in range(2)
        ]:
            done.result()


def go_through(points, machine, name, ports, wait_until):
    client_url, peer_url = (f"http://127.0.0.1:{port}" for port in ports)
    argv = [
        machine.pyetcd,
        "server",
        f"--data-dir={machine.folder / name}",
        f"--listen-client-urls={client_url}",
        f"--advertise-client-urls={client_url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=default={peer_url}",
        *FLAGS,
    ]
    node = machine.process(argv, name=name, client_port=ports[0])
    history = History(machine.folder / f"{name}.db")
    for point, action, time in points:
        arm(node, f"{point}={action}@{time}")
        node.start()
        if point != "beforeApplyOneConfChange":
            client = Client(node.wait_healthy().endpoint)
            history.check(client)
            wait_until(lambda client=client: not history.load(client, rounds=5), point, REACH_S)
            client.channel.close()
        code, last = node.wait(), node.log.splitlines()[-1]
        if action == "panic":
            assert (code, died_of(node)) == (PANIC_EXIT, f"failpoint {point}: panic")
        else:
            assert code == DISK_EXIT and json.loads(last)["level"] == "fatal", last
            assert json.loads(last)["error"] == f"failpoint {point}", last
    arm(node, "")
    client = Client(node.start().wait_healthy().endpoint)
    history.check(client)
    assert history.load(client, rounds=3)
    history.check(client)
    client.channel.close()
    node.signal(signal.SIGTERM)
    node.wait()
    backend = Backend.open(str(machine.folder / name / "member" / "kv.db"), create=False)
    assert verify(backend.connection) == []
    backend.close()
    history.twin.backend.close()
    assert "Traceback" not in node.log


class Three:
    """Three members, of which those that reach their failpoint are started again without it."""

    def __init__(self, machine, history, wait_until, armed):
        self.nodes = machine.cluster(3, *FLAGS)
        self.history = history
        self.wait_until = wait_until
        self.deaths: list[str] = []
        for node, points in zip(self.nodes, armed, strict=True):
            node.kill()
            arm(node, points)
            node.start()
        self.down = set()

    def revive(self):
        for node in self.nodes:
            if node not in self.down and node.has_ended():
                assert node.wait() == PANIC_EXIT
                self.deaths.append(died_of(node))
                arm(node, "")
                node.start()

    def load(self, rounds=5):
        """Over whichever member answers."""
        for node in self.nodes:
            self.revive()
            if node in self.down:
                continue
            client = Client(node.endpoint)
            try:
                client.range(rpc.RangeRequest(key=b"x"), timeout=1)
                if self.history.load(client, rounds=rounds):
                    return
            except grpc.RpcError:
                pass
            finally:
                client.channel.close()

    def let_fall_behind(self, node):
        """Until what it lacks is in no log any more."""
        client = Client(node.endpoint)
        applied = client.status(rpc.StatusRequest(), timeout=5).raftAppliedIndex
        client.channel.close()
        node.kill()
        self.down.add(node)
        rest = [other for other in self.nodes if other is not node]

        def is_cut():
            self.load()
            return all(
                max(map(int, re.findall(r'"compact-index":(\d+)', other.log)), default=0) > applied
                for other in rest
            )

        self.wait_until(is_cut, "the logs to be cut")

    def settle(self):
        """All three have the same, and what was answered is among it."""

        def is_settled():
            self.revive()
            clients = [Client(node.endpoint) for node in self.nodes]
            try:
                every = [c.status(rpc.StatusRequest(), timeout=1) for c in clients]
                newest = clients[0].range(rpc.RangeRequest(key=b"x"), timeout=1).header.revision
                return all(status.header.revision == newest for status in every)
            except grpc.RpcError:
                return False
            finally:
                for client in clients:
                    client.channel.close()

        self.wait_until(is_settled, "three members with the same revision")
        for node in self.nodes:
            client = Client(node.endpoint)
            self.history.check(client)
            client.channel.close()
            assert "Traceback" not in node.log


def test_all_of_three_die_at_sending(machine, history, wait_until):
    text = "raftBeforeLeaderSend=panic@80;raftBeforeFollowerSend=panic@150"
    three = Three(machine, history, wait_until, [text] * 3)

    def have_died():
        three.load()
        return len(three.deaths) == 3

    wait_until(have_died, "each to have died once")
    three.settle()


def test_a_snapshot_at_every_point(machine, history, wait_until):
    senders = ["snapshotBeforeCopy=panic", "snapshotBeforeSend=panic"]  # the leader is one of them
    three = Three(machine, history, wait_until, [*senders, ""])
    follower = three.nodes[2]
    for node in three.nodes:
        node.wait_healthy()
    three.load()
    three.let_fall_behind(follower)
    for point in (
        SNAPSHOT if ROUNDS else SNAPSHOT[1::2]
    ):  # the file is thrown away and asked for again
        die_at(three, follower, point)
    three.down.clear()
    arm(follower, "")
    follower.start()
    three.settle()
    assert three.deaths, "a leader died, too"
    for point in SNAPSHOT_LOGGED if ROUNDS else SNAPSHOT_LOGGED[3:4]:
        three.let_fall_behind(follower)
        die_at(three, follower, point)
        three.down.clear()
        arm(follower, "")
        follower.start()
        three.settle()


def die_at(three, follower, point):
    arm(follower, f"{point}=panic")
    follower.start()

    def has_died():
        three.revive()  # its leader may die at its own
        return follower.has_ended()

    three.wait_until(has_died, point)
    assert follower.wait() == PANIC_EXIT
    assert died_of(follower) == f"failpoint {point}: panic"

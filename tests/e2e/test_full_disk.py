"""Full disks, for real: a small file system of its own for a member, filled to the last byte.

While it is full, reads, deletes, compactions, defragmentations and lease revokes go on and writes
get etcd's NOSPACE; once there is space again, everything works without a restart. The file system
is a tmpfs, which only root may mount; tests/server/test_space.py and tests/store/test_space.py
show the parts of it everywhere.
"""

import os
import subprocess
import threading

import grpc
import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.store.space import NAME

SIZE_BYTES = 128 << 20
NOSPACE = "etcdserver: mvcc: database space exceeded"
VALUE = bytes(1000)
THREADS = 4

pytestmark = pytest.mark.timeout(120)


def can_mount(folder):
    folder.mkdir()
    try:
        mount(folder)
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False
    subprocess.run(["umount", "-l", folder], check=True)
    return True


def mount(folder):
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


class Client:
    """Calls to one member."""

    def __init__(self, endpoint):
        # A connection of its own: channels to one endpoint would share theirs.
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(endpoint, options)
        kv, lease, maintenance = (
            f"/etcdserverpb.{name}" for name in ("KV", "Lease", "Maintenance")
        )
        self.put = self._unary(f"{kv}/Put", rpc.PutRequest, rpc.PutResponse)
        self.range = self._unary(f"{kv}/Range", rpc.RangeRequest, rpc.RangeResponse)
        self.delete = self._unary(
            f"{kv}/DeleteRange", rpc.DeleteRangeRequest, rpc.DeleteRangeResponse
        )
        self.txn = self._unary(f"{kv}/Txn", rpc.TxnRequest, rpc.TxnResponse)
        self.compact = self._unary(f"{kv}/Compact", rpc.CompactionRequest, rpc.CompactionResponse)
        self.grant = self._unary(
            f"{lease}/LeaseGrant", rpc.LeaseGrantRequest, rpc.LeaseGrantResponse
        )
        self.revoke = self._unary(
            f"{lease}/LeaseRevoke", rpc.LeaseRevokeRequest, rpc.LeaseRevokeResponse
        )
        self.alarm = self._unary(f"{maintenance}/Alarm", rpc.AlarmRequest, rpc.AlarmResponse)
        self.status = self._unary(f"{maintenance}/Status", rpc.StatusRequest, rpc.StatusResponse)
        self.hash_kv = self._unary(f"{maintenance}/HashKV", rpc.HashKVRequest, rpc.HashKVResponse)
        self.defragment = self._unary(
            f"{maintenance}/Defragment", rpc.DefragmentRequest, rpc.DefragmentResponse
        )

    def _unary(self, path, request, response):
        call = self.channel.unary_unary(
            path,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return lambda message, timeout=10: call(message, timeout=timeout, wait_for_ready=True)

    def alarms(self):
        return [found.memberID for found in self.alarm(rpc.AlarmRequest()).alarms]


class Load:
    """Puts from several threads; what was answered and how often it was refused."""

    def __init__(self, endpoint, prefix="k"):
        self.client = Client(endpoint)
        self.answered: set[bytes] = set()
        self.refusals: dict[str, int] = {}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(f"{prefix}{at}",)) for at in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, prefix):
        number = 0
        while not self._stop.is_set():
            number += 1
            key = b"%s-%06d" % (prefix.encode(), number)
            try:
                self.client.put(rpc.PutRequest(key=key, value=VALUE), timeout=5)
                self.answered.add(key)
            except grpc.RpcError as error:
                text = error.details()
                self.refusals[text] = self.refusals.get(text, 0) + 1
                self._stop.wait(0.01)

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()


class SmallDisk:
    """A file system that can be filled and emptied again."""

    def __init__(self, folder):
        self.folder = folder
        self._filler = folder / "filler"
        folder.mkdir(exist_ok=True)
        mount(folder)

    def fill(self):
        """All of it, against those who give something up meanwhile."""
        for _ in range(3):
            with self._filler.open("ab", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(1 << 16))
                except OSError:
                    pass

    def shrink(self, by):
        os.truncate(self._filler, self._filler.stat().st_size - by)

    def empty(self):
        self._filler.unlink()

    def close(self):
        subprocess.run(["umount", "-l", self.folder], check=True)


@pytest.fixture
def small_disk(tmp_path):
    made = []

    def make(name):
        disk = SmallDisk(tmp_path / name)
        made.append(disk)
        return disk

    yield make
    for disk in made:
        disk.close()


@pytest.fixture
def mounts(tmp_path):
    return can_mount(tmp_path / "probe")


def refused(call, message):
    with pytest.raises(grpc.RpcError) as caught:
        call(message)
    return caught.value.code(), caught.value.details()


def check_full(client, member_id, lease_id):
    """What goes on, what does not, and what is said."""
    expected = (grpc.StatusCode.RESOURCE_EXHAUSTED, NOSPACE)
    assert client.alarms() == [member_id]
    assert refused(client.put, rpc.PutRequest(key=b"x", value=b"y")) == expected
    assert refused(client.grant, rpc.LeaseGrantRequest(TTL=60)) == expected
    txn = rpc.TxnRequest()
    txn.success.add().request_put.key = b"x"
    assert refused(client.txn, txn) == expected
    txn = rpc.TxnRequest()
    txn.success.add().request_delete_range.key = b"nothing"
    client.txn(txn)
    every = rpc.RangeRequest(key=b"k", range_end=b"l", keys_only=True, limit=600)
    keys = [kv.key for kv in client.range(every).kvs]
    gone = set(keys[::2])
    for key in gone:
        revision = client.delete(rpc.DeleteRangeRequest(key=key)).header.revision
    if lease_id:
        client.revoke(rpc.LeaseRevokeRequest(ID=lease_id))
        assert not client.range(rpc.RangeRequest(key=b"leased")).kvs
    client.compact(rpc.CompactionRequest(revision=revision, physical=True), timeout=30)
    client.defragment(rpc.DefragmentRequest(), timeout=30)
    assert client.alarms() == [member_id]
    return gone


def check_nothing_lost(client, load, gone):
    every = rpc.RangeRequest(key=b"k", range_end=b"l", keys_only=True)
    found = {kv.key for kv in client.range(every, timeout=30).kvs}
    assert load.answered - gone <= found
    assert not found & gone


def lease(client):
    id = client.grant(rpc.LeaseGrantRequest(TTL=600)).ID
    client.put(rpc.PutRequest(key=b"leased", value=b"1", lease=id))
    return id


@pytest.mark.parametrize("is_killed", [False, True], ids=["running", "killed"])
def test_one_member(machine, small_disk, mounts, wait_until, is_killed):
    if not mounts:
        return  # see above
    disk = small_disk("data")
    node = machine.single("pyetcd", f"--data-dir={disk.folder / 'member'}", name="a")
    client = Client(node.endpoint)
    lease_id = lease(client)
    member_id = client.status(rpc.StatusRequest()).header.member_id
    load = Load(node.endpoint)
    wait_until(lambda: len(load.answered) > 1000, "some load")
    disk.fill()
    wait_until(lambda: NOSPACE in load.refusals, "writes to be refused")
    if is_killed:
        node.kill()
        node.start()
        client = Client(node.endpoint)  # the old one may still write to the connection that broke
    wait_until(lambda: client.alarms() == [member_id], "the alarm")
    gone = check_full(client, member_id, lease_id)
    assert not node.has_ended(), node.log
    before = len(load.answered)
    disk.empty()
    wait_until(lambda: len(load.answered) > before + 100, "writes to go on", 5)
    load.stop()
    wait_until(lambda: client.alarms() == [], "the alarm to be disarmed", 5)
    check_nothing_lost(client, load, gone)
    assert not node.has_ended() and "Traceback" not in node.log
    reserve = disk.folder / "member" / "member" / NAME
    wait_until(lambda: reserve.stat().st_size > 0, "the reserve to be back", 5)
    node.signal(15)
    node.wait()
    assert not reserve.exists()


def test_a_start_without_any_space(machine, small_disk, mounts):
    """Refused with one line; with a little space it starts, as full as the disk is."""
    if not mounts:
        return
    disk = small_disk("data")
    node = machine.single("pyetcd", f"--data-dir={disk.folder / 'member'}", name="a")
    Client(node.endpoint).put(rpc.PutRequest(key=b"k", value=b"1"))
    node.signal(15)
    node.wait()
    disk.fill()
    node.start()
    assert node.wait() == 1
    assert "no space left on the disk; the start needs 2 MiB" in node.log.splitlines()[-1]
    disk.shrink(by=12 << 20)
    node.start()
    client = Client(node.endpoint)
    found = client.range(rpc.RangeRequest(key=b"k"), timeout=30)
    assert found.kvs[0].value == b"1", node.log
    assert refused(client.put, rpc.PutRequest(key=b"x"))[1] == NOSPACE
    client.delete(rpc.DeleteRangeRequest(key=b"k"))
    node.signal(15)  # and once more, full as it is
    node.wait()
    node.start()
    assert not client.range(rpc.RangeRequest(key=b"k"), timeout=30).kvs
    assert not node.has_ended() and "Traceback" not in node.log


@pytest.mark.parametrize("is_leader", [False, True], ids=["follower", "leader"])
def test_one_of_three(machine, small_disk, mounts, wait_until, is_leader):
    if not mounts:
        return
    disks = [small_disk(f"m{at}") for at in range(3)]
    nodes = machine.cluster(3)
    clients = [Client(node.wait_healthy().endpoint) for node in nodes]
    wait_until(
        lambda: clients[0].status(rpc.StatusRequest()).leader != 0,
        "a leader",
    )
    states = [client.status(rpc.StatusRequest()) for client in clients]
    full = next(at for at, s in enumerate(states) if (s.header.member_id == s.leader) == is_leader)
    member_id = states[full].header.member_id
    lease_id = lease(clients[0])
    load = Load(nodes[(full + 1) % 3].endpoint)
    wait_until(lambda: len(load.answered) > 1000, "some load")
    disks[full].fill()
    wait_until(lambda: NOSPACE in load.refusals, "writes to be refused everywhere")
    wait_until(lambda: clients[full].alarms() == [member_id], "the alarm")
    gone = check_full(clients[full], member_id, lease_id)
    before = len(load.answered)
    disks[full].empty()
    wait_until(lambda: len(load.answered) > before + 100, "writes to go on", 5)
    load.stop()
    wait_until(lambda: clients[full].alarms() == [], "the alarm to be disarmed", 5)
    for client in clients:
        check_nothing_lost(client, load, gone)
    revision = clients[0].range(rpc.RangeRequest(key=b"x")).header.revision
    hashes = {
        (found.hash, found.compact_revision)
        for found in (c.hash_kv(rpc.HashKVRequest(revision=revision)) for c in clients)
    }
    assert len(hashes) == 1
    for node in nodes:
        assert not node.has_ended() and "Traceback" not in node.log


def test_an_alarm_of_the_quota_is_left_alone(machine, small_disk, mounts, wait_until):
    """Real etcd as the judge of the refusals; and space on the disk is none in the quota."""
    if not mounts:
        return
    disk = small_disk("data")
    ours = machine.single(
        "pyetcd", f"--data-dir={disk.folder / 'a'}", "--quota-backend-bytes=2000000", name="a"
    )
    real = machine.single("etcd", "--quota-backend-bytes=2000000", name="b")
    texts = []
    for node in (ours, real):
        client = Client(node.endpoint)
        with pytest.raises(grpc.RpcError) as caught:
            for number in range(4000):
                client.put(rpc.PutRequest(key=b"k%d" % number, value=VALUE))
        texts.append((caught.value.code(), caught.value.details()))
        assert len(client.alarms()) == 1
        texts.append(refused(client.grant, rpc.LeaseGrantRequest(TTL=60)))
    assert set(texts) == {(grpc.StatusCode.RESOURCE_EXHAUSTED, NOSPACE)}
    disk.fill()
    wait_until(lambda: "the disk is full" in ours.log, "the full disk to be seen")
    disk.empty()
    wait_until(lambda: "there is space on the disk again" in ours.log, "space to be seen")
    client = Client(ours.endpoint)
    reserve = disk.folder / "a" / "member" / NAME
    wait_until(lambda: reserve.stat().st_size > 0, "the reserve to be back", 5)
    assert len(client.alarms()) == 1
    assert os.path.exists(reserve)
